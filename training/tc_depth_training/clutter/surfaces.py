"""Render textured parallelograms with exact depth: a z-buffer, then a texture's mip levels."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_training.synthetic import (
    NEAREST_M,
    SAMPLES,
    TO_LIGHT,
    Doubles,
    Floats,
    SyntheticView,
    centres,
)

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]
# A texture and its halves, down to a few texels: (N, N, 3) RGB, N a power of two
Pyramid = tuple[Bytes, ...]

COARSEST_TEXELS = 8
# A footprint longer than this many times its width is sampled too finely, rather than blurred.
ANISOTROPY = 2.0
# The corners of a surface, (a, b, 1) as columns.
CORNERS = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
# Of a window, against rounding.
MARGIN_PX = np.array([-1e-6, 1e-6])
# Below this volume (m^3 px^2), a surface is seen edge on.
EDGE_ON = 1e-9


@dataclass(frozen=True)
class Surface:
    """
    A textured parallelogram: all points ``plane @ (a, b, 1)`` with a and b in 0..1.

    It is seen from the side to which the cross product of its edges points.
    """

    plane: Doubles  # (3, 3) m: its two edges and its corner, as columns
    texture: int  # index of the scene's textures
    texels: Doubles  # (2, 3): column and row in the texture, of (a, b, 1)
    gain: Floats  # (3,) of R, G and B


@dataclass(frozen=True)
class Scene:
    """Surfaces that hide each other, and the textures that they share."""

    surfaces: tuple[Surface, ...]
    textures: tuple[Pyramid, ...]


@dataclass(frozen=True)
class _Seen:
    """
    A surface as one camera has it.

    With ``q = form @ (u, v, 1)``, the ray of pixel (u, v) meets the surface's plane at
    ``a = q[0] / q[2]`` and ``b = q[1] / q[2]``, and at the depth ``1 / q[2]``.
    """

    surface: Surface
    form: Doubles  # (3, 3)
    window: Window  # of the grid, outside of which it is not seen


@dataclass(frozen=True)
class _Grid:
    """Positions of a grid of rays, px."""

    rows: Doubles  # (h,) v
    columns: Doubles  # (w,) u

    def affine(self, form: Doubles, window: Window) -> Doubles:
        """Evaluate ``form @ (u, v, 1)`` in a window, for a form (3,): (h, w)."""
        by_row = form[1] * self.rows[window[0]] + form[2]
        values: Doubles = by_row[:, None] + form[0] * self.columns[window[1]]
        return values


@dataclass(frozen=True)
class _Hits:
    """The nearest surface on each ray of a grid."""

    inverse_depth: Doubles  # (h, w) 1/m; 0 where there is none
    owner: NDArray[np.int32]  # (h, w) index of what was seen; -1 where there is none


def make_pyramid(texture: Bytes) -> Pyramid:
    """Halve a texture (N, N, 3), N a power of two, until it is a few texels wide."""
    levels = [texture]
    while len(levels[-1]) > COARSEST_TEXELS:
        size = len(levels[-1]) // 2
        halved = cv2.resize(levels[-1], (size, size), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(halved, np.uint8))
    return tuple(levels)


def shade(normal: Doubles) -> float:
    """Brightness of a matt surface in the room's light, 0.7 to 1."""
    return 0.85 + 0.15 * float(normal @ TO_LIGHT)


def _window(corners: Doubles, grid: _Grid) -> Window:
    """The part of the grid that holds four projected corners (3, 4): u z, v z and z."""
    u_z, v_z, z = corners
    if z.min() < NEAREST_M:
        return slice(0, len(grid.rows)), slice(0, len(grid.columns))
    u, v = u_z / z, v_z / z
    rows = np.searchsorted(grid.rows, [v.min(), v.max()] + MARGIN_PX)
    columns = np.searchsorted(grid.columns, [u.min(), u.max()] + MARGIN_PX)
    return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


def _look(scene: Scene, K: Doubles, world_T_camera: Doubles, grid: _Grid) -> list[_Seen]:
    """What a camera has of each surface that shows it its face."""
    camera_T_world = np.linalg.inv(world_T_camera)
    pixels_T_plane = K @ camera_T_world[:3, :3] @ np.stack([s.plane for s in scene.surfaces])
    pixels_T_plane[..., 2] += K @ camera_T_world[:3, 3]
    corners = pixels_T_plane @ CORNERS
    shown = np.linalg.det(pixels_T_plane) < -EDGE_ON
    shown &= corners[:, 2].max(-1) > NEAREST_M
    seen = []
    for i in np.flatnonzero(shown):
        window = _window(corners[i], grid)
        if all(side.start < side.stop for side in window):
            seen.append(_Seen(scene.surfaces[i], np.linalg.inv(pixels_T_plane[i]), window))
    return seen


