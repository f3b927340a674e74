"""The teacher of motion consistency: frozen, the same for a whole run or another every epoch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import WeightsError, load_weights
from tc_depth_ros.network.monodepth import Monodepth

EPOCHS = 'epochs'  # folder within a run's, one weights file for each


def epoch_file(run: Path, epoch: int) -> Path:
    """Where a run keeps the weights that it had at the end of an epoch, counted from 0."""
    return run / EPOCHS / f'weights_{epoch:04d}.safetensors'


class Teacher:
    """A depth network that is asked, and never trained."""

    def __init__(self, path: Path, device: torch.device | str = 'cpu') -> None:
        """
        Find the teacher and load it as it is at the first epoch.

        :param path: a weights file; or the folder of a run that saved every epoch, whose network
            of the same epoch then teaches, as in the paper
        :raises WeightsError: there is none, or it cannot be used
        """
        if not path.exists():
            raise WeightsError(
                f'teacher {path} does not exist: set teacher to weights that do, or to the folder '
                'of a run with save_every_epoch: true'
            )
        self._device = device
        self._files = [path]
        if path.is_dir():
            self._files = sorted((path / EPOCHS).glob('weights_*.safetensors'))
            if not self._files:
                raise WeightsError(
                    f'teacher {path} has no {EPOCHS}/weights_NNNN.safetensors: train it with '
                    'save_every_epoch: true, or give one weights file'
                )
        self._load(self._files[0])

    def begin_epoch(self, epoch: int) -> None:
        """Take the weights of an epoch; beyond the last file, the last."""
        file = self._files[min(epoch, len(self._files) - 1)]
        if file != self.file:
            self._load(file)

    @torch.no_grad()
    def depth(self, images: Tensor, K: Tensor, target: int) -> Tensor:
        """
        Depth of the target at full size, in the teacher's own unit.

        :param images: the window as it is, not augmented, (B, F, 3, H, W)
        :param K: (B, 3, 3)
        :return: (B, 1, H, W)
        """
        # A single-frame network need not see the others
        shown, index = images, target
        if isinstance(self._network, Monodepth):
            shown, index = images[:, target : target + 1], 0
        disparity = self._network(shown, K).disparities[0][:, index]
        config = self._network.config
        return depth_from_disparity(disparity, config.min_depth, config.max_depth)

    def _load(self, file: Path) -> None:
        self._network = load_weights(file, self._device).network.requires_grad_(False)
        self.file = file
