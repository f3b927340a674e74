"""
Depth from the camera's motion: matching along the epipolar line. Ours, not the paper's.

A single frame guesses depth. Each pixel of it can appear in a past frame only on one line, and
where on that line says how deep it is. So a few hypotheses around the guess are tried::

    guess -> one factor for the whole image -> hypotheses around it -> similarity to each keyframe
          -> volume -> correction of the guess

The answer is the guess times a factor per cell. Where nothing is matched the factor is one, and
the answer is the single frame's. Hypotheses are factors of the guess, so scaling translation and
guess together scales the answer, and nothing else. The one factor is searched first, and far: in
a place unlike those of the training a single frame is wrong by much, but all of it alike.

The plane-sweep volume follows Collins (CVPR 1996). Weighing views by what the geometry of each
says of it follows SimpleRecon (Sayed et al., ECCV 2022), hypotheses around a single-frame depth
follow MaGNet (Bae et al., CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tc_depth_ros.geometry.intrinsics import resize_intrinsics
from tc_depth_ros.geometry.reprojection import MIN_PROJECTED_Z, pixel_rays
from tc_depth_ros.network.config import MatchingConfig
from tc_depth_ros.network.layers import ConvELU

STRIDE = 4  # image pixels per cell of the volume
VIEW_FACTS = 5  # numbers per cell that say what a view is worth; see _view_facts
SHARPNESS = 10.0  # of the similarity, before anything is learned: it lies in [-1, 1]
# The one factor is searched on every second row and column of cells
SEARCH_STEP = 2
MAX_SEARCH_FACTOR, SEARCHED = 6.0, 17
# A factor of two must be better by this similarity than the guess as it is, a factor of four by
# four times as much
SEARCH_RELUCTANCE = 0.004


SUPPORT = 3  # rows and columns of cells that are compared together
SPREAD = 13  # and over which corrections are averaged
LEAST_SURE = 1e-3


class MatchView(NamedTuple):
    """A past frame to match with."""

    features: Tensor  # unit length, (B, C, h, w) at 1/4
    past_T_target: Tensor  # (B, 4, 4), in the unit of the guess


@dataclass(frozen=True)
class Match:
    """What matching says of the target's cells."""

    log_factor: Tensor  # of depth, to be added to ln of the guess, (B, 1, h, w)
    trust: Tensor  # in [0, 1], 0 = the guess stays, (B, 1, h, w)
    # Standard deviation of ln depth by the hypotheses' probabilities: small = a sharp match
    deviation: Tensor  # (B, 1, h, w)


class Sweep(NamedTuple):
    """What a view shows of each cell at each hypothesis."""

    similarity: Tensor  # in [-1, 1], 0 out of view, (B, D, h, w)
    pixels: Tensor  # (u, v) in cells of the view, (B, 2, D, h, w)
    in_view: Tensor  # bool, (B, D, h, w)


