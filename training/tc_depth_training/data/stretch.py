"""
A stretch of a bag, in seconds since its first image, and how people ask for it.

Two stretches that meet, as ``bag@:42`` and ``bag@42:``, share no image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.clock import clock_epochs
from tc_depth_training.data.topics import BagError
from tc_depth_training.usage import UsageError

LATEST_NS, LATEST_S = np.iinfo(np.int64).max, 9e9
HOW = '--start S and --end S, or BAG@START:END'


class StretchError(UsageError):
    """A stretch that cannot be meant; the message names the remedy."""


@dataclass(frozen=True)
class Interval:
    """Which images of a bag count: those with start_ns <= header stamp < end_ns."""

    start_ns: int = 0
    end_ns: int = LATEST_NS

    def holds(self, stamp_ns: int) -> bool:
        """Whether a stamp is within."""
        return self.start_ns <= stamp_ns < self.end_ns

    def all_held(self, stamps_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the stamps are within, (N,)."""
        return (self.start_ns <= stamps_ns) & (stamps_ns < self.end_ns)


EVERYTHING = Interval()


@dataclass(frozen=True)
class Stretch:
    """The images with start_s <= t < end_s; the first image of the bag has t = 0."""

    start_s: float = 0.0
    end_s: float | None = None  # None: to the end

    def __post_init__(self) -> None:
        """Refuse times that no image can have; raises StretchError."""
        for name, value in (('start', self.start_s), ('end', self.end_s)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise StretchError(
                    f'the {name} of a stretch is {value:g} s: give the seconds since the first '
                    'image, 0 or more'
                )
        if self.end_s is not None and self.end_s <= self.start_s:
            raise StretchError(
                f'a stretch starts at {_text(self.start_s)} s and ends at {_text(self.end_s)} s: '
                'give an end after its start'
            )

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self == WHOLE

    @property
    def bounds_ns(self) -> tuple[int, int]:
        """Start and end since the first image."""
        return _nanoseconds(self.start_s), _nanoseconds(self.end_s)

    @property
    def suffix(self) -> str:
        """What is said behind the name of a bag; '' where nothing is left out."""
        return '' if self.is_whole else f' {self}'

    def __str__(self) -> str:
        """Say it to people."""
        start = _text(self.start_s)
        return f'from {start} s on' if self.end_s is None else f'{start} to {_text(self.end_s)} s'

    def argument(self) -> str:
        """What stands behind BAG on the command line."""
        return f'@{_text(self.start_s)}:{"" if self.end_s is None else _text(self.end_s)}'

    def overlaps(self, other: Stretch) -> bool:
        """Whether both may hold the same image."""
        (start, end), (start_of_other, end_of_other) = self.bounds_ns, other.bounds_ns
        return start < end_of_other and start_of_other < end

    def interval(self, first_ns: int) -> Interval:
        """
        Give the stamps that are meant.

        :param first_ns: stamp of the first image
        """
        start_ns, end_ns = self.bounds_ns
        return Interval(min(first_ns + start_ns, LATEST_NS), min(first_ns + end_ns, LATEST_NS))

    def interval_of(self, stamps_ns: NDArray[np.int64], images: str) -> Interval:
        """
        Give the stamps that are meant, some of which there must be.

        :param stamps_ns: of all images in the order recorded, at least one, (N,)
        :param images: what these are, for the message
        :raises BagError: no image is within, or the clock jumps back
        """
        jumps = np.flatnonzero(np.diff(clock_epochs(stamps_ns)))
        if jumps.size:
            raise BagError(
                f'the clock of {images} jumps back after image {jumps[0] + 1}, so that a time '
                'since the first image may be that of two: cut the bag there, or use all of it'
            )
        interval = self.interval(int(stamps_ns.min()))
        if not interval.all_held(stamps_ns).any():
            raise self.without_image(images, float(np.ptp(stamps_ns)) * 1e-9)
        return interval

    def without_image(self, images: str, last_s: float) -> BagError:
        """
        Say that there is none.

        :param last_s: time of the last image
        """
        return BagError(
            f"{images} has no image in the stretch '{self}': its last image is at {last_s:.3f} s. "
            f'Give a stretch with images in it ({HOW})'
        )


WHOLE = Stretch()


@dataclass(frozen=True)
class BagPart:
    """A bag, and what of it is to be used."""

    path: Path
    stretch: Stretch | None = None  # None: what is asked of all bags

    @classmethod
    def of(cls, bag: Path | BagPart) -> BagPart:
        """Take a path for a bag of which nothing more is said."""
        return bag if isinstance(bag, BagPart) else cls(Path(bag))

    def stretch_or(self, asked: Stretch) -> Stretch:
        """Its own stretch, else the one asked of all bags."""
        return asked if self.stretch is None else self.stretch


def parse_bag(text: str) -> BagPart:
    """
    Read ``BAG`` or ``BAG@START:END``, in s; either of the two may be empty, as in ``BAG@42:``.

    What exists by that name is a path, whatever is in it.

    :raises StretchError: what stands behind the @ is no stretch
    """
    path, _, behind = text.rpartition('@')
    no_stretch = not path or '/' in behind or not (':' in behind or Path(path).exists())
    if no_stretch or Path(text).exists():
        return BagPart(Path(text))
    try:
        return BagPart(Path(path), _parse(behind))
    except StretchError as error:
        raise StretchError(f'{text}: {error}') from error


def _parse(text: str) -> Stretch:
    start, colon, end = text.partition(':')
    try:
        if not colon:
            raise ValueError('one number')
        times = float(start or 0), float(end) if end else None
    except ValueError as error:
        raise StretchError(
            f"'{text}' is no stretch: give BAG@START:END in seconds since the first image, as "
            'BAG@0:42, BAG@:42 or BAG@42:'
        ) from error
    return Stretch(*times)


def _nanoseconds(seconds: float | None) -> int:
    return LATEST_NS if seconds is None else round(min(seconds, LATEST_S) * 1e9)


def _text(seconds: float) -> str:
    """All digits down to a nanosecond, and none that say nothing."""
    return f'{seconds:.9f}'.rstrip('0').rstrip('.')
