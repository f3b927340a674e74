"""The processes of a run: joined, and what they know of each other; one alone asks nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

# The first process to need a cache reads whole bags while the others wait for it
PATIENCE = timedelta(hours=12)


def never() -> bool:
    """Nobody asks."""
    return False


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    count: int
    device: torch.device
    asked: Callable[[], bool] = never  # whether this process was asked to end

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        shared = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return bool(shared)

    def asked_to_end(self) -> bool:
        """Whether any process was asked to end; all of them must call together."""
        return self.any(self.asked())

    def gather(self, mine: Any) -> list[Any]:
        """What each process has, in the order of their ranks; of picklable values."""
        if self.count == 1:
            return [mine]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, mine)
        return gathered

    def from_main(self, value: Any) -> Any:
        """The main process's value."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


def world_size() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return distributed.get_world_size() if _distributed() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; all of them must call together."""
    if world_size() == 1:
        return x.detach()
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def shared_count(count: Tensor) -> Tensor:
    """
    What the sum of a loss is to be divided by, so that the mean of the processes' gradients is
    the gradient of one process with all their windows: the mean of their counts.

    Without gradients there is nothing to be equal to: each process then has its own count, and
    may look at as many windows as it likes.
    """
    return mean_over_processes(count) if torch.is_grad_enabled() else count


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def join_processes(device: str, asked: Callable[[], bool] = never) -> Iterator[Processes]:
    """
    Join the run's processes, as RANK, LOCAL_RANK, WORLD_SIZE of the environment say.

    A group that the launcher made already (Ray) is used, and left as it is.

    :param device: 'auto' is this process's GPU, or the CPU where there is none
    :param asked: whether this process was asked to end
    """
    count = int(os.environ.get('WORLD_SIZE', 1))
    chosen = _device(device)
    if chosen.type == 'cuda':
        torch.cuda.set_device(chosen)
    mine = count > 1 and not _distributed()
    if mine:
        distributed.init_process_group(
            'nccl' if chosen.type == 'cuda' else 'gloo', timeout=PATIENCE
        )
    rank = distributed.get_rank() if _distributed() else 0
    yield Processes(rank, world_size(), chosen, asked)
    # Not after an error: to leave a group in order, the others, who wait for this one, must too;
    # the launcher ends them when this process has ended
    if mine:
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = torch.device(name)
    if device.type == 'cuda' and device.index is None:
        return torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
    return device
