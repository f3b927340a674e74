"""Curves and pictures in TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tc_depth_ros.pictures import RGBImage


class TensorBoard:
    """Writes a run's curves and pictures for TensorBoard."""

    def __init__(self, folder: Path, from_step: int) -> None:
        """
        Open a folder of events, to go on from a step.

        :param from_step: the last step done; TensorBoard forgets what the folder says of later
            ones. 0: a new run; it forgets all
        """
        # Seconds, and not there for everybody
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=from_step + 1 if from_step > 0 else 0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name; ``group/name`` puts curves side by side."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, RGBImage]) -> None:
        """Add pictures, RGB (H, W, 3) each, by name."""
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats='HWC')

    def close(self) -> None:
        """Write what is still on its way."""
        self._writer.close()


class NoTensorBoard:
    """In place of TensorBoard, where it is not wanted or not there."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def pictures(self, step: int, pictures: Mapping[str, RGBImage]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_tensorboard(folder: Path, from_step: int, wanted: bool) -> TensorBoard | NoTensorBoard:
    """Open a folder of events; where the package is missing, say so once and go without."""
    if not wanted:
        return NoTensorBoard()
    if find_spec('tensorboard') is None:
        print(
            'no TensorBoard: pip install tensorboard, or set watch.tensorboard to false; '
            'log.jsonl and the pictures are written all the same'
        )
        return NoTensorBoard()
    return TensorBoard(folder, from_step)
