"""Draw an object that moves by itself: it crosses the view while the camera goes its own way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tc_depth_training.clutter.surfaces import Pyramid, Surface, shade
from tc_depth_training.clutter.textures import TEXELS
from tc_depth_training.synthetic import NEAREST_M, Doubles

FRAMES_SHARE = (0.4, 1.0)  # of the recording: length of a crossing
LONGEST = 32  # frames of a crossing at most
DEPTH_SHARE = (0.3, 0.7)  # of the median depth, at which the object's middle is
NEAREST_SHARE = 0.2  # of the median depth: no part of the object is nearer
HEIGHT_SHARE = (0.2, 0.6)  # of the image's height
WIDTH_SHARE = (0.3, 1.0)  # of its own height; so is a box's third side
BOARD_SHARE = 0.02  # of its height: thickness of a board
MIDDLE = (0.3, 0.7)  # of the image's height, where it comes and leaves
TURN_RAD = 0.05  # of a box, from a frame to the next one, at most
# An object that moves across the view as the background does hardly moves by itself. It goes at
# least this share of the way across the view of a camera that stands still.
WAY_SHARE = 0.6
PLAIN_LEVELS = 8.0  # of 255; a texture of a smaller standard deviation is plain
SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


@dataclass(frozen=True)
class Crossing:
    """A textured box, or a board that faces the camera, on its way through the place."""

    first: int  # frame of the recording in which its way begins
    faces: tuple[Surface, ...]  # in its own axes, m; the origin is its middle
    world_T_object: Doubles  # (N, 4, 4) in the frames from the first one on

    def surfaces(self, frame: int) -> tuple[Surface, ...]:
        """Its surfaces in a frame of the recording; none before its way and after it."""
        step = frame - self.first
        if not 0 <= step < len(self.world_T_object):
            return ()
        pose = self.world_T_object[step]
        planes = pose[:3, :3] @ np.stack([face.plane for face in self.faces])
        planes[..., 2] += pose[:3, 3]
        return tuple(
            replace(face, plane=plane) for face, plane in zip(self.faces, planes, strict=True)
        )


@dataclass(frozen=True)
class Sight:
    """The views that are to be crossed."""

    K: Doubles  # (3, 3) px
    world_T_camera: Doubles  # (N, 4, 4)
    size: tuple[int, int]  # (height, width) px
    median_m: float  # median depth of the place

    def project(self, points: Doubles) -> Doubles:
        """Column and row in px and depth in m, (N, M, 3), of each frame's points (N, M, 3)."""
        camera_T_world = np.linalg.inv(self.world_T_camera)
        seen = points @ camera_T_world[:, :3, :3].transpose(0, 2, 1)
        rays = (seen + camera_T_world[:, None, :3, 3]) @ self.K.T
        depth = rays[..., 2:]
        return np.concatenate([rays[..., :2] / depth, depth], -1)


def is_textured(texture: Pyramid) -> bool:
    """Whether a texture shows more than one colour."""
    return bool(texture[0].std((0, 1)).mean() > PLAIN_LEVELS)


def _paint_box(half: Doubles, texture: int, rng: np.random.Generator) -> Iterator[Surface]:
    """The six faces of a box around the origin, of half sizes (3,) in m, with one texture."""
    gain = rng.uniform(0.6, 1.15) * rng.uniform(0.8, 1.2, 3)
    scale = TEXELS / (2.0 * half.max() * rng.uniform(0.7, 1.4))  # texels in a metre
    for axis in range(3):
        for sign in (-1, 1):
            along = [(axis + 1) % 3, (axis + 2) % 3][::sign]
            normal = sign * np.eye(3)[axis]
            edges = np.diag(2.0 * half)[:, along]
            plane = np.column_stack([edges, half * normal - edges.sum(1) / 2.0])
            across, down = scale * 2.0 * half[along] * (1.0, -1.0)
            offset = rng.uniform(0.0, TEXELS, 2)
            texels = np.array([[across, 0.0, offset[0]], [0.0, down, offset[1]]])
            yield Surface(plane, texture, texels, np.asarray(gain * shade(normal), np.float32))


def _outside(
    sight: Sight, frame: int, side: float, depth_m: float, radius_m: float, row: float
) -> Doubles:
    """
    The point (3,) of the world at which an object just touches the view's border from outside.

    :param side: -1 on the left, 1 on the right
    :param radius_m: of the object, seen from above
    :param row: px
    """
    column = -0.5 if side < 0.0 else sight.size[1] - 0.5
    slope, down = np.linalg.solve(sight.K, [column, row, 1.0])[:2]
    x = slope * depth_m + side * radius_m * np.hypot(slope, 1.0)
    pose = sight.world_T_camera[frame]
    point: Doubles = pose[:3, :3] @ [x, down * depth_m, depth_m] + pose[:3, 3]
    return point


