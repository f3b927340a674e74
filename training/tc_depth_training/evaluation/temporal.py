"""
How steady depth is over time: TCM, TAE and OPW.

TCM (Ruhkamp et al., 3DV 2021; SPEC 4) compares, with the truth at hand, how far two frames'
predictions of a surface point lie apart. TAE (Chen et al., Video Depth Anything, CVPR 2025)
carries one frame's depth into the next with the camera's motion. OPW (Wang et al., NVDS, ICCV
2023) does so with optical flow, and needs nothing but the images. docs/paper.md says where these
differ from their authors'.

Depth maps are (H, W) tensors with NaN where nothing is known, which every step hands on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.geometry.reprojection import (
    in_view,
    pixel_grid,
    pixel_rays,
    project,
    sample,
    transform_points,
)

TCM_RANGE_M = (1e-3, 50.0)
TCM_STATIC_M = 0.3  # a point whose truth moves farther than this is occluded, or moves
TCM_KEPT = 0.8  # share of the pixels, those of the lowest error
MAX_FLOW_DISAGREEMENT_PX = 1.0  # forth and back again; more is an occlusion, or a wrong flow


@dataclass(frozen=True)
class Camera:
    """Intrinsics with what follows from them; K alone would cost its rays at every use."""

    K: Tensor  # (1, 3, 3), in pixels of H x W
    rays: Tensor  # (1, 3, H, W), z = 1
    ray_length: Tensor  # |K^-1 p|, (H, W)

    @classmethod
    def build(cls, K: NDArray[np.float64], size: tuple[int, int]) -> Camera:
        """Build from K (3, 3) in pixels of a (height, width) image."""
        tensor = torch.from_numpy(K)[None].float()
        rays = pixel_rays(*size, tensor)
        return cls(tensor, rays, rays[0].square().sum(dim=0).sqrt())

    def at(self, mask: NDArray[np.bool_]) -> Camera:
        """Of some pixels only, as one row; ``mask`` is (H, W)."""
        place = torch.from_numpy(np.flatnonzero(mask))
        rays = self.rays.view(3, -1).index_select(1, place)
        ray_length = self.ray_length.view(1, -1).index_select(1, place)
        return Camera(self.K, rays.view(1, 3, 1, -1), ray_length)


class TrueMotion(NamedTuple):
    """How the surfaces that a target frame sees truly move to a neighbour."""

    pixels: Tensor  # where they appear there, (1, 2, H, W)
    seen: Tensor  # bool, (H, W); False outside the neighbour's view, or without truth
    slope: Tensor  # z there = slope * z here + shift, (H, W)
    shift: Tensor
    track: Tensor  # |z' - z''| |K^-1 p| of the truth in m, (H, W)


class TCMErrors(NamedTuple):
    """Temporal consistency of one pair of frames."""

    absolute: float  # m
    squared: float  # m^2

    @property
    def rmse(self) -> float:
        """In m."""
        return float(self.squared**0.5)


def true_motion(
    truth: Tensor, neighbour_truth: Tensor, neighbour_T_target: Tensor, camera: Camera
) -> TrueMotion:
    """
    Follow the truth to a neighbour: the flow of SPEC 4, here from depth and pose.

    :param truth: of the target, z in m, (H, W); or of some of its pixels, (1, N)
    :param neighbour_truth: (H, W)
    :param neighbour_T_target: (4, 4)
    :param camera: of the target's pixels
    """
    rows, columns = neighbour_truth.shape
    points = transform_points(neighbour_T_target[None], truth * camera.rays)
    pixels, z = project(points, camera.K), points[:, 2:]
    seen = in_view(pixels, z, rows, columns)[0, 0] > 0
    slope = torch.einsum('i,ihw->hw', neighbour_T_target[2, :3], camera.rays[0])
    inside = torch.where(seen, pixels, torch.zeros_like(pixels))
    motion = TrueMotion(inside, seen, slope, neighbour_T_target[2, 3], truth)
    return motion._replace(track=_track(motion, truth, neighbour_truth, camera))


def tcm_errors(
    truth: Tensor,
    motions: Sequence[TrueMotion],
    prediction: Tensor,
    neighbour_predictions: Sequence[Tensor],
    camera: Camera,
) -> list[TCMErrors]:
    """
    Temporal consistency metric; SPEC 4.

    ``track = |z' - z''| |K^-1 p|``: the distance between a point of the target, carried to the
    neighbour, and what the neighbour has there; compared between truth and prediction, both on the
    truth's flow. One factor, from the target, scales both frames.

    :param truth: of the target, z in m, (H, W); or of some of its pixels, (1, N)
    :param motions: to its neighbours; each narrows the pixels observed for those after it
    :param prediction: of the target's pixels, in any unit
    :param neighbour_predictions: in the same unit, each (H, W)
    :param camera: of the target's pixels
    :return: of the pairs that have pixels in common
    """
    true, predicted = truth.numpy(), prediction.numpy()
    # NumPy finds, chooses and ranks pixels many times as fast as torch does on a CPU
    observed = (true > TCM_RANGE_M[0]) & (true < TCM_RANGE_M[1]) & np.isfinite(predicted)
    if not observed.any():
        return []
    alpha = float(_median(true[observed]) / _median(predicted[observed]))
    scaled = (alpha * prediction).clamp_(*TCM_RANGE_M)
    found = []
    for motion, neighbour in zip(motions, neighbour_predictions, strict=True):
        track = _track(motion, scaled, (alpha * neighbour).clamp_(*TCM_RANGE_M), camera).numpy()
        true_track = motion.track.numpy()
        observed = observed & (true_track < TCM_STATIC_M) & np.isfinite(track)
        errors = np.abs(true_track[observed] - track[observed])
        if errors.size:
            kept = max(1, int(TCM_KEPT * errors.size))
            best = np.partition(errors, kept - 1)[:kept].astype(np.float64)
            found.append(TCMErrors(float(best.mean()), float((best**2).mean())))
    return found


def temporal_alignment_error(a: Tensor, b: Tensor, b_T_a: Tensor, camera: Camera) -> float:
    """
    TAE of two frames: mean relative error of each one's depth carried into the other.

    :param a: depth in the unit of the motion, (H, W)
    :param b: the same of the other frame
    :param b_T_a: (4, 4)
    :return: a share, not percent; NaN where the frames have nothing in common
    """
    there = _relative_error(_carried(a, b_T_a, camera), b)
    back = _relative_error(_carried(b, torch.linalg.inv(b_T_a), camera), a)
    return 0.5 * (there + back)


class Flow(NamedTuple):
    """Optical flow between two frames, and where it can be trusted."""

    pixels: Tensor  # where a's pixels are in b, (1, 2, H, W)
    trusted: Tensor  # bool, (H, W)


def optical_flow(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Flow:
    """
    Flow from a to b by DIS, trusted where the flow back returns to the pixel.

    :param a: RGB, (H, W, 3)
    :param b: the same of the next frame
    """
    grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth, back = (
        torch.from_numpy(method.calc(first, second, None)).permute(2, 0, 1)[None]  # type: ignore[call-overload]
        for first, second in (grey, grey[::-1])
    )
    rows, columns = grey[0].shape
    pixels = pixel_grid(rows, columns, forth)[None, :2] + forth
    missed = torch.hypot(*(forth + sample(back, pixels))[0])
    inside = in_view(pixels, torch.ones(1, 1, rows, columns), rows, columns)[0, 0] > 0
    return Flow(pixels, inside & (missed < MAX_FLOW_DISAGREEMENT_PX))


def flow_warp_error(a: Tensor, b: Tensor, flow: Flow) -> float:
    """
    OPW of two frames: mean relative difference of a's depth to b's where the flow leads.

    :param a: depth in any unit, (H, W)
    :param b: the same of the next frame, in the same unit
    :return: a share, not percent; NaN where no flow can be trusted
    """
    led_to = sample(b[None, None], flow.pixels)[0, 0]
    return _relative_error(torch.where(flow.trusted, led_to, torch.nan), a)


def fill_gaps(depth: NDArray[np.float32], radius_px: float) -> NDArray[np.float32]:
    """Give each pixel without depth that of the nearest one with, if within the radius; (H, W)."""
    empty = np.isnan(depth)
    if empty.all():
        return depth
    distance, label = cv2.distanceTransformWithLabels(
        empty.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.full(label.max() + 1, np.nan, dtype=np.float32)
    by_label[label[~empty]] = depth[~empty]
    return np.asarray(np.where(distance <= radius_px, by_label[label], np.float32(np.nan)))


def _track(motion: TrueMotion, target: Tensor, neighbour: Tensor, camera: Camera) -> Tensor:
    """Distance in m of what two frames' depths say of a surface point, (H, W)."""
    track = (motion.slope * target).add_(motion.shift)
    track -= sample(neighbour[None, None], motion.pixels)[0, 0]
    track.abs_().mul_(camera.ray_length)
    return track.masked_fill_(~motion.seen, torch.nan)


def _carried(depth: Tensor, motion: Tensor, camera: Camera) -> Tensor:
    """Depth as seen after a motion: every point to its nearest pixel, the nearest point wins."""
    rows, columns = depth.shape
    points = transform_points(motion[None], depth * camera.rays)
    z = points[0, 2].numpy()
    u, v = project(points, camera.K)[0].round_().numpy()
    seen = (u >= 0) & (u < columns) & (v >= 0) & (v < rows) & (z > 0)
    place = (v * columns + u)[seen].astype(np.intp)
    carried = np.full(rows * columns, np.inf, dtype=np.float32)
    np.minimum.at(carried, place, z[seen])
    carried[np.isinf(carried)] = np.nan
    return torch.from_numpy(carried.reshape(rows, columns))


def _relative_error(prediction: Tensor, reference: Tensor) -> float:
    error = (prediction - reference).abs_().div_(reference).numpy()
    known = error[np.isfinite(error)]
    return float(known.mean(dtype=np.float64)) if known.size else math.nan


def _median(values: NDArray[np.float32]) -> np.float32:
    """Of at least one value; of an even number the lower of the middle two."""
    middle = (values.size - 1) // 2
    value: np.float32 = np.partition(values, middle)[middle]
    return value
