"""Scale out of the height at which the camera is mounted: fit the ground, compare its distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tc_depth_ros.scale.observation import Attempt, ObservedFrame
from tc_depth_ros.settings import setting

MAX_POINTS = 2000
HYPOTHESES = 150  # ground on half of the points is then met by nineteen, on 3 of 10 by four
REFINEMENTS = 10
MAX_SHARE_BELOW = 0.1  # of the points: what has much below it is a table
DOWN = np.array([0.0, 1.0, 0.0])  # of an optical frame that looks ahead


@dataclass(frozen=True)
class CameraHeightConfig:
    """What counts as ground."""

    camera_height_m: float = setting(
        0.0, 'height of the camera above the ground, m; source camera_height needs it', 0.0, 1000.0
    )
    max_tilt_deg: float = setting(
        20.0, "between the ground's normal and the camera's up direction, degrees", 0.1, 90.0
    )
    ground_tolerance: float = setting(
        0.05, 'a point lies on the ground if its depth fits to this part of it', 0.001, 1.0
    )
    min_ground_share: float = setting(
        0.5,
        'of the points in the lower half of the image that must lie on the ground; with less '
        'floor before a wall the height comes out a few percent too large',
        0.01,
        1.0,
    )

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep."""
        if not self.camera_height_m >= 0:
            raise ValueError(
                f'scale.camera_height_m is {self.camera_height_m}; it must not be negative'
            )
        for name in ('max_tilt_deg', 'ground_tolerance', 'min_ground_share'):
            if not getattr(self, name) > 0:
                raise ValueError(f'scale.{name} is {getattr(self, name)}; it must be positive')


def ground_height(frame: ObservedFrame, config: CameraHeightConfig) -> float | None:
    """
    Distance of the camera from the ground, in the depth's own unit.

    A plane ``n . p = h`` is ``m . p = 1`` with ``m = n / h``, and the residual ``m . p - 1`` is
    the relative error of a point's depth: equally large near and far. RANSAC over m, then
    reweighted least squares. The same frame gives the same answer.

    :return: None where no plane that could be the ground fills enough of the lower half
    """
    points = lower_points(frame)
    if len(points) < 3:
        return None
    m = _best_plane(points, config)
    if m is None:
        return None
    m = _refined(points, m, config)
    if not (_is_upright(m[None], config)[0] and _is_ground(points, m, config)):
        return None
    return float(1 / np.linalg.norm(m))


def lower_points(frame: ObservedFrame) -> NDArray[np.float64]:
    """Points of a regular grid on the lower half of the image, about MAX_POINTS; (N, 3)."""
    height, width = frame.depth.shape
    top = height // 2
    stride = max(1, int(np.ceil(np.sqrt((height - top) * width / MAX_POINTS))))
    # Thin out first: the depth may lie on a GPU
    z = torch.as_tensor(frame.depth)[top::stride, ::stride].cpu().numpy().astype(np.float64)
    v, u = np.mgrid[top:height:stride, 0:width:stride]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(frame.K).T
    seen = np.isfinite(z) & (z > 0)
    return np.asarray(rays[seen] * z[seen, None])


def _weights(error: NDArray[np.float64], config: CameraHeightConfig) -> NDArray[np.float64]:
    """Tukey's biweight: 1 on the plane, 0 from the tolerance on."""
    return np.asarray(np.clip(1 - (error / config.ground_tolerance) ** 2, 0, None) ** 2)


def _best_plane(
    points: NDArray[np.float64], config: CameraHeightConfig
) -> NDArray[np.float64] | None:
    """
    The plane m through three of the points, upright, that most of them lie on; (3,).

    Weights, not a count: else a plane that is tilted to take in the foot of a wall would win.
    """
    corners = np.random.default_rng(0).integers(len(points), size=(3, HYPOTHESES))
    a, b, c = points[corners]
    with np.errstate(divide='ignore', invalid='ignore'):  # three points in line give no plane
        normals = np.cross(a, b) + np.cross(b, c) + np.cross(c, a)
        planes = normals / np.sum(a * np.cross(b, c), axis=-1, keepdims=True)
        planes = planes[_is_upright(planes, config)]
    if len(planes) == 0:
        return None
    support = _weights(points @ planes.T - 1, config).sum(axis=0)
    return np.asarray(planes[np.argmax(support)])


def _refined(
    points: NDArray[np.float64], m: NDArray[np.float64], config: CameraHeightConfig
) -> NDArray[np.float64]:
    """Reweighted least squares, from m on; (3,)."""
    for _ in range(REFINEMENTS):
        weighted = points * _weights(points @ m - 1, config)[:, None]
        m = np.linalg.lstsq(weighted.T @ points, weighted.sum(axis=0), rcond=None)[0]
    return m


def _on_plane(
    points: NDArray[np.float64], m: NDArray[np.float64], config: CameraHeightConfig
) -> NDArray[np.bool_]:
    return np.asarray(np.abs(points @ m - 1) < config.ground_tolerance)


def _is_ground(
    points: NDArray[np.float64], m: NDArray[np.float64], config: CameraHeightConfig
) -> bool:
    """Whether a plane is large, and has next to nothing below it, as a table would."""
    share = _on_plane(points, m, config).mean()
    share_below = (points @ m - 1 > 2 * config.ground_tolerance).mean()
    return bool(share >= config.min_ground_share and share_below <= MAX_SHARE_BELOW)


def _is_upright(planes: NDArray[np.float64], config: CameraHeightConfig) -> NDArray[np.bool_]:
    """Whether planes m lie below the camera and their normals near its vertical; (N, 3)."""
    cosine = planes @ DOWN / np.linalg.norm(planes, axis=-1)
    return np.asarray(cosine >= np.cos(np.deg2rad(config.max_tilt_deg)))


class CameraHeightScale:
    """A ratio per frame in which the ground is seen, standing or moving."""

    def __init__(self, config: CameraHeightConfig) -> None:
        self._config = config
        self._last_ns: int | None = None

    def reset(self) -> None:
        """Forget the frame before."""
        self._last_ns = None

    def observe(self, frame: ObservedFrame) -> list[Attempt]:
        """Fit the ground of a frame; a ratio is due at every frame."""
        last_ns, self._last_ns = self._last_ns, frame.stamp_ns
        due_s = 0.0 if last_ns is None else (frame.stamp_ns - last_ns) * 1e-9
        height = ground_height(frame, self._config)
        if height is None:
            return [Attempt(None, due_s, 'no ground in the lower half of the image')]
        return [Attempt(self._config.camera_height_m / height, due_s)]
