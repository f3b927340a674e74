"""Bags to recordings: all are looked at first, then each is read once or found in the cache."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tc_depth_training.config import DataConfig
from tc_depth_training.data.bag import NO_TOPIC, BagError
from tc_depth_training.data.cache import (
    find_missing,
    is_kept,
    read_to_disk,
    read_to_memory,
    read_without_cache,
)
from tc_depth_training.data.cache_key import cache_key, key_of_bag, key_of_stretch
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.source import Source, Wanted, cut_to_stretch, find_sources
from tc_depth_training.data.space import announce, check_memory
from tc_depth_training.data.stretch import HOW, WHOLE, BagPart, Stretch
from tc_depth_training.data.topics import TRANSFORMS

IN_MEMORY = 'held in memory'


def load_recordings(
    bags: Sequence[Path | BagPart], data: DataConfig, pose_required: bool, quiet: bool = False
) -> list[Recording]:
    """
    Read every camera asked for of every bag.

    What is wrong with the last bag shows before the first is read, and so does too little space
    for all of them. What two bags hold alike is used once.

    :param bags: one that has no stretch of its own has that of the settings
    :param pose_required: a bag without odometry is refused; else it goes without
    :param quiet: print nothing and show no progress
    :raises BagError: a bag cannot be used; the message says why and what to do
    """
    wanted = Wanted(
        (data.height, data.width),
        data.image_topics,
        data.camera_info_topic,
        data.odometry_topic,
        data.depth_topic,
        data.lidar_topic,
    )
    parts = [BagPart.of(bag) for bag in bags]
    found = [
        source
        for part in parts
        for source in find_sources(part.path, wanted, pose_required, part.stretch_or(data.stretch))
    ]
    if data.cache == 'none':
        found = [_without_depth(source) for source in found]
    keyed = _once_each(found, quiet)
    for note in (note for source in keyed.values() for note in source.notes):
        if not quiet:
            print(note, flush=True)
    keyed = {key: _cut_if_read(source, key, data, quiet) for key, source in keyed.items()}
    _check_space(keyed, data, quiet)
    return [
        _with_usable_poses(_read(source, key, data, quiet), source, pose_required, quiet)
        for key, source in keyed.items()
    ]


def read_recording(
    path: Path | str,
    size: tuple[int, int],
    *,
    odometry: bool,
    image_topic: str = '',
    camera_info_topic: str = '',
    odometry_topic: str = '',
    stretch: Stretch = WHOLE,
    quiet: bool = False,
) -> Recording:
    """
    Decode one camera of a bag into memory.

    :param size: (height, width) to resize to
    :param odometry: read the camera's poses too; refuse a bag that has none
    :raises BagError: the bag lacks what is asked for
    """
    wanted = Wanted(
        size,
        (image_topic,) if image_topic else (),
        camera_info_topic,
        odometry_topic if odometry else NO_TOPIC,
        NO_TOPIC,
        NO_TOPIC,
    )
    (source, *_) = find_sources(Path(path), wanted, odometry, stretch)
    source = cut_to_stretch(source, quiet)
    if not quiet:
        announce([source], IN_MEMORY)
    recording = read_to_memory(source, cache_key(source), quiet)
    return _with_usable_poses(recording, source, odometry, quiet)


def cache_root(cache_dir: str) -> Path:
    """Folder of all caches: the one given, or tc_depth in the user's cache folder."""
    if cache_dir:
        return Path(cache_dir).expanduser().absolute()
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'tc_depth'


def _cut_if_read(source: Source, key: str, data: DataConfig, quiet: bool) -> Source:
    """Cut a source to its stretch; what is in the cache already has been."""
    if source.stretch.is_whole:
        return source
    if data.cache == 'disk' and is_kept(source, key, cache_root(data.cache_dir)):
        return source
    return cut_to_stretch(source, quiet)


def _without_depth(source: Source) -> Source:
    """Without a cache, measured depth has no place."""
    if source.depth is None:
        return source
    note = f'{source.name} goes without {source.depth.topic}: data.cache is none'
    return replace(source, depth=None, notes=(*source.notes, note))


def _once_each(sources: Sequence[Source], quiet: bool) -> dict[str, Source]:
    """
    Sources by their keys: what is the same twice is used once, with a word.

    :raises BagError: a bag cannot be read, or stretches of one overlap
    """
    keyed: dict[str, Source] = {}
    by_bag: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        try:
            bag_key = key_of_bag(source)
        except OSError as error:
            raise BagError(f'{source.bag} cannot be read: {error}') from error
        first = keyed.setdefault(key_of_stretch(bag_key, source.stretch), source)
        if first is source:
            _check_apart(source, by_bag[bag_key])
            by_bag[bag_key].append(source)
        elif not quiet:
            print(f'{first.bag} and {source.bag} hold the same: it is used once', flush=True)
    return dict(zip(keyed, _with_distinct_names(list(keyed.values())), strict=True))


def _check_apart(source: Source, others: Sequence[Source]) -> None:
    """Refuse overlapping stretches of a bag: one would learn what is held out of the other."""
    for other in others:
        if source.stretch.overlaps(other.stretch):
            raise BagError(
                f'{other.bag}, {other.stretch}, and {source.bag}, {source.stretch}, are of the '
                f'same bag and overlap: give stretches that do not ({HOW})'
            )


def _with_distinct_names(sources: Sequence[Source]) -> list[Source]:
    """Two bags of one name are told apart by their paths."""
    names = [source.name for source in sources]
    return [
        replace(s, name=f'{s.bag}{s.name.removeprefix(s.bag.resolve().name)}')
        if names.count(s.name) > 1
        else s
        for s in sources
    ]


def _check_space(keyed: Mapping[str, Source], data: DataConfig, quiet: bool) -> None:
    """Say how much is to be read, and that it fits; raises BagError."""
    if data.cache == 'none':
        return
    if data.cache == 'disk':
        root = cache_root(data.cache_dir)
        sources, where = find_missing(keyed, root), f'kept in {root}'
    else:
        sources, where = list(keyed.values()), IN_MEMORY
        # As torchrun says; each has frames of its own
        check_memory(sources, int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    if not quiet:
        announce(sources, where)


def _read(source: Source, key: str, data: DataConfig, quiet: bool) -> Recording:
    if data.cache == 'disk':
        return read_to_disk(source, key, cache_root(data.cache_dir), quiet)
    if data.cache == 'ram':
        return read_to_memory(source, key, quiet)
    return read_without_cache(source, key, quiet)


def _with_usable_poses(
    recording: Recording, source: Source, required: bool, quiet: bool
) -> Recording:
    poses = recording.world_T_camera
    if poses is None or not np.isnan(poses).all():
        return recording
    topics = source.odometry.topic if source.odometry else ''
    if source.odometry and source.odometry.child_T_camera.moving:
        links = ', '.join(str(link) for link in source.odometry.child_T_camera.moving)
        topics = f'{topics} with {links} of {TRANSFORMS}'
    problem = f'the odometry {topics} of {source.bag} does not overlap its images in time'
    if required:
        raise BagError(f'{problem}: record both with one clock, or train with pose: learned')
    if not quiet:
        print(f'{source.name} goes without odometry: {problem}', flush=True)
    return replace(recording, world_T_camera=None)
