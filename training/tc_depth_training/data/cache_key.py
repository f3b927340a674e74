"""What a bag contains, as a short name: the key of its cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tc_depth_training.data.source import Source
from tc_depth_training.data.transform_tree import Chain

FORMAT = 1  # of the cache; another decoder or layout needs another number
HASHED_WHOLE = 256 * 2**20  # bytes of a bag; of what is beyond, samples are read
BLOCK, BLOCKS = 64 * 2**10, 64  # bytes of a sample, and how many of a file
KEY_LENGTH = 24


def cache_key(source: Source) -> str:
    """Name what is read of a bag, and the bag by its content, whatever its path."""
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
        files = sorted(path for path in source.bag.rglob('*') if path.is_file())
    budget = HASHED_WHOLE
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, 'little'))
        if size <= budget:
            budget -= size
            _add_whole(digest, file)
        else:
            _add_samples(digest, file, size)
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


def _add_samples(digest: hashlib._Hash, file: Path, size: int) -> None:
    """Blocks from the first to the last; what lies between is vouched for by the file's time."""
    digest.update(file.stat().st_mtime_ns.to_bytes(8, 'little'))
    with file.open('rb') as opened:
        for number in range(BLOCKS):
            opened.seek(max(0, size - BLOCK) * number // (BLOCKS - 1))
            digest.update(opened.read(BLOCK))
