"""
Write recordings of rendered places, with exact depth and poses, from which a network can learn.

Textures are photographs, which are the frames of bags, or patterns of the package's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.clutter.motions import MOTION_KINDS
from tc_depth_training.clutter.places import PLACE_KINDS
from tc_depth_training.clutter.surfaces import Bytes
from tc_depth_training.clutter.take import draw_take, with_crossing
from tc_depth_training.data.bag import Bag
from tc_depth_training.data.stretch import WHOLE, BagPart
from tc_depth_training.synthetic import SyntheticView
from tc_depth_training.usage import CROSSING, FRAMES, SCENES, SIZE

CAMERA = '/rendered'
PHOTOGRAPHS = 60  # at most, of each bag
SMALLEST = 16  # pixels of a side


def render(
    out: Path,
    textures: Sequence[Path | BagPart] = (),
    scenes: int = SCENES,
    frames: int = FRAMES,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    crossing: float = CROSSING,
) -> list[Path]:
    """
    Write one bag for each scene: ``out/scene_0000`` and so on.

    Kinds of places and of motions take turns: fifteen scenes have each of one with each of the
    other. The same seed gives the same pixels again.

    :param textures: bags whose frames are photographs for textures; none: patterns
    :param size: (height, width) of the images
    :param crossing: share of the scenes in which an object moves across the view, 0..1
    :return: the bags
    :raises ValueError: ``out`` exists, a number is not positive, or the share is not in 0..1
    :raises BagError: a bag of textures cannot be used
    """
    _check(out, scenes, frames, size, seed, crossing)
    photographs = [photograph for bag in textures for photograph in read_photographs(bag)]
    bags = [out / f'scene_{i:04d}' for i in range(scenes)]
    with tqdm(desc=f'rendering {out.name}', total=scenes * frames, unit='frame') as progress:
        for i, bag in enumerate(bags):
            views = _views(i, frames, size, photographs, seed, crossing)
            write_bag(bag, _counted(views, progress), camera=CAMERA, depth_encoding='32FC1')
    return bags


def _check(
    out: Path, scenes: int, frames: int, size: tuple[int, int], seed: int, crossing: float
) -> None:
    if out.exists():
        raise ValueError(f'{out} exists already: remove it or choose another folder')
    for name, number, least in (
        ('--scenes', scenes, 1),
        ('--frames', frames, 1),
        ('--size', min(size), SMALLEST),
        ('--seed', seed, 0),
    ):
        if number < least:
            raise ValueError(f'{name} is {number}: give at least {least}')
    if not 0.0 <= crossing <= 1.0:
        raise ValueError(f'--crossing is {crossing}: give a share of the scenes, from 0 to 1')


def read_photographs(bag: Path | BagPart) -> list[Bytes]:
    """
    Read frames of a bag, evenly over its time, PHOTOGRAPHS at most: (H, W, 3) RGB each.

    :raises BagError: the bag has no camera, or several, or no image in its stretch
    """
    part = BagPart.of(bag)
    with Bag(part.path) as opened:
        camera = opened.find_camera()
        within, count = opened.interval(camera, part.stretch_or(WHOLE))
        wanted = set(np.linspace(0, count - 1, min(count, PHOTOGRAPHS)).astype(int).tolist())
        recorded = opened.frames(camera, within=within)
        frames = tqdm(recorded, f'reading {part.path.name}', count, unit='frame')
        return [frame.image for i, frame in enumerate(frames) if i in wanted]


def _views(
    index: int,
    frames: int,
    size: tuple[int, int],
    photographs: Sequence[Bytes],
    seed: int,
    crossing: float,
) -> Iterator[SyntheticView]:
    """Draw and render one scene."""
    rng = np.random.default_rng([seed, index])
    place = PLACE_KINDS[index % len(PLACE_KINDS)]
    motion = MOTION_KINDS[index % len(MOTION_KINDS)]
    take = draw_take(place, motion, frames, size, photographs, rng)
    # A generator of its own: all else stays the same with an object and without
    own_rng = np.random.default_rng([seed, index, 1])
    if own_rng.uniform() < crossing:
        take = with_crossing(take, own_rng)
    yield from take.views(rng)


def _counted(
    views: Iterator[SyntheticView], progress: tqdm[SyntheticView]
) -> Iterator[SyntheticView]:
    for view in views:
        yield view
        progress.update()
