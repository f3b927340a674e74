"""Draw a take: a place, its paint, a camera and the path on which it sees the place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from tc_depth_training.clutter.crossing import Crossing, Sight, draw_crossing, is_textured
from tc_depth_training.clutter.motions import MotionKind, draw_path
from tc_depth_training.clutter.places import (
    Place,
    PlaceKind,
    draw_place,
    is_clear,
    paint_place,
)
from tc_depth_training.clutter.surfaces import Bytes, Scene, render_depth, render_view
from tc_depth_training.clutter.textures import draw_sky, draw_textures
from tc_depth_training.synthetic import FIRST_STAMP_NS, Doubles, SyntheticView, look_at

RATE_HZ = 10.0
TEXTURES = 32  # of a scene
FIELD_OF_VIEW_DEG = (45.0, 95.0)
PREVIEW = (36, 48)  # pixels, in which a path is looked at before it is rendered
PREVIEWS = 6
LONGEST_SHARE = 0.06  # of the median depth of any view, that a step may be
TRIES_OF_A_PLACE = 60
PLACES_TRIED = 50
TRIES_OF_A_CROSSING = 3000
SHOWN_SHARE = 0.7  # least share of a crossing object's pixels in view that nothing hides
CROSSED_SHARE = 0.5  # least share of its frames in which it is seen


@dataclass(frozen=True)
class Sensor:
    """What a camera adds to the light: each of it mild, so that no pixel stays equal."""

    brightness: Doubles  # (N, 3) gain of R, G and B in each frame
    noise_levels: float  # standard deviation, of 255
    blur_px: float  # standard deviation; 0 is sharp

    def expose(self, view: SyntheticView, frame: int, rng: np.random.Generator) -> SyntheticView:
        """The view as the sensor has it in a frame."""
        image = view.image.astype(np.float32) * self.brightness[frame].astype(np.float32)
        if self.blur_px > 0.0:
            image = cv2.GaussianBlur(image, (0, 0), self.blur_px)
        image += np.float32(self.noise_levels) * rng.standard_normal(image.shape, np.float32)
        return replace(view, image=np.rint(np.clip(image, 0.0, 255.0)).astype(np.uint8))


@dataclass(frozen=True)
class Take:
    """All that a recording is rendered from."""

    place: PlaceKind
    motion: MotionKind
    scene: Scene
    K: Doubles  # (3, 3) px
    world_T_camera: Doubles  # (N, 4, 4)
    size: tuple[int, int]
    sensor: Sensor
    crossing: Crossing | None = None

    def scene_at(self, frame: int) -> Scene:
        """What there is to see in a frame: the place, and what crosses it."""
        if self.crossing is None:
            return self.scene
        surfaces = self.scene.surfaces + self.crossing.surfaces(frame)
        return replace(self.scene, surfaces=surfaces)

    def views(self, rng: np.random.Generator | None = None) -> Iterator[SyntheticView]:
        """
        Render the frames, at RATE_HZ.

        :param rng: of the sensor's noise; None: go without the sensor
        """
        for i, pose in enumerate(self.world_T_camera):
            stamp_ns = FIRST_STAMP_NS + round(i * 1e9 / RATE_HZ)
            view = render_view(self.scene_at(i), self.K, pose, *self.size, stamp_ns)
            yield view if rng is None else self.sensor.expose(view, i, rng)


def _draw_intrinsics(size: tuple[int, int], rng: np.random.Generator) -> Doubles:
    """K in pixels: the two focal lengths differ, and the principal point is off the middle."""
    height, width = size
    fx = 0.5 * width / np.tan(0.5 * np.deg2rad(rng.uniform(*FIELD_OF_VIEW_DEG)))
    fy = fx * rng.uniform(0.97, 1.03)
    cx, cy = rng.uniform(0.45, 0.55, 2) * (width - 1, height - 1)
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _draw_sensor(frames: int, rng: np.random.Generator) -> Sensor:
    wave = np.sin(rng.uniform(0.05, 0.4) * np.arange(frames) + rng.uniform(0.0, 6.0))
    flicker = rng.normal(0.0, 0.01, frames)
    brightness = 1.0 + rng.uniform(0.0, 0.08) * wave + flicker
    tint = rng.uniform(0.95, 1.05, 3)
    blur_px = rng.uniform(0.3, 0.8) if rng.uniform() < 0.4 else 0.0
    return Sensor(brightness[:, None] * tint, rng.uniform(0.5, 4.0), blur_px)


def _previewed(scene: Scene, K: Doubles, pose: Doubles, size: tuple[int, int]) -> Doubles:
    """A small depth image of a view."""
    scale = np.array([PREVIEW[1] / size[1], PREVIEW[0] / size[0], 1.0])
    centre = np.array([0.5, 0.5, 0.0])  # of the top-left pixel, from the corner
    small = K * scale[:, None]
    small[:, 2] += centre * scale - centre
    return render_depth(scene, small, pose, *PREVIEW).astype(np.float64)


def _is_good(place: Place, depth: Doubles) -> bool:
    """Whether a view is neither blocked nor empty."""
    low, high = place.median_m
    return bool(depth.min() > place.clearance_m and low < np.median(depth) < high)


def _draw_path(
    place: Place,
    motion: MotionKind,
    scene: Scene,
    K: Doubles,
    size: tuple[int, int],
    frames: int,
    rng: np.random.Generator,
) -> Doubles | None:
    """Poses (N, 4, 4) of one try, or None where something is in the way."""
    up = np.array([*rng.normal(0.0, 0.04, 2), 1.0])
    start = look_at(place.eyes.draw(rng), place.targets.draw(rng), up)
    if not is_clear(place, start[None, :3, 3]):
        return None
    first = _previewed(scene, K, start, size)
    if not _is_good(place, first):
        return None
    path = start @ draw_path(motion, frames, float(np.median(first)), place.reach, rng)
    if not is_clear(place, path[:, :3, 3]):
        return None
    steps_m = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=-1)
    longest_m = steps_m.max(initial=0.0)
    for pose in path[:: max(1, frames // PREVIEWS)]:
        depth = _previewed(scene, K, pose, size)
        if not _is_good(place, depth) or longest_m > LONGEST_SHARE * np.median(depth):
            return None
    return path


def draw_take(
    place_kind: PlaceKind,
    motion: MotionKind,
    frames: int,
    size: tuple[int, int],
    photographs: Sequence[Bytes],
    rng: np.random.Generator,
) -> Take:
    """
    Draw a take, anew until its camera has room to move.

    :param size: (height, width)
    :param photographs: (H, W, 3) RGB, for textures; none: patterns
    """
    textures = (*draw_textures(TEXTURES, photographs, rng), draw_sky(rng))
    for _ in range(PLACES_TRIED):
        place = draw_place(place_kind, rng)
        scene = Scene(paint_place(place, len(textures), rng), textures)
        K = _draw_intrinsics(size, rng)
        for _ in range(TRIES_OF_A_PLACE):
            path = _draw_path(place, motion, scene, K, size, frames, rng)
            if path is not None:
                sensor = _draw_sensor(frames, rng)
                return Take(place_kind, motion, scene, K, path, size, sensor)
    raise RuntimeError(
        f'no {place_kind} in {PLACES_TRIED} has room for {frames} frames of {motion}: take fewer '
        'frames, or another seed'
    )


def _is_shown(take: Take, crossing: Crossing, still: Doubles) -> bool:
    """
    Whether a crossing object is seen, and hardly hidden.

    :param still: depth of the place in each frame, previewed, (N, h, w)
    """
    own_pixels, shown_pixels, shown_frames = 0, 0, 0
    frames = range(crossing.first, crossing.first + len(crossing.world_T_object))
    for i in frames:
        alone = Scene(crossing.surfaces(i), take.scene.textures)
        depth = _previewed(alone, take.K, take.world_T_camera[i], take.size)
        shown = int((depth < still[i]).sum())
        own_pixels += int(np.isfinite(depth).sum())
        shown_pixels += shown
        shown_frames += shown > 0
    return shown_pixels >= SHOWN_SHARE * own_pixels and shown_frames >= CROSSED_SHARE * len(frames)


def with_crossing(take: Take, rng: np.random.Generator) -> Take:
    """
    Let an object cross the views of a take, drawn anew until it is seen.

    :raises RuntimeError: no object can be seen on a way across
    """
    poses = take.world_T_camera
    still = np.stack([_previewed(take.scene, take.K, pose, take.size) for pose in poses])
    sight = Sight(take.K, poses, take.size, float(np.median(still)))
    textures = [i for i, texture in enumerate(take.scene.textures[:-1]) if is_textured(texture)]
    for _ in range(TRIES_OF_A_CROSSING):
        crossing = draw_crossing(sight, textures, rng)
        if crossing is not None and _is_shown(take, crossing, still):
            return replace(take, crossing=crossing)
    raise RuntimeError(
        f'no object in {TRIES_OF_A_CROSSING} can be seen on a way across this {take.place}: take '
        'another seed, or none with --crossing 0'
    )
