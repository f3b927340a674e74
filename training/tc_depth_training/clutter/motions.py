"""Draw the path of a camera: driving, walking sideways, held by hand, turning, standing still."""

from collections.abc import Callable
from typing import Literal, get_args

import cv2
import numpy as np

from tc_depth_training.synthetic import Doubles

MotionKind = Literal['forward', 'sideways', 'handheld', 'turn', 'stop']
MOTION_KINDS: tuple[MotionKind, ...] = get_args(MotionKind)

STEP_SHARE = (0.01, 0.05)  # of the median depth, from a frame to the next one
SHAKE_RAD = 0.004
TURN_RAD = (0.015, 0.08)  # from a frame to the next one
# A camera turns about a point this share of the median depth away from it.
LEVER_SHARE = 0.02
BEND_RAD = 0.35  # that a drive turns by, along its reach


def _poses(positions: Doubles, rotations_rad: Doubles) -> Doubles:
    """Poses (N, 4, 4) of positions (N, 3) in m and rotation vectors (N, 3)."""
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, :3] = [cv2.Rodrigues(vector)[0] for vector in rotations_rad]
    poses[:, :3, 3] = positions
    return poses


def _folded(travel_m: Doubles, reach_m: float) -> Doubles:
    """A way there and back, as often as needed to go no farther than the reach."""
    return reach_m - np.abs(travel_m % (2.0 * reach_m) - reach_m)


def _waves(
    progress: Doubles, speeds: tuple[float, float], rng: np.random.Generator, count: int = 3
) -> Doubles:
    """Sines of random phase and of speeds in rad a frame, (N, count); 0 at the first frame."""
    speed, phase = rng.uniform(*speeds, count), rng.uniform(0.0, 2.0 * np.pi, count)
    waves: Doubles = np.sin(progress[:, None] * speed + phase) - np.sin(phase)
    return waves


def _shake(progress: Doubles, rng: np.random.Generator) -> Doubles:
    """Small rotation vectors (N, 3)."""
    return rng.uniform(0.0, SHAKE_RAD) * _waves(progress, (0.5, 1.5), rng)


def _forward(
    progress: Doubles, median_m: float, reach_m: float, rng: np.random.Generator
) -> Doubles:
    """A drive along z, on a circle that is nearly straight."""
    travel = _folded(progress * rng.uniform(*STEP_SHARE) * median_m, reach_m)
    heading = travel * rng.uniform(-BEND_RAD, BEND_RAD) / reach_m
    # A chord of the circle: its length, and half of the heading is its direction.
    chord = travel * np.sinc(heading / (2.0 * np.pi))
    x, z = chord * np.sin(heading / 2.0), chord * np.cos(heading / 2.0)
    rotations = _shake(progress, rng)
    rotations[:, 1] += heading
    return _poses(np.stack([x, np.zeros_like(x), z], 1), rotations)


def _sideways(
    progress: Doubles, median_m: float, reach_m: float, rng: np.random.Generator
) -> Doubles:
    """A way across the view, which may keep looking at what it looked at first."""
    travel = _folded(progress * rng.uniform(*STEP_SHARE) * median_m, reach_m)
    direction = np.array([rng.choice([-1.0, 1.0]), *rng.normal(0.0, (0.25, 0.15))])
    positions = travel[:, None] * direction / np.linalg.norm(direction)
    rotations = _shake(progress, rng)
    rotations[:, 1] -= rng.uniform(0.0, 1.0) * positions[:, 0] / median_m
    return _poses(positions, rotations)


def _handheld(
    progress: Doubles, median_m: float, reach_m: float, rng: np.random.Generator
) -> Doubles:
    """A wobble in all directions and about all axes, that drifts."""
    step_m = rng.uniform(*STEP_SHARE) * median_m
    wobble = step_m * _waves(progress, (0.3, 0.9), rng)
    drift = _folded(0.5 * step_m * progress, reach_m)
    direction = rng.normal(size=3)
    positions = wobble + drift[:, None] * direction / np.linalg.norm(direction)
    rotations = rng.uniform(0.005, 0.05) * _waves(progress, (0.1, 0.6), rng)
    return _poses(positions, rotations)


def _turn(progress: Doubles, median_m: float, reach_m: float, rng: np.random.Generator) -> Doubles:
    """A turn on the spot, about a point that lies close behind the camera."""
    rotations = _shake(progress, rng)
    rotations[:, 1] += progress * rng.uniform(*TURN_RAD) * rng.choice([-1.0, 1.0])
    poses = _poses(np.zeros((len(progress), 3)), rotations)
    poses[:, :3, 3] = (
        rng.uniform(0.0, LEVER_SHARE) * median_m * (poses[:, :3, 2] - poses[0, :3, 2])
    )
    return poses


def _stop(progress: Doubles, median_m: float, reach_m: float, rng: np.random.Generator) -> Doubles:
    """One of the ways to move, interrupted by a stand still of a third to two thirds of it."""
    count = len(progress)
    length = int(np.ceil(count * rng.uniform(1 / 3, 2 / 3)))
    start = int(rng.integers(count - length + 1))
    steps = np.diff(progress, prepend=progress[0])
    steps[start + 1 : start + length] = 0.0
    move = (_forward, _sideways, _handheld)[rng.integers(3)]
    return move(np.cumsum(steps), median_m, reach_m, rng)


MOTIONS: dict[MotionKind, Callable[[Doubles, float, float, np.random.Generator], Doubles]] = {
    'forward': _forward,
    'sideways': _sideways,
    'handheld': _handheld,
    'turn': _turn,
    'stop': _stop,
}


def draw_path(
    kind: MotionKind, frames: int, median_m: float, reach: float, rng: np.random.Generator
) -> Doubles:
    """
    Draw a path.

    :param median_m: median depth of the first view, by which speeds are chosen
    :param reach: how far the path may lead from its start, as a multiple of median_m
    :return: ``first_T_camera``, (frames, 4, 4)
    """
    return MOTIONS[kind](np.arange(frames, dtype=np.float64), median_m, reach * median_m, rng)