def _cast(seen: list[_Seen], grid: _Grid) -> _Hits:
    """Find the nearest surface on each ray."""
    shape = (len(grid.rows), len(grid.columns))
    hits = _Hits(np.zeros(shape), np.full(shape, -1, np.int32))
    for index, one in enumerate(seen):
        nearest = hits.inverse_depth[one.window]
        a, b, inverse_depth = (grid.affine(form, one.window) for form in one.form)
        closer = inverse_depth > nearest
        closer &= (np.minimum(a, b) >= 0.0) & (np.maximum(a, b) <= inverse_depth)
        np.copyto(nearest, inverse_depth, where=closer)
        np.copyto(hits.owner[one.window], np.int32(index), where=closer)
    return hits


def _used(one: _Seen, index: int, hits: _Hits) -> Window | None:
    """The part of the grid in which a surface is seen and not hidden."""
    owned = hits.owner[one.window] == index
    column, row, width, height = cv2.boundingRect(owned.astype(np.uint8))
    if width == 0:
        return None
    row, column = row + one.window[0].start, column + one.window[1].start
    return slice(row, row + height), slice(column, column + width)


def _level(by_u: Doubles, by_v: Doubles) -> Floats:
    """
    The mip level, a fraction, at which a sample covers one texel.

    :param by_u: change of texture column and row from a sample to the next one, (2, h, w)
    :param by_v: the same to the sample below
    """
    longest = np.maximum(np.hypot(*by_u), np.hypot(*by_v))
    area = np.abs(by_u[0] * by_v[1] - by_u[1] * by_v[0])
    footprint = np.maximum(area / (longest + 1e-9), longest / ANISOTROPY)
    level: Floats = np.log2(np.maximum(footprint, 1.0)).astype(np.float32)
    return level


def _sample(pyramid: Pyramid, texels: Doubles, level: Floats) -> Floats:
    """Read a texture, mirrored beyond its edges, at texels (2, h, w) and levels (h, w)."""
    colour = np.zeros((*level.shape, 3), np.float32)
    for i in range(int(level.min()), int(np.ceil(level.max())) + 1):
        columns, rows = ((texels + 0.5) * 0.5**i - 0.5).astype(np.float32)
        sampled = cv2.remap(
            pyramid[i], columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        weight = np.maximum(1.0 - np.abs(level - i), 0.0)
        colour += weight[..., None] * sampled
    return colour


def _paint(
    one: _Seen, pyramid: Pyramid, grid: _Grid, used: Window, inverse_depth: Doubles, owned: Mask
) -> Floats:
    """Colours of a surface in a window (h, w, 3), right where it owns the rays; 0..255."""
    form = one.surface.texels @ one.form
    depth = np.divide(1.0, inverse_depth, out=np.zeros(owned.shape), where=owned)
    texels = np.stack([grid.affine(row, used) for row in form]) * depth
    # The derivative of a quotient of two affine functions.
    spacing = 1.0 / SAMPLES
    by_u, by_v = (
        (form[:, i, None, None] - texels * one.form[2, i]) * (depth * spacing) for i in (0, 1)
    )
    level = np.minimum(_level(by_u, by_v), len(pyramid) - 1)
    return _sample(pyramid, texels, np.maximum(level, level[owned].min())) * one.surface.gain


def _render_colour(scene: Scene, seen: list[_Seen], grid: _Grid) -> Bytes:
    """The mean colour of each pixel's samples, (h / SAMPLES, w / SAMPLES, 3) RGB."""
    hits = _cast(seen, grid)
    colour = np.zeros((*hits.owner.shape, 3), np.float32)
    for index, one in enumerate(seen):
        used = _used(one, index, hits)
        if used is not None:
            owned = hits.owner[used] == index
            pyramid, inverse_depth = scene.textures[one.surface.texture], hits.inverse_depth[used]
            painted = _paint(one, pyramid, grid, used, inverse_depth, owned)
            np.copyto(colour[used], painted, where=owned[..., None])
    height, width = (size // SAMPLES for size in hits.owner.shape)
    pixels = cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(np.clip(pixels, 0.0, 255.0)).astype(np.uint8)


def render_depth(
    scene: Scene, K: Doubles, world_T_camera: Doubles, height: int, width: int
) -> Floats:
    """Depth (H, W) in metres at the pixel centres; infinite where no surface is."""
    grid = _Grid(centres(height, 1), centres(width, 1))
    hits = _cast(_look(scene, K, world_T_camera, grid), grid)
    with np.errstate(divide='ignore'):
        return (1.0 / hits.inverse_depth).astype(np.float32)


def render_view(
    scene: Scene, K: Doubles, world_T_camera: Doubles, height: int, width: int, stamp_ns: int
) -> SyntheticView:
    """
    See the scene from a pose.

    :param K: intrinsics in pixels of the wanted size, (3, 3)
    :param world_T_camera: pose of the optical frame, (4, 4)
    :return: the view; colour is supersampled, depth belongs to the pixel centre alone
    """
    grid = _Grid(centres(height, SAMPLES), centres(width, SAMPLES))
    image = _render_colour(scene, _look(scene, K, world_T_camera, grid), grid)
    depth = render_depth(scene, K, world_T_camera, height, width)
    return SyntheticView(image, depth, world_T_camera.copy(), K.copy(), stamp_ns)
