"""Two processes, each with half of the windows, learn what one learns from all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from test_network import TINY
from test_step import LOSS, POSES, windows_of_a_room
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.data.windows import Batch
from tc_depth_training.processes import mean_over_processes, shared_count, world_size
from tc_depth_training.step import FocalFactor, PoseSource, TrainingModel
from tc_depth_training.synced_batch_norm import SyncedBatchNorm2d, synchronise_batch_norm

HEIGHT, WIDTH, WINDOWS = 32, 48, 4
# Of a process's own windows, in shares of them
OWN = {f'value {x}' for x in ('auto_mask_share', 'geometric_difference', 'disparity_spread')}
State = dict[str, Tensor]


def a_batch() -> Batch:
    """Unevenly posed and unevenly seen: the first process has less to learn from."""
    batch = windows_of_a_room(WINDOWS, HEIGHT, WIDTH)
    seen = batch.seen.clone()
    seen[0, :, :, :12] = False
    return replace(batch, posed=torch.tensor([True, False, True, True]), seen=seen)


def part_of(batch: Batch, number: int, count: int) -> Batch:
    share = slice(number * WINDOWS // count, (number + 1) * WINDOWS // count)
    return Batch(*(x[share] for x in vars(batch).values()))


def one_step(pose: PoseSource) -> State:
    """Gradients of a step on this process's part of the batch, and running statistics after it."""
    torch.manual_seed(0)
    network = TCDepth(TINY)
    pose_net = None if pose == 'odometry' else PoseNet(PoseNetConfig())
    model = TrainingModel(network, pose_net, LOSS, pose, FocalFactor(1)).double().train()
    names = list(model.state_dict())
    model = synchronise_batch_norm(model, torch.device('cpu'))
    assert list(model.state_dict()) == names
    module = DistributedDataParallel(model) if world_size() > 1 else model
    rank = distributed.get_rank() if world_size() > 1 else 0
    batch = part_of(a_batch(), rank, world_size())
    exact = {k: x.double() for k, x in vars(batch).items() if x.is_floating_point()}
    batch = replace(batch, **exact)
    loss = module(batch, batch.images, 1, False)
    loss.total.backward()
    gradients = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    values = {f'value {k}': mean_over_processes(v) for k, v in loss.values().items()}
    return gradients | dict(model.named_buffers()) | values  # type: ignore[return-value]


def one_step_by_each_pose() -> list[State]:
    # What a network answers is single precision; rounded so, near-ties of masks would fall
    # differently for one process and two
    single = Tensor.float
    Tensor.float = Tensor.double  # type: ignore[method-assign, assignment]
    try:
        return [one_step(pose) for pose in POSES]
    finally:
        Tensor.float = single  # type: ignore[method-assign]


def process(number: int, folder: Path) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder / "meet"}',
        rank=number,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    assert (world_size(), distributed.get_rank()) == (2, number)
    mean = mean_over_processes(torch.tensor([1.0 + 2 * number]))
    assert mean.item() == 2
    with torch.no_grad():  # without gradients each may look at as many windows as it likes
        assert shared_count(torch.tensor(float(number))) == number
    torch.save(one_step_by_each_pose(), folder / f'{number}.pt')
    distributed.destroy_process_group()


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[State]]:
    folder = tmp_path_factory.mktemp('processes')
    multiprocessing.spawn(process, (folder,), nprocs=2)
    first, second = (torch.load(folder / f'{number}.pt') for number in (0, 1))
    return {'one': one_step_by_each_pose(), 'first': first, 'second': second}


@pytest.mark.parametrize('pose', POSES)
def test_two_processes_are_one(results: dict[str, list[State]], pose: PoseSource) -> None:
    case = POSES.index(pose)
    one, first, second = (results[name][case] for name in ('one', 'first', 'second'))
    assert one.keys() == first.keys()
    for name in one.keys() - OWN - {'value translation'}:
        assert torch.equal(first[name], second[name]), name
        error, size = (first[name] - one[name]).abs().max(), one[name].abs().max()
        # A bias before batch normalisation learns nothing but rounding
        assert error <= 1e-9 * size + 1e-15, f'{name} differs by {error / size}'


def test_one_process_asks_nobody() -> None:
    assert world_size() == 1
    x = torch.tensor([3.0], requires_grad=True)
    assert mean_over_processes(x) == 3 and not mean_over_processes(x).requires_grad
    network: Any = synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(2)), torch.device('cpu'))
    assert not isinstance(network[0], SyncedBatchNorm2d)
