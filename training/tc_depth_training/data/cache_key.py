"""
What a bag contains, as a short name: the key of its cache.

Of a bag up to 64 MiB every byte counts. Of a larger one the sizes of all its files do, and of each
large file the beginning, the end, and blocks spread evenly between. Neither path nor time counts,
so a copy, a bag that was moved or touched, and the same bag on another machine have one key.

Noticed: whatever changes a size, and whatever was recorded, cut, filtered, compressed or converted
anew. An MCAP ends with its summary (counts, times and places of the chunks) and that one's CRC, an
sqlite3 file counts its transactions on its first page, metadata.yaml counts messages. Not noticed:
bytes of a large file that are overwritten where they lie, between the blocks, by something that
leaves those alone. A stray file beside the bag's counts as a part of it; a folder does not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tc_depth_training.data.source import Source
from tc_depth_training.data.stretch import Stretch
from tc_depth_training.data.transform_tree import Chain

FORMAT = 2  # of the cache; another decoder or layout needs another number
HASHED_WHOLE = 64 * 2**20  # bytes of a bag; of what is beyond, samples are read
EDGE = 2**20  # bytes from the beginning and from the end of a file
BLOCK = 64 * 2**10  # bytes of a sample between
BLOCKS, FEWEST = 64, 4  # samples of a bag, shared by its files; at least so many of each
KEY_LENGTH = 24


def cache_key(source: Source) -> str:
    """Name what is read of a bag, its stretch too, and the bag by its content; raises OSError."""
    return key_of_stretch(key_of_bag(source), source.stretch)


def key_of_stretch(bag_key: str, stretch: Stretch) -> str:
    """Name a stretch of what a key names."""
    if stretch.is_whole:
        return bag_key
    named = repr((bag_key, stretch.bounds_ns))
    return hashlib.sha256(named.encode()).hexdigest()[:KEY_LENGTH]


def key_of_bag(source: Source) -> str:
    """Name the same of all of the bag, whatever the stretch."""
    asked = (
        FORMAT,
        source.camera,
        source.size,
        source.odometry and (source.odometry.topic, _links(source.odometry.child_T_camera)),
        source.depth and source.depth.topic,
        source.depth
        and source.depth.camera_T_points is not None
        and source.depth.camera_T_points.tolist(),
    )
    digest = hashlib.sha256(repr(asked).encode())
    files = [source.bag]
    if source.bag.is_dir():
        files = sorted(path for path in source.bag.iterdir() if path.is_file())
    blocks = max(FEWEST, BLOCKS // len(files))
    budget = HASHED_WHOLE
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, 'little'))
        if size <= budget:
            budget -= size
            _add_whole(digest, file)
        else:
            _add_samples(digest, file, size, blocks)
    return digest.hexdigest()[:KEY_LENGTH]


def _links(chain: Chain) -> list[object]:
    """Which links stand how, or move: where those stand is part of the bag's content."""
    return [
        [
            (str(link), link.parent_T_child is not None and link.parent_T_child.tolist())
            for link in part
        ]
        for part in (chain.to_target, chain.to_source)
    ]


def _add_whole(digest: hashlib._Hash, file: Path) -> None:
    with file.open('rb') as opened:
        while block := opened.read(2**20):
            digest.update(block)


def _add_samples(digest: hashlib._Hash, file: Path, size: int, blocks: int) -> None:
    """Both edges, and blocks amid equal parts of what lies between."""
    between = max(0, size - 2 * EDGE)
    centres = [EDGE + between * (2 * number + 1) // (2 * blocks) for number in range(blocks)]
    samples = [(0, EDGE), *((c - BLOCK // 2, BLOCK) for c in centres), (size - EDGE, EDGE)]
    with file.open('rb') as opened:
        for start, length in samples:
            opened.seek(max(0, start))
            digest.update(opened.read(length))
