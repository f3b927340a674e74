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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from tc_depth_training.data.arrange import arrange
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.cache_files import DEPTH, FRAMES, open_folder, write_index
from tc_depth_training.data.frame_sink import FileSink, NoSink, RamSink
from tc_depth_training.data.frame_store import BagFrames, RamFrames
from tc_depth_training.data.reading import read_bag
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.source import Source, cut_to_stretch
from tc_depth_training.data.space import (
    REMEDY,
    check_disk,
    check_memory,
    needed_bytes,
    size_text,
)

PARTIAL = '.partial'
LOOK_EVERY_S = 0.5  # at a cache that another process builds
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_to_memory(source: Source, key: str, quiet: bool) -> Recording:
    """Decode a bag into memory; raises BagError."""
    source = cut_to_stretch(source, quiet)
    check_memory([source])
    frames, depths = RamSink(source.count), RamSink(source.depth.count if source.depth else 0)
    arrangement = arrange(read_bag(source, frames, depths, quiet), source)
    depth = RamFrames(depths.images) if source.depth else None
    return Recording.of(source, key, arrangement, RamFrames(frames.images), depth)


def read_without_cache(source: Source, key: str, quiet: bool) -> Recording:
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
    return Recording.of(source, key, arrange(readings, source), frames, None)


def is_kept(source: Source, key: str, root: Path) -> bool:
    """Whether a source has its cache; raises BagError where the folder cannot be used."""
    with _usable(root):
        return open_folder(root, key, source) is not None


def find_missing(keyed: Mapping[str, Source], root: Path) -> list[Source]:
    """
    Those that have no cache yet, which will fit.

    What another process has built of them so far is theirs already.

    :param keyed: by cache key
    :raises BagError: the folder cannot be used, or has too little space for all of them
    """
    with _usable(root):
        existing = next(folder for folder in (root, *root.parents) if folder.exists())
        # In this order: what is built meanwhile may count twice as free, but never as missing
        free = shutil.disk_usage(existing).free
        begun = sum(_bytes_in(root / f'.{key}{PARTIAL}') for key in keyed)
        missing = [s for key, s in keyed.items() if open_folder(root, key, s) is None]
    check_disk(missing, root, free + begun)
    return missing


def read_to_disk(source: Source, key: str, root: Path, quiet: bool) -> Recording:
    """
    Open the cache of a bag, or build it first; of several processes one builds, the others wait.

    :param root: folder of all caches
    :raises BagError: the bag is not usable; the folder cannot be written, or has too little space
    """
    with _usable(root):
        found = open_folder(root, key, source)
        if found is not None:
            return found
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root, key, source, quiet):
            found = open_folder(root, key, source)
            if found is None:
                _build(source, root, key, quiet)
                found = open_folder(root, key, source)
    if found is None:
        raise BagError(f'the cache of {source.name} in {root} was changed while it was opened')
    return found


def _build(source: Source, root: Path, key: str, quiet: bool) -> None:
    work = root / f'.{key}{PARTIAL}'
    shutil.rmtree(work, ignore_errors=True)  # a leftover: this process holds the lock
    _remove_leftovers(root)
    check_disk([source], root, shutil.disk_usage(root).free)
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
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        shutil.rmtree(work, ignore_errors=True)
        free = size_text(shutil.disk_usage(root).free)
        raise BagError(
            f'{root} is full: {source.name} takes {size_text(needed_bytes(source))}, of which '
            f'{free} are free now that what was written is gone; {REMEDY}'
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _bytes_in(folder: Path) -> int:
    """Size of its files; of one that is renamed meanwhile, what is still seen of it."""
    total = 0
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total


@contextmanager
def _usable(root: Path) -> Iterator[None]:
    """What the system refuses in the cache folder, as a BagError with the remedy."""
    try:
        yield
    except OSError as error:
        raise BagError(
            f'the cache folder {root} cannot be used: {error}; give another as data.cache_dir, '
            'or set data.cache: ram'
        ) from error


def _remove_leftovers(root: Path) -> None:
    """Remove what was not built to its end: what no process holds the lock of."""
    for folder in root.glob(f'.*{PARTIAL}'):
        key = folder.name.split('.')[1]
        # A leftover of another user is not ours to remove
        with suppress(PermissionError), (root / f'{key}.lock').open('a') as file:
            if _lock_if_free(file):
                shutil.rmtree(folder, ignore_errors=True)


def _lock_if_free(file: TextIO) -> bool:
    """Lock an open file until it is closed, unless somebody else does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(root: Path, key: str, source: Source, quiet: bool) -> Iterator[None]:
    """Hold the lock of a key, which ends with the process, however it ends."""
    with (root / f'{key}.lock').open('a') as file:
        if quiet:
            fcntl.flock(file, fcntl.LOCK_EX)
        elif not _lock_if_free(file):
            _wait(file, root / f'.{key}{PARTIAL}' / FRAMES, source)
        yield


def _wait(lock: TextIO, frames: Path, source: Source) -> None:
    """Wait for a lock, and show how far the process is that holds it."""
    title = f'another process is reading {source.name}'
    frame_bytes = 3 * source.size[0] * source.size[1]
    with tqdm(total=source.count, desc=title, unit='frame') as progress:
        while not _lock_if_free(lock):
            with suppress(FileNotFoundError):  # before it begins, and when it has ended
                progress.update(frames.stat().st_size // frame_bytes - progress.n)
            time.sleep(LOOK_EVERY_S)
