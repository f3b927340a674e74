"""Pictures for people: depth in colours, a contact sheet, a view of a cloud; and PLY files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

RGBImage = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class DepthRange:
    """Which depths the ends of the colour map stand for, in m."""

    near: float
    far: float


class DepthRangeFollower:
    """Follows the depths of a stream slowly: colours must not flicker where depth does not."""

    def __init__(self, share: float = 0.1) -> None:
        self._share = share  # of a new frame in the range
        self._inverse: NDArray[np.float64] | None = None

    def update(self, depth: NDArray[np.float32]) -> DepthRange:
        """Take a frame's depth (H, W) into account."""
        new = _inverse_depth_ends(depth)
        if new is not None:
            old = new if self._inverse is None else self._inverse
            self._inverse = (1 - self._share) * old + self._share * new
        if self._inverse is None:
            return DepthRange(0.1, 100.0)
        far, near = self._inverse
        return DepthRange(1 / near, 1 / far)


def depth_range(depth: NDArray[np.float32]) -> DepthRange:
    """Range of one depth image (H, W) without its outliers."""
    return DepthRangeFollower().update(depth)


def _inverse_depth_ends(depth: NDArray[np.float32]) -> NDArray[np.float64] | None:
    # Every fourth row and column is plenty for percentiles
    some = depth[::4, ::4]
    valid = some[np.isfinite(some) & (some > 0)]
    return np.percentile(1 / valid, (2, 98)) if valid.size else None


def colour_depth(depth: NDArray[np.float32], ends: DepthRange) -> RGBImage:
    """
    Show depth in colours, linear in inverse depth: near is red, far is blue, invalid is black.

    :param depth: z in m, (H, W)
    :return: RGB, (H, W, 3)
    """
    valid = np.isfinite(depth) & (depth > 0)
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=valid)
    near, far = 1 / ends.near, 1 / ends.far
    level = ((inverse - far) / max(near - far, 1e-9)).clip(0, 1) * 255
    bgr = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_TURBO)
    bgr[~valid & ~np.isposinf(depth)] = 0
    return np.ascontiguousarray(bgr[..., ::-1])


def contact_sheet(rows: Sequence[Sequence[RGBImage]], titles: Sequence[str]) -> RGBImage:
    """
    Lay pictures of equal size out in rows, with a title over each column.

    :param rows: R rows of C pictures
    :param titles: C of them
    """
    height, width = rows[0][0].shape[:2]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    bar = np.full((max(24, height // 12), sheet.shape[1], 3), 32, dtype=np.uint8)
    for column, title in enumerate(titles):
        scale = bar.shape[0] / 40
        origin = (column * width + 8, round(bar.shape[0] * 0.72))
        cv2.putText(
            bar, title, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA
        )
    return np.concatenate([bar, sheet])


def write_picture(path: Path, image: RGBImage) -> None:
    """Write RGB (H, W, 3) as a PNG or JPEG file."""
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise OSError(f'cannot write {path}')


def encode_picture(image: RGBImage, suffix: str) -> bytes:
    """RGB (H, W, 3) as the contents of a ``.png`` or ``.jpg`` file."""
    done, data = cv2.imencode(suffix, image[..., ::-1])
    if not done:
        raise ValueError(f'a picture of {image.shape} cannot be written as {suffix}')
    return bytes(data)


def write_ply(path: Path, cloud: NDArray[np.float32]) -> None:
    """Write the points of an organised cloud, (H, W, 4) or (N, 4), as a binary PLY file."""
    points = cloud.reshape(-1, 4)
    points = points[np.isfinite(points[:, :3]).all(axis=1)]
    vertices = np.empty(
        len(points),
        dtype=[('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('r', 'u1'), ('g', 'u1'), ('b', 'u1')],
    )
    for index, name in enumerate('xyz'):
        vertices[name] = points[:, index]
    for name, column in zip('rgb', _colours(points).T, strict=True):
        vertices[name] = column
    header = (
        f'ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n'
        'property float x\nproperty float y\nproperty float z\n'
        'property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n'
    )
    path.write_bytes(header.encode() + vertices.tobytes())


def view_cloud(
    cloud: NDArray[np.float32], yaw_deg: float = 25.0, pitch_deg: float = 20.0, side: int = 800
) -> RGBImage:
    """
    Draw an organised cloud from a camera that stands to the side of, and above, the one it is of.

    :param cloud: x, y, z in m in the optical frame and rgb, (H, W, 4)
    :return: RGB, (3/4 side, side, 3)
    """
    height, width = side * 3 // 4, side
    points = cloud.reshape(-1, 4)
    points = points[np.isfinite(points[:, :3]).all(axis=1)]
    canvas = np.full((height, width, 3), 24, dtype=np.uint8)
    if not len(points):
        return canvas
    distance = float(np.median(points[:, 2]))
    pivot = np.array([0.0, 0.0, distance])
    seen = (points[:, :3] - pivot) @ _turn(yaw_deg, pitch_deg).T + pivot
    seen[:, 2] += 0.35 * distance  # a step back
    seen_z = np.maximum(seen[:, 2], 1e-3)
    u = np.round(0.95 * width * seen[:, 0] / seen_z + width / 2).astype(int)
    v = np.round(0.95 * width * seen[:, 1] / seen_z + height / 2).astype(int)
    shown = (u >= 0) & (u < width - 1) & (v >= 0) & (v < height - 1) & (seen[:, 2] > 0.01)
    order = np.argsort(-seen[shown, 2])  # far first: near points are drawn over them
    u, v, colours = u[shown][order], v[shown][order], _colours(points[shown])[order]
    for dv in (0, 1):
        for du in (0, 1):
            canvas[v + dv, u + du] = colours
    return canvas


def _turn(yaw_deg: float, pitch_deg: float) -> NDArray[np.float64]:
    yaw, pitch = np.radians((yaw_deg, pitch_deg))
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    return np.asarray(about_x @ about_y)


def _colours(points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB (N, 3) out of the fourth column of points (N, 4)."""
    bgr0 = np.ascontiguousarray(points[:, 3:]).view(np.uint8)
    return np.ascontiguousarray(bgr0[:, 2::-1])
