"""
Render a static, textured room with exact depth and exact poses.

The scene has nothing that depends on the viewer: no gloss, no noise of a sensor, no exposure. A
point shows the same colour from everywhere, so a view warped with the true depth and the true
pose reproduces another up to interpolation, and what remains is the fault of the code under test.

Conventions:

- world: x into the room, y left, z up, metres;
- camera: x right, y down, z forward; depth is z, not the length of the ray;
- pixel centres stand at integers, the ray of pixel (u, v) is ``K^-1 [u, v, 1]``;
- a box has six faces, numbered ``2 * axis + (1 if on the high side)``. Surfaces are numbered
  through the scene: the six of the room, six for each box, one for each ball.
"""

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Triple = tuple[float, float, float]

FIRST_STAMP_NS = 1_700_000_000_000_000_000
NEAREST_M = 0.05
FACES = 6

# Supersampling: each pixel's colour is the mean of this many samples squared.
SAMPLES = 2
# Rays are cast in bands of this many rows, which keeps the intermediate arrays in the cache.
BAND_ROWS = 32

NOISE_SIZE = 1200
NOISE_TEXEL_M = 0.007
# Lattice cells across the noise image, and amplitude: cells of 1 m down to 4 cm. Anything finer
# would be below the pixel size on the far wall, and alias.
NOISE_OCTAVES = ((8, 0.40), (24, 0.30), (75, 0.22), (200, 0.12))
# Furniture stands nearer than the walls, so its texture may be finer.
FURNITURE_TEXTURE_SCALE = 1.5

TO_LIGHT = np.array([-0.5, 0.4, 0.77]) / np.linalg.norm([-0.5, 0.4, 0.77])
ROOM_LOW, ROOM_HIGH = (0.0, -3.0, 0.0), (8.0, 3.0, 2.9)


@dataclass(frozen=True)
class SyntheticView:
    """One frame of a rendered recording, with the truth about it."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    depth: NDArray[np.float32]  # (H, W) z in metres, exact at pixel centres
    world_T_camera: NDArray[np.float64]  # (4, 4)
    K: NDArray[np.float64]  # (3, 3) px
    stamp_ns: int


@dataclass(frozen=True)
class Box:
    """An axis-aligned box between two corners, in metres."""

    low: Triple
    high: Triple


@dataclass(frozen=True)
class Ball:
    """A sphere, in metres."""

    centre: Triple
    radius: float


@dataclass(frozen=True)
class Palette:
    """
    How each of the S surfaces is painted. The surface is the last axis of every array.

    ``forms`` are three affine functions of the world point (x, y, z, 1): two texture coordinates
    in metres and the brightness. Affine is enough for a Lambertian ball too, whose normal is
    ``(point - centre) / radius``.
    """

    forms: Floats  # (3, 4, S)
    wave: Floats  # (2, S) rad/m of the checks or stripes along the texture coordinates
    dark: Floats  # (3, S) RGB in 0..1
    light: Floats  # (3, S)
    noise: Floats  # (N, N, 2), about -1..1, shared by all surfaces at different offsets


@dataclass(frozen=True)
class Scene:
    """A room seen from inside and what stands in it."""

    room: Box
    boxes: tuple[Box, ...]
    balls: tuple[Ball, ...]
    palette: Palette


@dataclass(frozen=True)
class _Rays:
    """A grid of rays whose length is counted in z: the point at depth d is origin + d * ray."""

    rows: Doubles  # (h,) v of each row, px
    columns: Doubles  # (w,) u of each column, px
    K: Doubles
    world_T_camera: Doubles
    directions: Floats  # (3, h, w) in the world
    origin: Floats  # (3, 1, 1)


@dataclass(frozen=True)
class _Hits:
    """Closest hits so far, filled in place as objects are tried."""

    depth: Floats  # (h, w)
    surface: NDArray[np.int64]  # (h, w)


def make_noise(rng: np.random.Generator) -> Floats:
    """Smooth noise of a few octaves that repeats without a seam, (N, N, 2)."""
    noise = np.zeros((NOISE_SIZE, NOISE_SIZE, 2), np.float32)
    for cells, amplitude in NOISE_OCTAVES:
        lattice = rng.uniform(-1.0, 1.0, (cells, cells, 2)).astype(np.float32)
        # Two cells beyond each edge, for the cubic, are cut off again afterwards.
        padded = np.pad(lattice, ((2, 2), (2, 2), (0, 0)), mode='wrap')
        texels = NOISE_SIZE // cells
        grown = cv2.resize(padded, None, fx=texels, fy=texels, interpolation=cv2.INTER_CUBIC)
        noise += amplitude * grown[2 * texels : -2 * texels, 2 * texels : -2 * texels]
    return noise


def _face_form(face: int, inward: bool, offset: Doubles) -> Doubles:
    """Texture coordinates and brightness of a box's face, (3, 4). Vertical is the second one."""
    axis, high = divmod(face, 2)
    along = [i for i in range(3) if i != axis]
    outward_sign = 1.0 if high else -1.0
    form = np.zeros((3, 4))
    form[0, along[0]] = form[1, along[1]] = 1.0 if inward else FURNITURE_TEXTURE_SCALE
    form[:2, 3] = offset
    form[2, 3] = 0.8 + 0.2 * TO_LIGHT[axis] * (-outward_sign if inward else outward_sign)
    return form


