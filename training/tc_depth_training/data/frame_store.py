"""Where the pixels of a recording are: in memory, in a file, or still in the bag."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.camera_info import Calibration
from tc_depth_ros.frames.decoder import is_rectified
from tc_depth_ros.frames.frame import decode_image
from tc_depth_ros.frames.preprocessing import resize_image
from tc_depth_training.data.bag import Bag


class FrameStore(Protocol):
    """N images of one size, (H, W, 3) uint8 of colours or (H, W) float16 of depths."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy the images of these rows (n,), which may repeat, to (n, ...)."""
        ...


@dataclass(frozen=True)
class RamFrames:
    """Images in memory."""

    images: NDArray[Any]  # (N, ...)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy images."""
        return np.asarray(self.images[rows])


@dataclass(frozen=True)
class ReorderedFrames:
    """Images of another store, some of them, in another order."""

    store: FrameStore
    order: NDArray[np.int64]  # (N,) rows of the store

    def __len__(self) -> int:
        """Count the images."""
        return len(self.order)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy images."""
        return self.store.read(self.order[rows])


@dataclass(frozen=True)
class DiskFrames:
    """
    Images in a file, one after the other, without a header.

    The file is mapped at once, so that it may be deleted afterwards. A map has no place in the
    file, as what is open for reading has, so a fork may share it; what is pickled maps it anew.
    """

    path: Path
    shape: tuple[int, ...]  # (N, ...)
    dtype: str = 'uint8'
    _images: NDArray[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Map the file; raises OSError if it is missing, ValueError if of another size."""
        size, needed = self.path.stat().st_size, prod(self.shape) * np.dtype(self.dtype).itemsize
        if size != needed:
            raise ValueError(f'{self.path} has {size} bytes instead of {needed}')
        # There is no map of nothing
        images = (
            np.memmap(self.path, self.dtype, 'r', shape=self.shape)
            if needed
            else np.empty(self.shape, self.dtype)
        )
        object.__setattr__(self, '_images', images)

    def __reduce__(self) -> tuple[type[DiskFrames], tuple[Path, tuple[int, ...], str]]:
        """Send where the images are, not the images."""
        return DiskFrames, (self.path, self.shape, self.dtype)

    def __len__(self) -> int:
        """Count the images."""
        return self.shape[0]

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy images."""
        return np.asarray(self._images[rows])


@dataclass
class _PerProcess:
    """
    Something opened where it is used: what was open before a fork would share its place in it.

    It is left behind when its owner is pickled to another process.
    """

    opened: Any = None
    process: int = -1

    def __reduce__(self) -> tuple[type[_PerProcess], tuple[()]]:
        return _PerProcess, ()


@dataclass(frozen=True)
class BagFrames:
    """Images that are found in the bag and decoded each time: slow, and needs no space."""

    bag: Path
    topic: str
    size: tuple[int, int]  # (height, width)
    stamps_ns: NDArray[np.int64]  # (N,)
    log_ns: NDArray[np.int64]  # (N,), when they were recorded
    camera: NDArray[np.int64]  # (N,) into calibrations
    calibrations: tuple[Calibration, ...]
    _reader: _PerProcess = field(default_factory=_PerProcess, repr=False, compare=False)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.stamps_ns)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read and decode images."""
        if self._reader.process != os.getpid():
            rectify = not is_rectified(self.topic)
            models = [CameraModel.from_calibration(c, rectify) for c in self.calibrations]
            self._reader.opened = Bag(self.bag).__enter__(), models
            self._reader.process = os.getpid()
        return np.stack([self._read(int(row)) for row in rows])

    def _read(self, row: int) -> NDArray[np.uint8]:
        bag, models = self._reader.opened
        message = bag.image_at(self.topic, int(self.log_ns[row]), int(self.stamps_ns[row]))
        rectified = models[self.camera[row]].rectify(decode_image(message))
        return resize_image(rectified, self.size)
