"""Odometry that does not fit the images is found, where it is wrong and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import batch_of, recording_of, recording_of_views, shared_bag
from numpy.typing import NDArray
from oracle import Oracle

from tc_depth_ros.network.checkpoint import load_weights
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training.data.load import read_recording
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.windows import WindowDataset, Windows, find_windows
from tc_depth_training.losses.objective import ObjectiveConfig
from tc_depth_training.odometry_check import OdometryErrors, check_odometry
from tc_depth_training.odometry_trust import Distrusted, hold_against_images, trusted_windows
from tc_depth_training.odometry_verdict import BadStretch, OdometryVerdict, judge_odometry
from tc_depth_training.processes import Processes
from tc_depth_training.step import FocalFactor, TrainingModel
from tc_depth_training.synthetic import SyntheticView, render_recording

FRAMES, START, END = 60, 24, 38  # of a recording, and of its bad stretch
LOSS = ObjectiveConfig(scales=(0,))


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(FRAMES, 96, 128)


def spoiled(poses: NDArray[np.float64], kind: str, start: int, end: int) -> NDArray[np.float64]:
    """Poses whose steps from one frame to the next are wrong from start to end, (N, 4, 4)."""
    found = [poses[0]]
    turn = np.eye(4)
    c, s = np.cos(np.radians(2)), np.sin(np.radians(2))
    turn[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    for index in range(len(poses) - 1):
        step = np.linalg.inv(poses[index]) @ poses[index + 1]
        if start <= index < end:
            if kind == 'wheels slip':
                step[:3, 3] *= 3
            elif kind == 'frozen':
                step = np.eye(4)
            elif kind == 'turned':
                step = step @ turn
        found.append(found[-1] @ step)
    return np.stack(found)


def recorded(views: list[SyntheticView], kind: str) -> Recording:
    recording = recording_of_views(views)
    poses = spoiled(recording.world_T_camera, kind, START, END)
    return replace(recording, world_T_camera=poses)


def judged(
    model: TrainingModel, recording: Recording, windows: NDArray[np.int64]
) -> OdometryVerdict:
    batches = [
        # As the second recording of a run
        replace(
            batch_of(recording, *windows[i : i + 4]),
            recording=torch.ones(len(windows[i : i + 4]), dtype=torch.int64),
            window=torch.arange(i, i + len(windows[i : i + 4])),
        )
        for i in range(0, len(windows), 4)
    ]
    errors = check_odometry(model, batches, 'cpu')
    return judge_odometry(errors, recording.stamps_ns[windows[:, 1]])


def trusted(verdict: OdometryVerdict, stamps_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which windows of the only recording lie in no bad stretch, (M,)."""
    bad = [(s.start_ns <= stamps_ns) & (stamps_ns <= s.end_ns) for s in verdict.stretches]
    return np.asarray(~np.any([np.zeros(len(stamps_ns), dtype=bool), *bad], axis=0))


def consecutive(count: int, step: int = 1) -> NDArray[np.int64]:
    starts = np.arange(count - 2 * step)
    return np.stack([starts, starts + step, starts + 2 * step], axis=1)


@pytest.mark.parametrize('kind', ['clean', 'wheels slip', 'frozen', 'turned'])
def test_just_the_bad_stretch_is_found(views: list[SyntheticView], kind: str) -> None:
    model = TrainingModel(Oracle(views), None, LOSS, 'odometry', FocalFactor(2)).train()
    windows = consecutive(FRAMES)
    verdict = judged(model, recorded(views, kind), windows)
    assert model.training and not verdict.unjudged
    if kind == 'clean':
        assert not verdict.stretches
        return
    (stretch,) = verdict.stretches
    stamps = recorded(views, kind).stamps_ns[windows[:, 1]]
    wrong = (windows[:, 2] > START) & (windows[:, 0] < END)
    bad = ~trusted(verdict, stamps)
    # A running median moves the ends by a few windows
    assert (bad & wrong).sum() > 0.8 * wrong.sum() and (bad & ~wrong).sum() <= 4, kind
    assert stretch == BadStretch(1, stamps[bad].min(), stamps[bad].max())


def test_windows_without_odometry_are_passed_over(views: list[SyntheticView]) -> None:
    recording = recorded(views, 'clean')
    poses = recording.world_T_camera.copy()
    poses[10:20] = np.nan
    model = TrainingModel(Oracle(views), None, LOSS, 'odometry')
    batch = batch_of(replace(recording, world_T_camera=poses), *consecutive(FRAMES)[:30])
    errors = check_odometry(model, [batch], 'cpu')
    assert errors.window.tolist() == [*range(8), *range(20, 30)]


