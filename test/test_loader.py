"""The order of the batches, processes that share them, workers, and what is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import recording_of, recording_of_views

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config import DataConfig
from tc_depth_training.data.held_out import held_out_frames, split
from tc_depth_training.data.load import load_recordings
from tc_depth_training.data.loader import EpochSampler, open_loader
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.windows import WindowDataset, Windows, find_windows

SECOND = 1_000_000_000


# The order


def test_an_epoch_is_a_permutation_of_its_own_whose_rest_is_dropped() -> None:
    sampler = EpochSampler(23, 4, seed=1)
    first = list(sampler)
    assert len(first) == len(sampler) == 5
    assert {len(batch) for batch in first} == {4}
    numbers = [number for batch in first for number in batch]
    assert len(set(numbers)) == 20 and set(numbers) <= set(range(23))
    assert list(sampler) == first == list(EpochSampler(23, 4, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(EpochSampler(23, 4, seed=2)) != first


def test_a_resumed_epoch_goes_on_where_it_was() -> None:
    sampler = EpochSampler(50, 4, seed=0)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, first_batch=5)
    assert len(sampler) == 7
    assert list(sampler) == whole[5:]
    sampler.set_epoch(3, first_batch=12)
    assert list(sampler) == [] and len(sampler) == 0


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_share_the_batches_of_one(processes) -> None:
    alone = EpochSampler(50, 8, seed=0)
    parts = [EpochSampler(50, 8, 0, rank, processes) for rank in range(processes)]
    for sampler in (alone, *parts):
        sampler.set_epoch(2)
    for batch, *shares in zip(alone, *parts, strict=True):
        assert batch == [number for share in shares for number in share]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match='batch_size 5 .* 2 processes.*such as 4'):
        EpochSampler(50, 5, 0, 0, 2)


# Workers


@pytest.fixture(scope='module')
def datasets(synthetic_views, tmp_path_factory) -> dict[str, WindowDataset]:
    """The same windows, with their frames in each of the places where they may be."""
    folder, opened = tmp_path_factory.mktemp('bags'), {}
    write_bag(folder / 'room', synthetic_views)
    for cache in ('disk', 'ram', 'none'):
        data = DataConfig(height=32, width=40, cache=cache, cache_dir=str(folder / 'cache'))
        recordings = load_recordings([folder / 'room'], data, False, quiet=True)
        opened[cache] = WindowDataset(recordings, [find_windows(r, [0.1]) for r in recordings])
        # What is open in this process must not be used by another
        assert opened[cache][0].images.any()
    return opened


@pytest.mark.parametrize(
    ('cache', 'workers', 'start_method'),
    [
        ('disk', 1, 'fork'),
        ('disk', 1, 'spawn'),
        ('none', 2, 'fork'),
        ('none', 1, 'forkserver'),
        ('ram', 2, 'fork'),
    ],
)
def test_workers_read_the_same_batches_however_they_start(
    datasets, cache, workers, start_method
) -> None:
    expected, found = [], []
    for dataset, loaded, count in (
        (datasets['ram'], expected, 0),
        (datasets[cache], found, workers),
    ):
        sampler = EpochSampler(len(dataset), 2, seed=0)
        loader = open_loader(dataset, sampler, count, start_method)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            loaded += list(loader)
    assert len(found) == len(expected) == 2 * 3
    for one, other in zip(expected, found, strict=True):
        for name, tensor in vars(one).items():
            assert torch.equal(tensor, vars(other)[name]), name


# What is held out


def still(stamps_s: np.ndarray, segment: np.ndarray | None = None) -> Recording:
    images = np.zeros((len(stamps_s), 8, 8, 3), np.uint8)
    recording = recording_of(images, np.round(stamps_s * SECOND).astype(np.int64))
    return recording if segment is None else replace(recording, segment=segment)


def triples(recording: Recording, reach: int) -> Windows:
    starts = np.arange(len(recording) - 2 * reach)
    indices = starts[:, None] + reach * np.arange(3)
    return Windows(indices, np.ones(len(indices), dtype=bool))


def stretches(held: np.ndarray) -> list[tuple[int, int]]:
    """First frame and one past the last of each block held out."""
    ends = np.flatnonzero(np.diff(held.astype(int), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in ends.reshape(-1, 2)]


def test_a_share_of_the_time_is_held_out_in_blocks_amid_equal_parts() -> None:
    recording = still(np.arange(1000) / 10)  # 100 s
    held = held_out_frames(recording, 0.1, block_s=4.0)
    # 10 s in three blocks, amid 33.3 s each
    assert [b - a for a, b in stretches(held)] in ([33, 34, 33], [34, 33, 34], [33, 33, 33])
    for (a, b), centre in zip(stretches(held), (167, 500, 833), strict=True):
        assert abs((a + b) / 2 - centre) <= 1
    assert stretches(held_out_frames(recording, 0.1, block_s=60.0)) == [(450, 550)]
    assert not held_out_frames(recording, 0.0, block_s=4.0).any()


@pytest.mark.parametrize('reach', [1, 3, 10])
def test_no_frame_is_both_learned_from_and_judged_by(reach) -> None:
    recording = still(np.arange(600) / 30)
    windows = triples(recording, reach)
    parts = split(recording, windows, share=0.2, block_s=2.0)
    learned, held = (set(w.indices.ravel().tolist()) for w in (parts.learned, parts.held_out))
    assert learned and held and not learned & held
    assert len(parts.learned) + len(parts.held_out) + parts.dropped == len(windows)
    assert parts.dropped == 2 * 2 * 2 * reach  # at both ends of both blocks
    everything = split(recording, windows, share=0.0, block_s=2.0)
    assert len(everything.learned) == len(windows) and not len(everything.held_out)


def test_time_counts_as_recorded_where_the_clock_jumps_back_or_leaves_a_gap() -> None:
    once = np.arange(200) / 10
    steady = held_out_frames(still(np.arange(400) / 10), 0.1, 10.0)
    loop = still(np.concatenate([once, once]), np.repeat([0, 1], 200))
    gap = still(np.concatenate([once, 1000 + once]))
    for recording in (loop, gap):
        assert stretches(held_out_frames(recording, 0.1, 10.0)) == stretches(steady)
    assert stretches(steady) == [(180, 220)]


def test_a_single_frame_and_no_frame_in_motion_hold_nothing_out(synthetic_views) -> None:
    assert held_out_frames(recording_of_views(synthetic_views[:1]), 0.5, 10.0).tolist() == [False]


def test_an_hour_at_30_hz_takes_no_time_beside_the_flow(monkeypatch) -> None:
    """Windows of 108000 frames by stamp; flow is measured elsewhere."""
    count = 30 * 3600
    blank = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (count, 1, 1, 3))
    recording = recording_of(blank, np.arange(count) * SECOND // 30)
    asked = []

    def flows(recording: Recording, pairs: np.ndarray, quiet: bool) -> np.ndarray:
        asked.append(len(pairs))
        return np.ones(len(pairs))

    monkeypatch.setattr('tc_depth_training.data.windows.flows_px', flows)
    windows = find_windows(recording, [0.1, 0.17])
    assert len(windows) > 215_000 and asked[0] < 216_000
    parts = split(recording, windows, 0.1, 10.0)
    assert len(parts.held_out) == pytest.approx(0.1 * len(windows), rel=0.05)
