"""Batches of windows, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from tc_depth_training.data.windows import Batch, WindowDataset


def share_of_batch(batch_size: int, processes: int) -> int:
    """Windows of a batch that each process takes; raises ValueError where they cannot share it."""
    if batch_size % processes:
        raise ValueError(
            f'batch_size {batch_size} cannot be shared evenly by {processes} processes: make it a '
            f'multiple, such as {processes * max(1, batch_size // processes)}'
        )
    return batch_size // processes


class EpochSampler(Sampler[list[int]]):
    """
    Numbers of the windows of each batch.

    A batch is one over all processes, of which each takes its share, so that two processes learn
    from the same windows as one. Windows that fill no batch are left to another epoch.
    """

    def __init__(
        self, windows: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        """
        Begin with epoch 0.

        :param windows: of the dataset
        :param batch_size: over all processes
        :param rank: of this process
        :raises ValueError: the processes cannot share a batch evenly
        """
        self._windows, self._batch_size, self._seed = windows, batch_size, seed
        self._share, self._rank = share_of_batch(batch_size, processes), rank
        self._epoch, self._first = 0, 0

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return self._windows // self._batch_size

    def __len__(self) -> int:
        """Count the batches from here to the end of the epoch."""
        return max(0, self.batches - self._first)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the order of the next iteration, and where it begins."""
        self._epoch, self._first = epoch, first_batch

    def __iter__(self) -> Iterator[list[int]]:
        """Hand out this process's share of each batch."""
        entropy = np.random.SeedSequence((self._seed, self._epoch))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))
        order = torch.randperm(self._windows, generator=generator)
        begin = self._rank * self._share
        for batch in range(self._first, self.batches):
            start = batch * self._batch_size + begin
            yield order[start : start + self._share].tolist()


def open_loader(
    dataset: WindowDataset,
    batches: Sampler[list[int]] | Sequence[list[int]],
    workers: int = 0,
    start_method: str = '',
    device: torch.device | str = 'cpu',
) -> DataLoader[Batch]:
    """
    Read batches, in this process or in workers that stay for the next epoch.

    :param batches: numbers of windows; asked anew by each iteration, always in this process
    :param start_method: of the workers; empty: Python's
    :param device: that the batches go to; for CUDA they are put into pinned memory
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context=(start_method or None) if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.device(device).type == 'cuda',
        worker_init_fn=_start_worker,
    )


def _as_it_is(batch: Any) -> Any:
    """The dataset gives whole batches, which DataLoader takes for lists of items."""
    return batch


def _start_worker(worker: int) -> None:
    # A scheduler and Ctrl-C tell the whole group; a run that is to save needs its workers for that
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)  # its threads do not outlive a fork, and would be waited for