BASE_T_OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
THROUGHOUT: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    'axes of base_link': lambda poses: poses @ np.linalg.inv(BASE_T_OPTICAL),
    'frozen': lambda poses: np.repeat(poses[:1], len(poses), axis=0),
    'the way back': lambda poses: poses[::-1],
}


@pytest.mark.parametrize('kind', list(THROUGHOUT))
def test_odometry_that_is_wrong_throughout_is_bad(views: list[SyntheticView], kind: str) -> None:
    recording = recorded(views, 'clean')
    assert recording.world_T_camera is not None
    poses = recording.world_T_camera.copy()
    poses[:24] = THROUGHOUT[kind](poses[:24])
    wrong = replace(recording, world_T_camera=poses)
    model = TrainingModel(Oracle(views), None, LOSS, 'odometry')
    verdict = judged(model, wrong, consecutive(24))
    assert not trusted(verdict, wrong.stamps_ns[1:23]).any() and not verdict.unjudged


def test_what_is_right_of_mostly_wrong_odometry_is_kept(views: list[SyntheticView]) -> None:
    poses = recorded(views, 'clean').world_T_camera.copy()
    poses[:36] = poses[36]  # it comes late
    model = TrainingModel(Oracle(views), None, LOSS, 'odometry')
    verdict = judged(
        model, replace(recorded(views, 'clean'), world_T_camera=poses), consecutive(60)
    )
    fits = trusted(verdict, recorded(views, 'clean').stamps_ns[1:59])
    assert fits[38:].all() and not fits[:33].any()
    assert not verdict.unjudged


@pytest.mark.parametrize('factor', [0.1, 10])
def test_another_unit_than_that_of_depth_is_not_called_bad(
    views: list[SyntheticView], factor: float
) -> None:
    poses = recorded(views, 'clean').world_T_camera.copy()
    poses[:, :3, 3] *= factor
    poses[:12] = poses[12]
    other = replace(recorded(views, 'clean'), world_T_camera=poses)
    verdict = judged(TrainingModel(Oracle(views), None, LOSS, 'odometry'), other, consecutive(40))
    assert verdict.unjudged == (1,)
    fits = trusted(verdict, other.stamps_ns[1:39])
    assert fits[14:].all() and not fits[:10].any()  # a frozen pose has none


def test_what_was_not_looked_at_goes_with_what_was(views: list[SyntheticView]) -> None:
    """Else the ends of each segment would be learned from, where all of it is wrong."""
    poses = np.repeat(recorded(views, 'clean').world_T_camera[:1], FRAMES, axis=0)
    segment = np.repeat([0, 1], FRAMES // 2)
    recording = replace(recorded(views, 'clean'), world_T_camera=poses, segment=segment)
    indices = consecutive(FRAMES)
    indices = indices[segment[indices[:, 0]] == segment[indices[:, 2]]]
    windows = Windows(indices, np.ones(len(indices), dtype=np.bool_))
    dataset = WindowDataset([recording], [windows])
    model = TrainingModel(Oracle(views), None, LOSS, 'odometry')
    alone = Processes(0, 1, torch.device('cpu'))
    findings = hold_against_images(model, dataset, 10, alone)
    assert not trusted_windows(dataset, findings.distrusted).any()
    assert len(findings.distrusted) == len(findings.told) == 2


def errors_of(rebuilt: list[float], recording: list[int] | None = None) -> OdometryErrors:
    count = len(rebuilt)
    return OdometryErrors(
        np.arange(count),
        np.array(recording or [0] * count),
        np.array(rebuilt),
        np.array(rebuilt),
        np.full(count, 0.2),
        np.full(count, 0.05),
    )


STAMPS = np.arange(40) * 100_000_000


def test_a_single_window_does_not_flicker() -> None:
    noise = 1 + 0.05 * np.sin(np.arange(40))
    once = 0.05 * noise
    once[20] = 0.3
    assert not judge_odometry(errors_of(list(once)), STAMPS).stretches
    often = 0.05 * noise
    often[20:30] = 0.15
    verdict = judge_odometry(errors_of(list(often)), STAMPS)
    assert np.flatnonzero(~trusted(verdict, STAMPS)).tolist() == list(range(20, 30))


def test_nothing_is_said_where_flow_does_not_explain_the_images_either() -> None:
    wrong = replace(errors_of([0.25] * 40), flow=np.full(40, 0.15))
    verdict = judge_odometry(wrong, STAMPS)
    assert verdict.unjudged == (0,) and not verdict.stretches
    none = judge_odometry(replace(wrong, still=np.full(40, 0.001)), STAMPS)  # nothing moves
    assert none.unjudged == (0,) and not none.stretches


def test_what_is_unusual_is_told_by_what_is_not_bad_throughout() -> None:
    rebuilt = 0.05 * (1 + 0.05 * np.sin(np.arange(200)))
    rebuilt[:120] = 0.21  # no better than standing still
    rebuilt[150:170] = 0.15  # better, but three times the flow's
    stamps = np.arange(200) * 100_000_000
    verdict = judge_odometry(errors_of(list(rebuilt)), stamps)
    assert np.flatnonzero(~trusted(verdict, stamps)).tolist() == [*range(120), *range(150, 170)]


def test_a_frozen_pose_is_bad_even_where_the_flow_is_often_lost() -> None:
    wild = 0.05 * 1.8 ** np.sin(np.arange(40))
    wild[20:30] = 0.2  # as of a camera that stands still; four times the flow's
    errors = errors_of(list(wild))
    lost = replace(errors, flow=np.where(np.arange(40) % 2, 0.2, errors.flow))
    verdict = judge_odometry(lost, STAMPS)
    assert np.flatnonzero(~trusted(verdict, STAMPS)).tolist() == list(range(20, 30))


def test_recordings_are_judged_each_by_itself_and_in_time_order() -> None:
    noise = 1 + 0.05 * np.sin(np.arange(40))
    rebuilt = np.r_[0.05 * noise, 0.1 * noise]
    rebuilt[60:70] = 0.19
    shuffled = np.random.default_rng(0).permutation(80)
    errors = errors_of(list(rebuilt), [0] * 40 + [3] * 40)
    mixed = OdometryErrors(*(x[shuffled] for x in vars(errors).values()))
    stamps = np.r_[STAMPS, STAMPS]
    verdict = judge_odometry(mixed, stamps)
    assert verdict.stretches == (BadStretch(3, 2_000_000_000, 2_900_000_000),)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['clean', 'wheels slip'])
