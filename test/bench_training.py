"""
Time training: the pass over a bag, the loader, a step and what it is spent on; ``make bench``.

As in bench.py, numbers belong to the machine and the moment: compare within one run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from bench import show, time_in_turns

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config import TrainingConfig
from tc_depth_training.config_file import load_config
from tc_depth_training.data.load import load_recordings
from tc_depth_training.data.loader import EpochSampler, open_loader
from tc_depth_training.data.windows import FRAMES, Batch, WindowDataset
from tc_depth_training.processes import Processes
from tc_depth_training.run import Run
from tc_depth_training.starting_model import starting_model
from tc_depth_training.synthetic import iterate_recording
from tc_depth_training.training_data import load_training_data

ALONE = Processes(0, 1, torch.device('cpu'))
RENDERED = 150  # frames of 640x480, JPEG
EPOCHS = 3  # of each loader, after one that starts its workers
TARGET = FRAMES // 2


def seconds(work: Iterator[object]) -> float:
    """How long an iterator takes to its end."""
    started = time.perf_counter()
    for _ in work:
        pass
    return time.perf_counter() - started


def time_pass(bag: Path, config: TrainingConfig) -> None:
    """Frames per second from the bag to the cache, and of the cache when it is there."""
    for title in ('pass over the bag', 'the same from the cache'):
        started = time.perf_counter()
        load_recordings([bag], config.data, pose_required=False, quiet=True)
        spent = time.perf_counter() - started
        print(f'  {title:<44} {RENDERED / spent:9.0f} frames/s')


def time_loader(windows: WindowDataset, batch_size: int, workers: Sequence[int]) -> None:
    """Windows per second of the loader alone."""
    for count in workers:
        sampler = EpochSampler(len(windows), batch_size, seed=0)
        loader = open_loader(windows, sampler, count)
        seconds(iter(loader))
        spent = sum(seconds(iter(loader)) for _ in range(EPOCHS))
        read = EPOCHS * sampler.batches * batch_size
        print(f'  {f"loader, {count} workers":<44} {read / spent:9.0f} windows/s')


def endless(run: Run) -> Iterator[Batch]:
    """Batches of a run, without end."""
    while True:
        yield from run.batches()
        run.steps_done = 0


def time_step(run: Run) -> dict[str, float]:
    """Milliseconds of a whole step, data included, and of its parts."""
    batches, model = endless(run), run.learner.model
    batch = next(batches).to('cpu')

    def networks() -> None:
        """Forward and backward of the networks, by losses that cost nothing."""
        output = model.predict(batch.images, batch.K)
        total = sum(disparity.sum() for disparity in output.disparities)
        if output.coarse_inverse_depth is not None:
            total = total + output.coarse_inverse_depth.sum()
        if model.pose_net is not None:
            for source in (0, 2):
                total = total + model.learned_motion(batch.images, TARGET, source).sum()
        torch.as_tensor(total).backward()

    return time_in_turns(
        {
            'step, data included': lambda: run.learn(next(batches)),
            'networks and losses': lambda: model(
                batch, batch.images, TARGET, False
            ).total.backward(),
            'networks': networks,
            'data': lambda: next(batches),
        }
    )


def main() -> None:
    """Time a small training run on a rendered room."""
    config = load_config(None, ['network.imagenet=false', 'network.initial_depth=4.5'])
    with tempfile.TemporaryDirectory() as folder:
        data = replace_cache(config, Path(folder) / 'cache')
        bag = Path(folder) / 'room'
        write_bag(bag, iterate_recording(RENDERED, 480, 640))
        size = f'{config.data.width}x{config.data.height}'
        print(f'\ntraining: {RENDERED} frames of 640x480 JPEG to {size}')
        time_pass(bag, data)
        loaded = load_training_data([bag], data, quiet=True)
        time_loader(loaded.learned, config.batch_size, (0, 1, 2))
        times = time_step(Run(data, loaded, starting_model(data), ALONE))
        show(f'training, small, batch {config.batch_size}, poses learned', times)
        show_shares(times)


def replace_cache(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The same with a cache of its own."""
    data = config.data.model_copy(update={'cache_dir': str(folder)})
    return config.model_copy(update={'data': data})


def show_shares(times: dict[str, float]) -> None:
    """What a step is spent on."""
    whole, both, networks, data = times.values()
    shares = {'data': data, 'networks': networks, 'losses': both - networks}
    shares['optimiser, running mean, mirror, colours'] = whole - both - data
    print(f'  {whole / 1000:.2f} s per step, of which')
    for name, milliseconds in shares.items():
        print(f'  {name:<44} {100 * milliseconds / whole:9.1f} %')


if __name__ == '__main__':
    print(f'{torch.get_num_threads()} threads, torch {torch.__version__}')
    main()
