"""
Recordings in memory, or decoded once and kept in a folder of the user's cache.

    <bag>-<key>/frames.u8     N images, (H, W, 3) uint8, one after the other
    <bag>-<key>/depth.f2      measured depth, (H, W) float16 in m, if there is any
    <bag>-<key>/index.npz     stamps, segments, intrinsics, poses
    <bag>-<key>/meta.json     where it came from, for people; its counts are checked on opening
    <key>.lock                held by the process that builds it, in .<key>.partial

The key is of what the bag contains, so a bag that moves or is copied is not read again. A folder
appears whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import numpy as np

from tc_depth_training.data.arrange import arrange
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.cache_files import DEPTH, FRAMES, open_folder, write_index
from tc_depth_training.data.cache_key import cache_key
from tc_depth_training.data.frame_sink import FileSink, NoSink, RamSink
from tc_depth_training.data.frame_store import BagFrames, RamFrames
from tc_depth_training.data.reading import read_bag
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.source import Source

PARTIAL = '.partial'
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
REMEDY = 'give a folder with more space as data.cache_dir, set data.cache: none, or a smaller size'


def read_to_memory(source: Source, quiet: bool) -> Recording:
    """Decode a bag into memory; raises BagError."""
    _check_memory(source)
    frames, depths = RamSink(source.count), RamSink(source.depth.count if source.depth else 0)
    _announce(source, 'held in memory', quiet)
    arrangement = arrange(read_bag(source, frames, depths, quiet), source)
    depth = RamFrames(depths.images) if source.depth else None
    return Recording.of(source, arrangement, RamFrames(frames.images), depth)


def read_without_cache(source: Source, quiet: bool) -> Recording:
    """Check a bag in one pass and keep no pixels: they are decoded anew each time."""
    readings = read_bag(source, NoSink(), None, quiet)
    frames = BagFrames(
        source.bag.absolute(),
        source.camera.image,
        source.size,
        np.array(readings.stamps_ns),
        np.array(readings.log_ns),
        np.array(readings.camera),
        tuple(readings.calibrations),
    )
    return Recording.of(source, arrange(readings, source), frames, None)


def read_to_disk(source: Source, root: Path, quiet: bool) -> Recording:
    """
    Open the cache of a bag, or build it first; of several processes one builds, the others wait.

    :param root: folder of all caches
    :raises BagError: the bag is not usable; the folder cannot be written, or has too little space
    """
    key = cache_key(source)
    try:
        found = open_folder(root, key, source)
        if found is not None:
            return found
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f'{key}.lock', source, quiet):
            found = open_folder(root, key, source)
            if found is None:
                _build(source, root, key, quiet)
                found = open_folder(root, key, source)
    except OSError as error:
        if error.errno in DISK_FULL:
            free = shutil.disk_usage(root).free
            raise BagError(
                f'{root} is full: {source.name} takes {size_text(needed_bytes(source))}, of which '
                f'{size_text(free)} are free now that what was written is gone; {REMEDY}'
            ) from error
        raise BagError(
            f'the cache folder {root} cannot be used: {error}; give another as data.cache_dir, '
            'or set data.cache: ram'
        ) from error
    if found is None:
        raise BagError(f'the cache of {source.name} in {root} was changed while it was opened')
    return found


def needed_bytes(source: Source) -> int:
    """Size of all frames, and of all depths, at training size."""
    pixels = source.size[0] * source.size[1]
    depths = source.depth.count if source.depth else 0
    return pixels * (3 * source.count + 2 * depths)


def size_text(count: int) -> str:
    """Bytes as people read them."""
    units = ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB'))
    size, unit = next((u for u in units if count >= u[0]), units[-1])
    return f'{count / size:.1f} {unit}'


def _check_memory(source: Source) -> None:
    """Where the system tells it, whether the frames fit; else it would be killed on the way."""
    meminfo = Path('/proc/meminfo')
    if not meminfo.exists():
        return
    lines = dict(line.split(':') for line in meminfo.read_text().splitlines())
    free = 1024 * int(lines['MemAvailable'].split()[0])
    if needed_bytes(source) > free:
        raise BagError(
            f'{source.name} takes {size_text(needed_bytes(source))} of memory, of which '
            f'{size_text(free)} are free: set data.cache: disk, or a smaller size'
        )


def _announce(source: Source, where: str, quiet: bool) -> None:
    if not quiet:
        height, width = source.size
        print(
            f'{source.name}: {source.count} images become {width}x{height}, '
            f'{size_text(needed_bytes(source))}, {where}',
            flush=True,
        )


def _build(source: Source, root: Path, key: str, quiet: bool) -> None:
    work = root / f'.{key}{PARTIAL}'
    shutil.rmtree(work, ignore_errors=True)  # a leftover: this process holds the lock
    _remove_leftovers(root)
    _announce(source, f'kept in {root}', quiet)
    needed, free = needed_bytes(source), shutil.disk_usage(root).free
    if needed > free:
        raise BagError(
            f'{source.name} takes {size_text(needed)} in {root}, which has {size_text(free)} '
            f'free: {REMEDY}'
        )
    bag_name = source.bag.resolve().name
    try:
        work.mkdir()
        with FileSink(work / FRAMES) as frames, FileSink(work / DEPTH) as depths:
            readings = read_bag(source, frames, depths, quiet)
        write_index(work, source, readings, arrange(readings, source))
        # Whatever bears this key could not be opened
        for broken in root.glob(f'*-{key}'):
            shutil.rmtree(broken)
        work.rename(root / f'{bag_name}-{key}')
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    """Remove what was not built to its end: what no process holds the lock of."""
    for folder in root.glob(f'.*{PARTIAL}'):
        key = folder.name.split('.')[1]
        # A leftover of another user is not ours to remove
        with suppress(PermissionError), (root / f'{key}.lock').open('a') as file:
            if _lock_if_free(file):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path, source: Source, quiet: bool) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    with path.open('a') as file:
        if not _lock_if_free(file):
            if not quiet:
                print(f'{source.name}: another process is reading it; waiting', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_if_free(file: TextIO) -> bool:
    """Lock an open file until it is closed, unless somebody else does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