def _draw_way(
    sight: Sight, depths_m: Doubles, radius_m: float, rng: np.random.Generator
) -> Doubles | None:
    """
    Points (N, 3) evenly on a line from one side of the view to the other.

    None if an object on that line hardly moves by itself.
    """
    frames = len(sight.world_T_camera)
    side = rng.choice([-1.0, 1.0])
    rows = rng.uniform(*MIDDLE, 2) * sight.size[0]
    start = _outside(sight, 0, side, depths_m[0], radius_m, rows[0])
    still_end, end = (
        _outside(sight, frame, -side, depths_m[1], radius_m, rows[1]) for frame in (0, frames - 1)
    )
    if np.linalg.norm(end - start) < WAY_SHARE * np.linalg.norm(still_end - start):
        return None
    progress = (np.arange(frames) + 0.5) / frames
    return start + progress[:, None] * (end - start)


def _facing(ahead: Doubles) -> Doubles:
    """Rotations (N, 3, 3) whose x axes point along ahead (N, 3), and whose y axes are level."""
    x = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    y = np.cross([0.0, 0.0, 1.0], x)
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], -1)


def _draw_turning(frames: int, rng: np.random.Generator) -> Doubles:
    """Rotations (N, 3, 3) about the vertical, at a steady pace."""
    pace_rad = rng.uniform(-TURN_RAD, TURN_RAD)
    angles = rng.uniform(0.0, 2.0 * np.pi) + pace_rad * np.arange(frames)
    return _facing(np.stack([np.cos(angles), np.sin(angles), np.zeros(frames)], -1))


def _draw_depths(median_m: float, rng: np.random.Generator) -> Doubles:
    """Depths in m at which it comes and leaves (2,); in every second try they are the same."""
    depths_m = median_m * rng.uniform(*DEPTH_SHARE, 2)
    if rng.uniform() < 0.5:
        depths_m[1] = depths_m[0]
    return depths_m


def _draw_half(sight: Sight, depths_m: Doubles, board: bool, rng: np.random.Generator) -> Doubles:
    """Half sizes (3,) in m of a body that is upright; a board is thin along x."""
    # As small as wanted where it is far, and as large where it is near
    near_m, far_m = depths_m.min(), depths_m.max()
    share = rng.uniform(HEIGHT_SHARE[0] * far_m / near_m, HEIGHT_SHARE[1])
    height_m = share * near_m * sight.size[0] / sight.K[1, 1]
    thick, wide = rng.uniform(*WIDTH_SHARE, 2)
    sizes_m: Doubles = height_m * np.array([BOARD_SHARE if board else thick, wide, 1.0])
    return sizes_m / 2.0


def _are_within(values: Doubles, limits: tuple[float, float]) -> bool:
    return bool(((values >= limits[0]) & (values <= limits[1])).all())


def _is_in_range(sight: Sight, world_T_object: Doubles, half: Doubles) -> bool:
    """Whether depth is as wanted in all frames, and height where the object's middle is seen."""
    middles = sight.project(world_T_object[:, None, :3, 3])[:, 0]
    corners = (half * SIGNS) @ world_T_object[:, :3, :3].transpose(0, 2, 1)
    projected = sight.project(corners + world_T_object[:, None, :3, 3])
    if projected[..., 2].min() < max(NEAREST_M, NEAREST_SHARE * sight.median_m):
        return False
    seen = (middles[:, 0] > 0.0) & (middles[:, 0] < sight.size[1] - 1.0)
    heights = np.ptp(projected[seen, :, 1], axis=-1) / sight.size[0]
    depths = middles[:, 2] / sight.median_m
    return _are_within(depths, DEPTH_SHARE) and _are_within(heights, HEIGHT_SHARE)


def draw_crossing(
    sight: Sight, textures: Sequence[int], rng: np.random.Generator
) -> Crossing | None:
    """
    Draw an object that crosses the views, or None if this try gives no usable one.

    It comes from one side and leaves on the other one. It may come nearer on its way, or go away.

    :param textures: indices of those that it may have
    """
    frames = len(sight.world_T_camera)
    count = int(np.ceil(min(frames, LONGEST) * rng.uniform(*FRAMES_SHARE)))
    first = int(rng.integers(frames - count + 1))
    crossed = replace(sight, world_T_camera=sight.world_T_camera[first : first + count])
    board = bool(rng.uniform() < 0.5)
    depths_m = _draw_depths(sight.median_m, rng)
    half = _draw_half(sight, depths_m, board, rng)
    middles = _draw_way(crossed, depths_m, float(np.hypot(*half[:2])), rng)
    if middles is None:
        return None
    to_camera = crossed.world_T_camera[:, :3, 3] - middles
    world_T_object = np.tile(np.eye(4), (count, 1, 1))
    world_T_object[:, :3, :3] = _facing(to_camera) if board else _draw_turning(count, rng)
    world_T_object[:, :3, 3] = middles
    if not _is_in_range(crossed, world_T_object, half):
        return None
    faces = tuple(_paint_box(half, int(rng.choice(textures)), rng))
    return Crossing(first, faces, world_T_object)
