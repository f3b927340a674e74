"""Several processes, as torchrun starts them, learn what one process learns."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tc_depth_ros.network.checkpoint import load_weights
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config_file import load_config
from tc_depth_training.run_folder import CONFIG_NAME, LOG_NAME, WEIGHTS_NAME
from tc_depth_training.run_state import RunState
from tc_depth_training.synthetic import render_recording

REPOSITORY = Path(__file__).parents[1]
SETTINGS = [
    'data.height=32',
    'data.width=48',
    'network.imagenet=false',
    'network.initial_depth=4.5',
    'loss.scales=[0, 2]',
    'validation.share=0.3',
    'validation.every_steps=1',
    'watch.tensorboard=false',
    'batch_size=4',
    'pose=odometry',
    'steps=1',
    'save_every_steps=1',
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, render_recording(frames=24, height=96, width=144))
    return path


def command(bag: Path, out: Path) -> list[str]:
    settings = [part for value in SETTINGS for part in ('--set', value)]
    return ['-m', 'tc_depth_training.cli', 'train', str(bag), '--out', str(out), *settings]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port: int = free.getsockname()[1]
    return port


def started(arguments: list[str], cache: Path, **variables: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / 'training')])
    environment = {
        **os.environ,
        'PYTHONPATH': paths,
        'OMP_NUM_THREADS': '1',
        'XDG_CACHE_HOME': str(cache),
        'GLOO_SOCKET_IFNAME': 'lo',
        **variables,
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def finish(*processes: subprocess.Popen[str]) -> str:
    said = [process.communicate(timeout=240) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    return ''.join(out for out, _ in said)


@pytest.fixture(scope='module')
def alone(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('alone')
    finish(started(command(bag, out), tmp_path_factory.mktemp('cache')))
    return out


def moments(out: Path) -> list[Tensor]:
    """Adam's means of the gradients, which are its first step's gradients, times a tenth."""
    state: dict[int, Any] = RunState.load(out).learner['optimizer']['state']
    return [state[key]['exp_avg'] for key in sorted(state)]


def validations(out: Path) -> list[float]:
    entries = [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]
    return [v for e in entries for v in e.get('validation', {}).values()]


def assert_alike(a: Path, b: Path) -> None:
    """
    The same but for rounding.

    In float32 the order of summing alone moves pixels at the edge of a mask from one side to the
    other: the same windows in another order change the gradients of one process by 1e-5 of the
    largest. test_processes.py compares in float64, to 1e-9.
    """
    ours, theirs = moments(a), moments(b)
    largest = max(float(x.abs().max()) for x in theirs)
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=0, atol=1e-4 * largest)
    assert validations(a) == pytest.approx(validations(b), rel=1e-4)
    image = torch.rand(1, 3, 3, 32, 48, generator=torch.manual_seed(0))
    K = torch.tensor([[[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]])
    with torch.inference_mode():
        disparity, expected = (
            load_weights(x / WEIGHTS_NAME).network(image, K).disparities[0] for x in (a, b)
        )
    torch.testing.assert_close(disparity, expected, rtol=1e-3, atol=1e-5)


def test_two_processes_on_one_machine_equal_one(bag: Path, tmp_path: Path, alone: Path) -> None:
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    out = tmp_path / 'out'
    said = finish(started([*launcher, *command(bag, out)], tmp_path / 'cache'))
    assert_alike(out, alone)
    assert said.count('wrote') == said.count('windows to learn from') == 1  # rank 0 alone speaks
    assert len(list((tmp_path / 'cache' / 'tc_depth').glob('room-*'))) == 1


def test_two_machines_equal_one(bag: Path, tmp_path: Path, alone: Path) -> None:
    port = free_port()
    launcher = ['-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=1', '--rdzv-id=x']
    launcher += ['--rdzv-backend=c10d', f'--rdzv-endpoint=127.0.0.1:{port}']
    machines = [
        started([*launcher, *command(bag, tmp_path / 'out')], tmp_path / f'cache_{number}')
        for number in range(2)
    ]
    finish(*machines)
    assert_alike(tmp_path / 'out', alone)


def test_resumed_the_first_process_alone_needs_the_folder(
    bag: Path, tmp_path: Path, alone: Path
) -> None:
    """Its settings, which are not said again, reach a machine that cannot see it."""
    out = tmp_path / 'out'
    shutil.copytree(alone, out)
    rank = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    resume = ['-m', 'tc_depth_training.cli', 'train', str(bag), '--resume']
    resume += ['--set', 'data.cache=ram', '--out']
    finish(
        started([*resume, str(out)], tmp_path / 'cache_0', RANK='0', **rank),
        started([*resume, str(tmp_path / 'nowhere')], tmp_path / 'cache_1', RANK='1', **rank),
    )
    assert load_config(out / CONFIG_NAME).data.cache == 'ram'
    assert not (tmp_path / 'nowhere').exists()
