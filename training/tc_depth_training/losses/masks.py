"""Which pixels a loss may use; 1 = used, always detached."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tc_depth_ros.geometry.reprojection import warp
from tc_depth_training.losses.photometric import photometric_error

CYCLE_KEPT = 0.7  # share of the pixels that the cycle mask keeps
# A photometric error is 1 at most: a pixel of this error loses every minimum over the sources, and
# against the identity error
LEFT_OUT_ERROR = 2.0
TIE_BREAK = 1e-5  # of photometric error


@torch.no_grad()
def readable(usable: Tensor, target_depth: Tensor, K: Tensor, source_T_target: Tensor) -> Tensor:
    """
    Keep the pixels that are usable in the target, and read nothing unusable in the source.

    :param usable: of both images, 1 = usable, (B, 1, H, W)
    :return: 1 = readable, (B, 1, H, W)
    """
    # A lookup between pixels reads several; rounding must not cost those that are all usable
    return usable * (warp(usable, target_depth, K, source_T_target) > 0.999)


def inner(mask: Tensor) -> Tensor:
    """Keep the pixels whose 3x3 neighbours are kept too: SSIM looks at them; (B, 1, H, W)."""
    return -F.max_pool2d(-mask, 3, stride=1, padding=1)


@lru_cache(maxsize=16)
def tie_break(height: int, width: int, device: torch.device) -> Tensor:
    """
    Noise that decides between warping and not warping where neither is better, (1, 1, H, W).

    Ties of a static pair must not all fall to one side. Each pixel has its own, the same in every
    window, step, process and run: a loss does not depend on what was computed before it.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, height, width, dtype=torch.float32, generator=generator)
    return TIE_BREAK * noise.to(device)


def auto_mask(reprojection_error: Tensor, identity_error: Tensor) -> Tensor:
    """
    Keep the pixels where warping beats not warping: neither static nor moving along; SPEC 2(a).

    :param reprojection_error: minimum over the warped sources, (B, 1, H, W)
    :param identity_error: minimum over the sources as they are, (B, 1, H, W)
    :return: 1 = used, (B, 1, H, W)
    """
    return (reprojection_error < identity_error).to(reprojection_error.dtype).detach()


@torch.no_grad()
def cycle_error(
    target: Tensor,
    target_depth: Tensor,
    source_depth: Tensor,
    K: Tensor,
    source_T_target: Tensor,
    target_T_source: Tensor,
) -> Tensor:
    """
    Error of the target's image carried to the source's view and back; ``E_s`` of SPEC 2(c).

    :param target: RGB in [0, 1], (B, 3, H, W)
    :param target_depth: (B, 1, H, W)
    :param source_depth: the source's own depth, (B, 1, H, W)
    :return: (B, 1, H, W)
    """
    seen_from_source = warp(target, source_depth, K, target_T_source)
    # Zeros outside make the error large where the source does not see the pixel
    back = warp(seen_from_source, target_depth, K, source_T_target, padding='zeros')
    return photometric_error(back, target)


@torch.no_grad()
def cycle_mask(
    error: Tensor,
    kept: float = CYCLE_KEPT,
    per_image: bool = True,
    usable: Tensor | None = None,
) -> Tensor:
    """
    Keep the given share of the usable pixels, those of the lowest cycle error; SPEC 2(c).

    :param error: from :func:`cycle_error`, (B, 1, H, W)
    :param per_image: rank within each image (ours), or over the whole batch (the paper's code);
        that is the batch of one process, so that two processes do not equal one
    :param usable: 1 = usable, (B, 1, H, W); None: all
    :return: 1 = used, (B, 1, H, W)
    """
    count = len(error) if per_image else 1
    ranked = error.reshape(count, -1)
    if usable is None:
        # kthvalue rather than quantile, which refuses more than 16 million values
        threshold = ranked.kthvalue(max(1, round(kept * ranked.shape[1])), dim=1).values
        return (error <= threshold.view(-1, 1, 1, 1)).to(error.dtype)
    ranked = ranked.masked_fill(usable.reshape(count, -1) == 0, torch.inf).sort(dim=1).values
    rank = (kept * usable.reshape(count, -1).sum(dim=1, keepdim=True)).round().long()
    threshold = ranked.gather(1, (rank - 1).clamp(min=0))
    return (error <= threshold.view(-1, 1, 1, 1)).to(error.dtype) * usable
