"""Where a pass over a bag puts its images."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RamSink:
    """Keeps images in memory that is taken as it fills."""

    def __init__(self, count: int) -> None:
        """Expect so many images."""
        self._count, self._filled = count, 0
        self._images: NDArray[Any] = np.empty((0,), dtype=np.uint8)

    def append(self, image: NDArray[Any]) -> None:
        """Take the next."""
        if not self._filled:
            self._images = np.empty((max(self._count, 1), *image.shape), image.dtype)
        elif self._filled == len(self._images):  # the bag has more than it says
            self._images = np.concatenate([self._images, np.empty_like(self._images)])
        self._images[self._filled] = image
        self._filled += 1

    @property
    def images(self) -> NDArray[Any]:
        """All so far."""
        return self._images[: self._filled]


class FileSink:
    """Writes images to a file, which a full disk ends by an error; by a map it were SIGBUS."""

    def __init__(self, path: Path) -> None:
        """Make the file."""
        self._file = path.open('wb')

    def append(self, image: NDArray[Any]) -> None:
        """Write the next."""
        self._file.write(np.ascontiguousarray(image).data)

    def __enter__(self) -> FileSink:
        """Go on."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; what was written is on the disk then."""
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())


class NoSink:
    """Forgets images."""

    def append(self, image: NDArray[Any]) -> None:
        """Do nothing."""
