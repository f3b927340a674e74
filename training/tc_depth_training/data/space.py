"""How much room recordings take, and whether there is as much: known before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tc_depth_training.data.bag import BagError
from tc_depth_training.data.source import Source

REMEDY = 'give a folder with more space as data.cache_dir, set data.cache: none, or a smaller size'


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


def announce(sources: Sequence[Source], where: str) -> None:
    """Say what these become, one by one and together."""
    several = len(sources) > 1
    for source in sources:
        height, width = source.size
        print(
            f'{source.name}: {source.count} images become {width}x{height}, '
            f'{size_text(needed_bytes(source))}{"" if several else f", {where}"}',
            flush=True,
        )
    if several:
        print(f'{size_text(sum(map(needed_bytes, sources)))} together, {where}', flush=True)


def check_disk(sources: Sequence[Source], root: Path, free: int) -> None:
    """Whether these fit into a folder with so many bytes free; raises BagError."""
    if sum(map(needed_bytes, sources)) > free:
        raise BagError(
            f'too little space: {_sum_text(sources)} would be kept in {root}, which has '
            f'{size_text(free)} free: {REMEDY}'
        )


def free_memory() -> int | None:
    """Bytes of memory to be had, where the system tells it."""
    meminfo = Path('/proc/meminfo')
    if not meminfo.exists():
        return None
    lines = dict(line.split(':') for line in meminfo.read_text().splitlines())
    return 1024 * int(lines['MemAvailable'].split()[0])


def check_memory(sources: Sequence[Source], processes: int = 1) -> None:
    """
    Whether these fit into memory, or the process would be killed on the way; raises BagError.

    :param processes: of this machine, each of which holds them
    """
    free = free_memory()
    if free is not None and processes * sum(map(needed_bytes, sources)) > free:
        held = 'held' if processes == 1 else f'held by each of {processes} processes'
        raise BagError(
            f'too little memory: {_sum_text(sources)} would be {held}, and {size_text(free)} are '
            'free: set data.cache: disk, or a smaller size'
        )


def _sum_text(sources: Sequence[Source]) -> str:
    """The parts, and what they come to."""
    parts = ' + '.join(f'{s.name} {size_text(needed_bytes(s))}' for s in sources)
    total = size_text(sum(map(needed_bytes, sources)))
    return f'{parts} = {total}' if len(sources) > 1 else parts