def test_a_bad_stretch_of_a_real_recording_is_found(kind: str) -> None:
    recording = read_recording(shared_bag('kitchen_train'), (96, 128), odometry=True)
    # Its colour camera's CameraInfo is off by a tenth: see the model card
    K = recording.K.copy()
    K[:, [0, 1], [0, 1]] *= 0.8875
    start, end = 280, 385
    poses = spoiled(recording.world_T_camera, kind, start, end)
    recording = replace(recording, K=K, world_T_camera=poses)
    windows = find_windows(recording, [0.1]).indices[::5]
    model = TrainingModel(load_weights(DEFAULT_WEIGHTS).network, None, LOSS, 'odometry')
    bad = ~trusted(judged(model, recording, windows), recording.stamps_ns[windows[:, 1]])
    wrong = (windows[:, 2] > start) & (windows[:, 0] < end)
    print(f'{kind}: {bad.sum()} bad, {(bad & wrong).sum()} of {wrong.sum()} wrong ones')
    if kind == 'clean':
        assert not bad.any()
    else:
        assert (bad & wrong).sum() > 0.9 * wrong.sum()
        assert (bad & wrong).sum() > 0.8 * bad.sum()


def test_after_a_jump_of_the_clock_stamps_do_not_tell_which_lap_it_was() -> None:
    images, laps = np.zeros((20, 8, 8, 3), np.uint8), np.repeat([0, 1], 10)
    stamps = np.tile(np.arange(10) * 100_000_000, 2)
    recording = replace(recording_of(images, stamps), segment=laps)
    indices = np.array([[i, i + 1, i + 2] for i in range(20) if i % 10 < 8])
    windows = Windows(indices, np.ones(len(indices), dtype=np.bool_))
    dataset = WindowDataset([recording, recording], [windows, windows])
    bad = Distrusted(1, 0, start_ns=300_000_000, end_ns=500_000_000)
    trusted = trusted_windows(dataset, (bad,))
    assert np.flatnonzero(~trusted).tolist() == [16 + n for n in (2, 3, 4)]
    assert len(dataset.only(trusted)) == 29 and dataset.only(trusted).posed.all()


@pytest.mark.parametrize(
    ('bad', 'over_still', 'kept'),
    [(90, 0.85, 110), (110, 0.85, 90), (110, 0.9, 90), (110, 1.0, 90), (195, 0.85, 0)],
)
def test_what_is_right_is_kept_beside_more_that_is_wrong(
    bad: int, over_still: float, kept: int
) -> None:
    rebuilt = np.r_[np.full(200 - bad, 0.06), np.full(bad, 0.2 * over_still)]
    stamps = np.arange(200) * 100_000_000
    fits = trusted(judge_odometry(errors_of(list(rebuilt)), stamps), stamps)
    assert fits.sum() == pytest.approx(kept, abs=6)
    assert (kept == 0) == (not fits.any())