def _ball_form(ball: Ball, offset: Doubles) -> Doubles:
    """Texture projected along the room's x axis, which has neither seam nor pole in view."""
    form = np.zeros((3, 4))
    form[0, 1] = form[1, 2] = FURNITURE_TEXTURE_SCALE
    form[:2, 3] = offset
    form[2, :3] = 0.3 * TO_LIGHT / ball.radius
    form[2, 3] = 0.7 - form[2, :3] @ np.array(ball.centre)
    return form


def two_paints(hue: float, saturation: float, value: float) -> tuple[Triple, Triple]:
    """Two paints of one object: a dark one, and a lighter one of a hue nearby."""
    dark = colorsys.hsv_to_rgb(hue % 1.0, saturation, 0.45 * value)
    light = colorsys.hsv_to_rgb((hue + 0.09) % 1.0, 0.75 * saturation, value)
    return dark, light


def _waves(kind: int, period_m: float) -> tuple[float, float]:
    """Checks, stripes across, stripes along, or plain."""
    wave = 2.0 * np.pi / period_m
    return ((wave, wave), (wave, 0.0), (0.0, wave), (0.0, 0.0))[kind % 4]


def _owners(boxes: int, balls: int) -> list[int]:
    """The object that each surface belongs to: the room's walls count as one object each."""
    of_boxes = [FACES + i // FACES for i in range(FACES * boxes)]
    return [*range(FACES), *of_boxes, *(FACES + boxes + i for i in range(balls))]


def _forms(boxes: int, balls: tuple[Ball, ...], rng: np.random.Generator) -> Floats:
    """The three affine functions of each surface, each with its own place in the noise."""
    faces = FACES * (boxes + 1)
    offsets = rng.uniform(0.0, NOISE_SIZE * NOISE_TEXEL_M, (faces + len(balls), 2))
    forms = [_face_form(i % FACES, i < FACES, offsets[i]) for i in range(faces)]
    forms += [_ball_form(ball, offsets[faces + i]) for i, ball in enumerate(balls)]
    return np.stack(forms, -1).astype(np.float32)


def _paint(boxes: tuple[Box, ...], balls: tuple[Ball, ...], rng: np.random.Generator) -> Palette:
    """Give every object its own hue and pattern."""
    owners = _owners(len(boxes), len(balls))
    hues = rng.uniform() + 0.618 * np.arange(owners[-1] + 1)  # golden section: no two alike
    periods = rng.uniform(0.25, 0.6, hues.size) + np.where(np.arange(hues.size) < FACES, 0.4, 0.0)
    paints = [two_paints(hues[i], 0.3 if i < FACES else 0.7, 0.95) for i in owners]
    return Palette(
        forms=_forms(len(boxes), balls, rng),
        wave=np.array([_waves(i, periods[i]) for i in owners], np.float32).T,
        dark=np.array([dark for dark, _ in paints], np.float32).T,
        light=np.array([light for _, light in paints], np.float32).T,
        noise=make_noise(rng),
    )


def _standing(x: float, y: float, size: Triple, floor: float = 0.0) -> Box:
    """A box centred at (x, y) that stands at the height ``floor``."""
    half_x, half_y = size[0] / 2.0, size[1] / 2.0
    return Box((x - half_x, y - half_y, floor), (x + half_x, y + half_y, floor + size[2]))


def _table(x: float, y: float) -> list[Box]:
    """A table with four legs, and a carton on it."""
    top = _standing(x, y, (1.1, 1.5, 0.05), 0.72)
    carton = _standing(x + 0.2, y + 0.35, (0.35, 0.3, 0.28), 0.77)
    corners = [(x + sx * 0.48, y + sy * 0.68) for sx in (-1, 1) for sy in (-1, 1)]
    return [top, carton, *(_standing(u, v, (0.07, 0.07, 0.72)) for u, v in corners)]


def _furnish(rng: np.random.Generator) -> tuple[tuple[Box, ...], tuple[Ball, ...]]:
    """Everything stands at x > 3, out of the camera's way; the seed moves it about a little."""
    (x, y), (p, q), (c, d), (e, f) = rng.uniform(-0.2, 0.2, (4, 2))
    boxes = [
        *_table(4.5 + x, 0.3 + y),
        _standing(4.0, 0.0, (2.2, 3.4, 0.012)),  # rug
        _standing(6.0 + p, -1.1 + q, (0.4, 0.4, 2.9)),  # pillar
        _standing(3.6 + c, -1.5 + d, (0.55, 0.55, 0.5)),  # crates
        _standing(3.65 + c, -1.45 + d, (0.35, 0.4, 0.35), 0.5),
        _standing(5.9 + e, 1.9 + f, (0.7, 0.7, 0.75)),
        _standing(4.9 + e, -2.72, (1.5, 0.56, 1.9)),  # cupboard at the right wall
        _standing(7.78, 1.0 + y, (0.44, 1.6, 2.0)),  # shelves at the back
        _standing(7.5, -2.2 + q, (1.0, 0.9, 1.0)),
        _standing(7.98, -1.1 + d, (0.04, 1.1, 0.8), 1.3),  # pictures
        _standing(4.6 + p, 2.98, (1.5, 0.04, 0.9), 1.2),
    ]
    balls = [Ball((3.5 + e, 1.5 + f, 0.32), 0.32), Ball((4.2 + x, -0.1 + y, 0.92), 0.15)]
    return tuple(boxes), tuple(balls)


def make_scene(seed: int = 0) -> Scene:
    """The room for a seed: its paint, its texture and where the furniture stands."""
    rng = np.random.default_rng(seed)
    boxes, balls = _furnish(rng)
    return Scene(Box(ROOM_LOW, ROOM_HIGH), boxes, balls, _paint(boxes, balls, rng))


def look_at(eye: Doubles, target: Doubles, up: Doubles) -> Doubles:
    """The pose world_T_camera of a camera at ``eye`` that sees ``target`` in its middle."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def camera_path(frames: int, rate_hz: float = 10.0, seed: int = 0) -> Doubles:
    """
    A hand-held walk of about 0.3 m/s, round a small ellipse, looking into the room.

    :return: world_T_camera, (frames, 4, 4). The path stays in 1.1 < x < 2.7, |y| < 1.1 and
        1.2 < z < 1.7 however long it gets: the furniture begins at x = 3.
    """
    turn, sway, *shake = np.random.default_rng([seed, 1]).uniform(0.0, 2.0 * np.pi, 5)
    poses = []
    for t in np.arange(frames) / rate_hz:
        angle = turn + 0.33 * t
        eye = np.array([1.9 + 0.7 * np.cos(angle), np.sin(angle), 1.45])
        eye += [0.0, 0.0, 0.12 * np.sin(0.9 * t + sway)]
        eye += 0.006 * np.sin(2.0 * np.pi * np.array([0.7, 0.9, 1.3]) * t + shake)
        target = np.array([5.5, 0.5 * np.sin(0.5 * t + sway), 0.9 + 0.1 * np.sin(0.7 * t + turn)])
        up = np.array([0.0, 0.04 * np.sin(0.8 * t + sway), 1.0])
        poses.append(look_at(eye, target, up))
    return np.array(poses).reshape(-1, 4, 4)


def default_intrinsics(height: int, width: int) -> Doubles:
    """
    K in pixels, with a horizontal field of view of 63 degrees.

    The two focal lengths differ a little and the principal point stands off the middle, so that
    code which swaps or assumes them is found out.
    """
    fx, fy = 0.82 * width, 0.83 * width
    return np.array([[fx, 0.0, 0.51 * width], [0.0, fy, 0.49 * height], [0.0, 0.0, 1.0]])


def _make_rays(rows: Doubles, columns: Doubles, K: Doubles, world_T_camera: Doubles) -> _Rays:
    by_u, by_v, constant = (world_T_camera[:3, :3] @ np.linalg.inv(K)).T.reshape(3, 3, 1, 1)
    directions = by_u * columns + by_v * rows[:, None] + constant
    # A ray that runs exactly within a slab would divide by zero.
    directions[np.abs(directions) < 1e-9] = 1e-9
    origin = world_T_camera[:3, 3].astype(np.float32).reshape(3, 1, 1)
    return _Rays(rows, columns, K, world_T_camera, directions.astype(np.float32), origin)


def _window(rays: _Rays, low: Doubles, high: Doubles) -> tuple[slice, slice]:
    """The part of the grid in which a box between two corners can be seen."""
    choice = np.indices((2, 2, 2)).reshape(3, 8).T
    corners = np.where(choice, high, low) - rays.world_T_camera[:3, 3]
    x, y, z = rays.K @ rays.world_T_camera[:3, :3].T @ corners.T
    if z.min() < NEAREST_M:
        return slice(None), slice(None)
    u, v = x / z, y / z
    rows = np.searchsorted(rays.rows, [v.min() - 1.0, v.max() + 1.0])
    columns = np.searchsorted(rays.columns, [u.min() - 1.0, u.max() + 1.0])
    return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


def _slabs(box: Box, origin: Floats, directions: Floats) -> tuple[Floats, Floats]:
    """Depths at which each ray enters and leaves the box's three slabs, twice (3, h, w)."""
    to_low = (np.array(box.low, np.float32).reshape(3, 1, 1) - origin) / directions
    to_high = (np.array(box.high, np.float32).reshape(3, 1, 1) - origin) / directions
    return np.minimum(to_low, to_high), np.maximum(to_low, to_high)


def _hit_room(room: Box, rays: _Rays) -> _Hits:
    """The room is seen from inside: its wall is where the ray first leaves a slab."""
    _, leave = _slabs(room, rays.origin, rays.directions)
    axis = leave.argmin(0)
    forward = np.take_along_axis(rays.directions, axis[None], 0)[0] > 0
    return _Hits(leave.min(0), 2 * axis + forward)


def _hit_box(hits: _Hits, box: Box, first_surface: int, rays: _Rays) -> None:
    where = _window(rays, np.array(box.low), np.array(box.high))
    directions, depth = rays.directions[:, where[0], where[1]], hits.depth[where]
    enter, leave = _slabs(box, rays.origin, directions)
    nearest = enter.max(0)
    closer = (nearest < leave.min(0)) & (nearest > NEAREST_M) & (nearest < depth)
    axis = enter[:, closer].argmax(0)
    backward = np.take_along_axis(directions[:, closer], axis[None], 0)[0] < 0
    depth[closer] = nearest[closer]
    hits.surface[where][closer] = first_surface + 2 * axis + backward


def _hit_ball(hits: _Hits, ball: Ball, surface: int, rays: _Rays) -> None:
    """The smaller root of ``|origin + d * ray - centre| = radius``."""
    centre = np.array(ball.centre)
    where = _window(rays, centre - ball.radius, centre + ball.radius)
    directions, depth = rays.directions[:, where[0], where[1]], hits.depth[where]
    offset = rays.origin.ravel() - centre.astype(np.float32)
    a = (directions * directions).sum(0)
    half_b = (offset.reshape(3, 1, 1) * directions).sum(0)
    discriminant = half_b * half_b - a * (offset @ offset - np.float32(ball.radius) ** 2)
    root = (-half_b - np.sqrt(np.maximum(discriminant, 0.0))) / a
    closer = (discriminant > 0.0) & (root > NEAREST_M) & (root < depth)
    depth[closer] = root[closer]
    hits.surface[where][closer] = surface


def _cast(scene: Scene, rays: _Rays) -> _Hits:
    """Closest hit of every ray."""
    hits = _hit_room(scene.room, rays)
    for i, box in enumerate(scene.boxes):
        _hit_box(hits, box, FACES * (i + 1), rays)
    for i, ball in enumerate(scene.balls):
        _hit_ball(hits, ball, FACES * (len(scene.boxes) + 1) + i, rays)
    return hits


def _sample_noise(noise: Floats, a: Floats, b: Floats) -> Floats:
    """Noise at texture coordinates in metres, (h, w, 2). OpenCV may round them to 0.2 mm."""
    sampled = cv2.remap(
        noise,
        a / NOISE_TEXEL_M,
        b / NOISE_TEXEL_M,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    return sampled.astype(np.float32, copy=False)


def _evaluate(form: Floats, surface: NDArray[np.int64], points: Floats) -> Floats:
    """An affine function of the point, whose coefficients (4, S) depend on the surface, (h, w)."""
    x, y, z, one = (coefficient[surface] for coefficient in form)
    value: Floats = x * points[0] + y * points[1] + z * points[2] + one
    return value


def _shade(palette: Palette, surface: NDArray[np.int64], points: Floats) -> Floats:
    """Colour of the surface points (3, h, w): RGB in 0..1, (3, h, w)."""
    a, b, brightness = (_evaluate(form, surface, points) for form in palette.forms)
    tone, mix = np.moveaxis(_sample_noise(palette.noise, a, b), -1, 0)
    # One formula for checks, stripes and plain paint: a wave of zero is a cosine of one. The
    # tanh keeps the edges a few centimetres soft.
    wave = palette.wave[:, surface]
    pattern = np.tanh(3.0 * np.cos(wave[0] * a) * np.cos(wave[1] * b))
    weight = np.clip(0.5 + 0.25 * pattern + 0.6 * mix, 0.0, 1.0)
    dark, light = palette.dark[:, surface], palette.light[:, surface]
    colour: Floats = (dark + weight * (light - dark)) * (brightness * (1.0 + 0.5 * tone))
    return colour


def _render_colour(scene: Scene, rays: _Rays) -> NDArray[np.uint8]:
    """(h / SAMPLES, w / SAMPLES, 3) RGB: the mean of each pixel's samples."""
    hits = _cast(scene, rays)
    points = rays.origin + hits.depth * rays.directions
    colour = _shade(scene.palette, hits.surface, points)
    rows, columns = (size // SAMPLES for size in hits.depth.shape)
    pixels = colour.reshape(3, rows, SAMPLES, columns, SAMPLES).mean((2, 4))
    levels: NDArray[np.uint8] = np.rint(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)
    return np.moveaxis(levels, 0, -1)


def centres(size: int, samples: int) -> Doubles:
    """Positions of a row of samples, evenly spread within pixels whose centres are integers."""
    return (np.arange(size * samples) + 0.5) / samples - 0.5


def render_view(
    scene: Scene, K: Doubles, world_T_camera: Doubles, height: int, width: int, stamp_ns: int
) -> SyntheticView:
    """
    See the scene from a pose.

    :param K: intrinsics in pixels of the wanted size, (3, 3)
    :param world_T_camera: pose of the optical frame, inside the room, (4, 4)
    :return: the view; colour is supersampled, depth belongs to the pixel centre alone
    """
    image = np.empty((height, width, 3), np.uint8)
    depth = np.empty((height, width), np.float32)
    columns, fine_columns = centres(width, 1), centres(width, SAMPLES)
    for start in range(0, height, BAND_ROWS):
        band = slice(start, min(start + BAND_ROWS, height))
        rows = centres(height, 1)[band]
        fine_rows = centres(height, SAMPLES)[band.start * SAMPLES : band.stop * SAMPLES]
        depth[band] = _cast(scene, _make_rays(rows, columns, K, world_T_camera)).depth
        fine_rays = _make_rays(fine_rows, fine_columns, K, world_T_camera)
        image[band] = _render_colour(scene, fine_rays)
    return SyntheticView(image, depth, world_T_camera.copy(), K.copy(), stamp_ns)


def iterate_recording(
    frames: int = 40, height: int = 480, width: int = 640, rate_hz: float = 10.0, seed: int = 0
) -> Iterator[SyntheticView]:
    """Render a walk through the room of this seed, one view at a time."""
    scene = make_scene(seed)
    K = default_intrinsics(height, width)
    for i, pose in enumerate(camera_path(frames, rate_hz, seed)):
        stamp_ns = FIRST_STAMP_NS + round(i * 1e9 / rate_hz)
        yield render_view(scene, K, pose, height, width, stamp_ns)


def render_recording(
    frames: int = 40, height: int = 480, width: int = 640, rate_hz: float = 10.0, seed: int = 0
) -> list[SyntheticView]:
    """
    Render a walk through the room of this seed.

    :param rate_hz: the camera moves about 0.3 m/s whatever the rate, so 3 cm per frame at 10 Hz
    """
    return list(iterate_recording(frames, height, width, rate_hz, seed))