class MatchingFeatures(nn.Module):
    """What is compared between frames: unit vectors at 1/4, out of the encoder's skips."""

    def __init__(self, skip_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        half, quarter, eighth = skip_channels
        self.from_half = nn.Conv2d(half, channels, 3, stride=2, padding=1)
        self.from_quarter = nn.Conv2d(quarter, channels, 1)
        self.from_eighth = nn.Conv2d(eighth, channels, 1)
        self.hidden = ConvELU(channels, channels)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """:param skips: at 1/2, 1/4, 1/8; returns (B, C, H/4, W/4)."""
        half, quarter, eighth = skips
        x = self.from_half(half) + self.from_quarter(quarter)
        x = x + _resized(self.from_eighth(eighth), quarter)
        return F.normalize(self.out(self.hidden(F.elu(x))).float(), dim=1)


class Matcher(nn.Module):
    """From a guess and keyframes to a correction of the guess."""

    log_ratios: Tensor
    searched: Tensor

    def __init__(self, config: MatchingConfig, skip_channels: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.features = MatchingFeatures(skip_channels, config.channels)
        limit = math.log(config.max_factor)
        # Of inverse depth, from far to near; the middle is the guess
        ratios = torch.linspace(-limit, limit, config.hypotheses)
        self.register_buffer('log_ratios', ratios, persistent=False)
        limit = math.log(MAX_SEARCH_FACTOR)
        searched = torch.linspace(-limit, limit, SEARCHED)
        self.register_buffer('searched', searched, persistent=False)
        self.view_weight = nn.Sequential(nn.Conv2d(VIEW_FACTS, 8, 1), nn.ELU(), nn.Conv2d(8, 1, 1))
        self.sharpness = nn.Parameter(torch.tensor([SHARPNESS]))
        inputs = config.hypotheses + VIEW_FACTS + 2 + skip_channels[1]
        self.regularise = _UNet(inputs, config.hidden)
        self.logits = nn.Conv2d(config.hidden, config.hypotheses, 1)
        self.trust = nn.Conv2d(config.hidden, 1, 1)
        self.sure = nn.Conv2d(config.hidden, 1, 1)
        self.own = nn.Conv2d(config.hidden, 1, 1)
        for layer in (self.logits, self.trust, self.sure, self.own):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # they have one

    def forward(
        self,
        features: Tensor,
        guess: Tensor,
        context: Tensor,
        views: Sequence[MatchView],
        K: Tensor,
        present: Tensor | None = None,
    ) -> Match:
        """
        Match the target with views of the past.

        :param features: the target's own, (B, C, h, w)
        :param guess: inverse depth by the single frame, detached here, (B, 1, H, W)
        :param context: the encoder's skip at 1/4, (B, C4, h, w)
        :param views: one or more
        :param K: intrinsics in pixels of H x W, (B, 3, 3)
        :param present: which of the views are there, a boolean each, (V,), where only a tensor
            can tell (an exported graph has no lists); None: all. Where none is, what is answered
            is finite, and means nothing
        """
        coarse = F.avg_pool2d(guess.detach().float(), STRIDE)
        cell_K = resize_intrinsics(K.float(), 1 / STRIDE, 1 / STRIDE)
        with torch.autocast(features.device.type, enabled=False):
            height, width = coarse.shape[-2:]
            rays = pixel_rays(height, width, cell_K)
            common = self.search(features, rays, coarse, views, cell_K, present)
            hypotheses = coarse * (common + self.log_ratios[:, None, None]).exp()
            sweeps = [sweep(features, rays, view, hypotheses, cell_K) for view in views]
            all_facts = [
                _view_facts(one, features, view) for one, view in zip(sweeps, views, strict=True)
            ]
        volume, facts = self._aggregate(sweeps, all_facts, present)
        volume = _mean_around(volume, SUPPORT)
        relief = coarse.log() - coarse.log().mean(dim=(2, 3), keepdim=True)
        seen = torch.cat([volume, facts, relief, common.expand_as(relief), context], dim=1)
        hidden = self.regularise(seen)
        probability = (self.sharpness * volume + self.logits(hidden)).float().softmax(dim=1)
        ratios = self.log_ratios[:, None, None]
        expected = (probability * ratios).sum(dim=1, keepdim=True)
        deviation = (probability * (ratios - expected) ** 2).sum(dim=1, keepdim=True).sqrt()
        trust = self.trust(hidden).float().sigmoid()
        return Match(-trust * (common + self._spread(expected, hidden)), trust, deviation)

    def _spread(self, expected: Tensor, hidden: Tensor) -> Tensor:
        """
        Let cells that show nothing follow those around them that are sure.

        The single frame errs smoothly, so its correction is smooth too; fine detail stays its own.
        """
        sure = self.sure(hidden).float().sigmoid() + LEAST_SURE
        around = _mean_around(sure * expected, SPREAD) / _mean_around(sure, SPREAD)
        own = self.own(hidden).float().sigmoid()
        spread: Tensor = own * expected + (1 - own) * around
        return spread

    @torch.no_grad()
    def search(
        self,
        features: Tensor,
        rays: Tensor,
        coarse: Tensor,
        views: Sequence[MatchView],
        K: Tensor,
        present: Tensor | None = None,
    ) -> Tensor:
        """
        Find the one factor of the guess that makes the views fit best over the whole image.

        :param present: which of the views are there, (V,); None: all
        :return: its logarithm, of inverse depth, (B, 1, 1, 1); 0 unless another is clearly better,
            and the best lies between those tried: a wrong motion fits best at one of the ends
        """

        def thinned(x: Tensor) -> Tensor:
            return x[..., ::SEARCH_STEP, ::SEARCH_STEP]

        hypotheses = thinned(coarse) * self.searched.exp()[:, None, None]
        few, few_rays = thinned(features), thinned(rays)
        sweeps = [sweep(few, few_rays, view, hypotheses, K) for view in views]
        fits = torch.stack([one.similarity.mean(dim=(2, 3)) for one in sweeps])
        fit = _mean_of_present(fits, present)  # (B, SEARCHED)
        fit = fit - SEARCH_RELUCTANCE * (self.searched / math.log(2)) ** 2
        # Tensors only: reading a number makes the CPU wait for the GPU, and ONNX cannot hold it
        step = self.searched[1] - self.searched[0]
        peak = self.searched[0] + step * _peak(fit)
        best = fit.argmax(dim=1)
        is_between = (best > 0) & (best < fit.shape[1] - 1)
        return torch.where(is_between, peak, 0.0)[:, None, None, None]

    def _aggregate(
        self, sweeps: Sequence[Sweep], all_facts: Sequence[Tensor], present: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean over the views, weighed in each cell by what is known of them there."""
        worths = torch.stack([self.view_weight(facts) for facts in all_facts])  # (V, B, 1, h, w)
        if present is not None:
            absent = ~present[:, None, None, None, None]
            # Not to -inf: the softmax of nothing but that is NaN
            worths = worths.masked_fill(absent, torch.finfo(worths.dtype).min)
        weights = worths.softmax(dim=0)
        similarities = torch.stack([one.similarity for one in sweeps])
        volume = (weights * similarities).sum(dim=0)
        return volume, (weights * torch.stack(list(all_facts))).sum(dim=0)


def correct(guess: Tensor, match: Match) -> Tensor:
    """Inverse depth (B, 1, H, W) by a guess of the same shape and its match at 1/4."""
    return guess * torch.exp(-_resized(match.log_factor, guess))


def sweep(features: Tensor, rays: Tensor, view: MatchView, hypotheses: Tensor, K: Tensor) -> Sweep:
    """
    Compare cells of the target with what a view shows along each one's epipolar line.

    A point of inverse depth q on the ray r appears at ``K (R r + q t)``, up to its own z: a line
    in q, so that nothing is backprojected.

    :param features: of the cells, unit length, (B, C, h, w); any cells, for each knows its ray
    :param rays: of the cells, with z = 1, (B, 3, h, w)
    :param hypotheses: inverse depths, (B, D, h, w)
    :param K: intrinsics in cells of the view, (B, 3, 3)
    """
    height, width = view.features.shape[-2:]
    rotation, translation = view.past_T_target[:, :3, :3], view.past_T_target[:, :3, 3:]
    at_infinity = (K @ rotation @ rays.flatten(2)).unflatten(2, (1, *rays.shape[-2:]))
    step = (K @ translation)[..., None, None]  # per unit of inverse depth, (B, 3, 1, 1, 1)
    points = at_infinity + step * hypotheses[:, None]  # (B, 3, D, h, w)
    z = points[:, 2]
    pixels = points[:, :2] / z.clamp(min=MIN_PROJECTED_Z)[:, None]
    u, v = pixels.unbind(1)
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1) & (z > MIN_PROJECTED_Z)
    extent = pixels.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = 2 * pixels.permute(0, 2, 3, 4, 1) / extent - 1  # (B, D, h, w, 2)
    sampled = F.grid_sample(view.features, grid.flatten(1, 2), align_corners=True)
    sampled = sampled.unflatten(2, hypotheses.shape[1:3])  # (B, C, D, h, w)
    similarity = (sampled * features[:, :, None]).sum(dim=1) * inside
    return Sweep(similarity, pixels, inside)


def _view_facts(swept: Sweep, features: Tensor, view: MatchView) -> Tensor:
    """
    Numbers that tell what a view is worth in each cell, (B, VIEW_FACTS, h, w).

    The parallax between the farthest and the nearest hypothesis, in cells; how many of them are
    in view; how well the best and the middle one fit; and how well the view fits if nothing moved.
    """
    similarity, pixels, inside = swept
    parallax = torch.linalg.vector_norm(
        (pixels[:, :, -1] - pixels[:, :, 0]).clamp(-1e4, 1e4), dim=1
    )
    middle = similarity.shape[1] // 2
    facts = [
        torch.log1p(parallax),
        inside.to(similarity.dtype).mean(dim=1),
        similarity.amax(dim=1),
        similarity[:, middle],
        (view.features * features).sum(dim=1),
    ]
    return torch.stack(facts, dim=1)


def _mean_of_present(x: Tensor, present: Tensor | None) -> Tensor:
    """Mean over the views that are there, (V, B, D) -> (B, D); 0 where none is."""
    if present is None:
        return x.mean(dim=0)
    there = present.to(x.dtype)[:, None, None]
    return (x * there).sum(dim=0) / there.sum().clamp(min=1)


class _UNet(nn.Module):
    """Look at the volume from 1/4, 1/8, 1/16 and the whole image."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        c4, c8, c16 = channels, channels + channels // 2, 2 * channels
        self.in4 = ConvELU(inputs, c4)
        self.down8 = nn.Sequential(nn.Conv2d(c4, c8, 3, stride=2, padding=1), nn.ELU())
        self.down16 = nn.Sequential(nn.Conv2d(c8, c16, 3, stride=2, padding=1), nn.ELU())
        self.whole = nn.Conv2d(c16, c16, 1)
        self.mix16 = ConvELU(c16, c16)
        self.up8 = ConvELU(c16 + c8, c8)
        self.up4 = ConvELU(c8 + c4, c4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, channels, h, w)."""
        x4 = self.in4(x)
        x8 = self.down8(x4)
        x16 = self.down16(x8)
        x16 = self.mix16(x16 + self.whole(x16.mean(dim=(2, 3), keepdim=True)))
        x8 = self.up8(torch.cat([_resized(x16, x8), x8], dim=1))
        return self.up4(torch.cat([_resized(x8, x4), x4], dim=1))  # type: ignore[no-any-return]


def _peak(values: Tensor) -> Tensor:
    """
    Where values (B, N) are largest, between 0 and N - 1, (B,).

    The top of the parabola through the largest and its neighbours: an answer that changes
    smoothly, so that the depth of a stream does not jump by a step of the search.
    """
    best = values.argmax(dim=1, keepdim=True).clamp(1, values.shape[1] - 2)
    before, top, after = (values.gather(1, best + i)[:, 0] for i in (-1, 0, 1))
    bend = (before - 2 * top + after).clamp(max=-1e-9)
    return best[:, 0] + (0.5 * (before - after) / bend).clamp(-1, 1)


def _mean_around(x: Tensor, cells: int) -> Tensor:
    """Mean over a square of cells around each, within the image."""
    return F.avg_pool2d(x, cells, stride=1, padding=cells // 2, count_include_pad=False)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode='bilinear', align_corners=False)
