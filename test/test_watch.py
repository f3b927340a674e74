"""Watching a run: a log that survives kills and full disks, curves, and pictures."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_network import TINY, camera_matrix, frames, lively

from tc_depth_ros.network.config import MonodepthConfig
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_training.files import write_atomically
from tc_depth_training.losses.objective import Objective, ObjectiveMaps
from tc_depth_training.watch import pictures as watched
from tc_depth_training.watch.curves import training_curves
from tc_depth_training.watch.log import Curve, RunHistory, RunLog, read_log
from tc_depth_training.watch.pictures import (
    attention_pictures,
    busiest_cell,
    latest_training_sheet,
    loss_pictures,
    training_sheet,
    write_training_sheet,
)
from tc_depth_training.watch.tensorboard import NoTensorBoard, TensorBoard, open_tensorboard


@contextmanager
def disk_that_is_full_after(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: a write is cut short, then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_log_reads_back_as_curves_and_warnings(tmp_path: Path) -> None:
    path = tmp_path / 'log.jsonl'
    with RunLog(path, None) as log:
        log.warn(0, 'few windows „öäü“')
        for step in (1, 2, 3):
            values = {'total': 1 / 3 / step, 'focal_factors': {'kitchen': 0.9}}
            log.write(step, values | ({'odd': math.nan} if step == 2 else {}))
        log.validation(3, {'score': 2e-9, 'recordings': {'kitchen': 0.25}})
    assert json.loads(path.read_text().splitlines()[1])['total'] == 0.333333
    history = read_log(path)
    assert history.training['total'].steps.tolist() == [1, 2, 3]
    assert history.training['total'].values == pytest.approx([1 / 3, 1 / 6, 1 / 9], rel=1e-5)
    assert history.training['focal_factors.kitchen'].values.tolist() == [0.9] * 3
    assert history.training['odd'].steps.tolist() == [2]
    assert math.isnan(history.training['odd'].values[0])
    assert history.validation['score'].values.tolist() == [2e-9]
    assert history.validation['recordings.kitchen'].steps.tolist() == [3]
    assert [(w.step, w.text) for w in history.warnings] == [(0, 'few windows „öäü“')]


def test_going_on_drops_what_was_said_of_later_steps(tmp_path: Path) -> None:
    path = tmp_path / 'log.jsonl'
    with RunLog(path, None) as log:
        for step in range(1, 8):
            log.write(step, {'total': 1.0})
            if step in (4, 6):
                log.validation(step, {'score': float(step)})
        log.warn(7, 'late')
    with RunLog(path, 4) as log:
        log.write(5, {'total': 2.0})
    history = read_log(path)
    assert history.training['total'].steps.tolist() == [1, 2, 3, 4, 5]
    assert history.training['total'].values.tolist() == [1, 1, 1, 1, 2]
    assert history.validation['score'].steps.tolist() == [4]
    assert history.warnings == ()
    RunLog(path, None).close()
    assert path.read_bytes() == b'', 'a new run says nothing of the old one'


@pytest.mark.parametrize('torn', [b'{"step": 3, "tot', b'{"step": 3}', b'\0' * 64, b'\xff\xfe\n'])
def test_half_a_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / 'log.jsonl'
    with RunLog(path, None) as log:
        log.write(1, {'total': 1.0})
        log.write(2, {'total': 2.0})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read_log(path).training['total'].steps.tolist() == [1, 2], 'of a run under way'
    RunLog(path, 9).close()
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / 'log.jsonl'
    with RunLog(path, None) as log:
        log.write(1, {'total': 1.0})
        whole = path.read_bytes()
        with disk_that_is_full_after(len(whole) + 7), pytest.raises(OSError, match='log.jsonl'):
            log.write(2, {'total': 2.0})
        assert path.read_bytes() == whole
        log.write(2, {'total': 3.0})  # there is room again
    assert read_log(path).training['total'].values.tolist() == [1, 3]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / 'report.html'
    write_atomically(path, b'old')
    with disk_that_is_full_after(100), pytest.raises(OSError, match='report.html'):
        write_atomically(path, b'n' * 1000)
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b'new')
    assert path.read_bytes() == b'new'


def test_all_that_a_step_logs_has_a_curve_with_a_title_for_people() -> None:
    logged = {f.name for f in fields(Objective)} - {'maps'} | {'gradient_norm', 'learning_rate'}
    curves = {name: Curve(np.arange(3), np.full(3, 0.5)) for name in logged}
    factor = {'focal_factors.kitchen': Curve(np.arange(3), np.full(3, 0.9))}
    titles = training_curves(RunHistory(curves | factor, {}, ()))
    assert len(titles) == len(logged) + 1
    assert not logged & titles.keys() and 'Focal length of kitchen' in titles


def test_a_long_curve_stays_small_and_keeps_its_spikes() -> None:
    values = np.random.default_rng(0).normal(size=50_000)

    def drawn(of: np.ndarray) -> bytes:
        return training_curves(RunHistory({'total': Curve(np.arange(len(of)), of)}, {}, ()))[
            'Loss'
        ]

    plain = drawn(values)
    assert len(plain) < 40_000
    values[30_001] = 500
    assert b'>500<' in drawn(values), 'the axis reaches to the spike'
    values[30_001] = math.nan
    assert len(drawn(values)) == pytest.approx(len(plain), rel=0.02)
    assert drawn(np.full(3, math.nan)), 'nothing to draw is no reason to fail'


def maps_of(height: int = 32, width: int = 48) -> ObjectiveMaps:
    """Two windows; the second differs in all, and must not be seen."""
    half = torch.zeros(2, 1, height, width)
    half[:, :, :, width // 2 :] = 1
    half[1] = 1 - half[1]
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    return ObjectiveMaps(
        target=image,
        warped=(1 - image, 0.5 * image),
        reprojection_error=0.15 * half,
        identity_error=half,
        disparity=0.1 + 0.8 * half,
        coarse_inverse_depth=0.5 + half[:, :, ::8, ::8],
        auto_mask=half,
        cycle_masks=(1 - half, half),
        static_mask=torch.ones_like(half),
    )


def test_the_pictures_show_the_first_window() -> None:
    maps = maps_of()
    pictures = loss_pictures(maps)
    assert list(pictures) == [
        'target',
        'source 1, warped',
        'source 2, warped',
        'disparity',
        'coarse disparity',
        'reprojection error',
        'auto mask',
        'cycle mask 1',
        'cycle mask 2',
        'motion mask',
    ]
    for picture in pictures.values():
        assert picture.shape == (32, 48, 3) and picture.dtype == np.uint8
    expected = (maps.target[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.array_equal(pictures['target'], expected)
    mask = maps.auto_mask[0, 0].numpy() > 0
    assert (pictures['auto mask'][mask] == 255).all() and (pictures['auto mask'][~mask] == 0).all()
    assert (pictures['cycle mask 1'][mask] == 0).all()
    # Near is red, far is blue; an error is brighter than none
    for name in ('disparity', 'coarse disparity'):
        near, far = pictures[name][0, -1], pictures[name][0, 0]
        assert near[0] > near[2] and far[2] > far[0]
    assert pictures['reprojection error'][mask].mean() > 80
    assert pictures['reprojection error'][~mask].mean() < 5
    without = loss_pictures(replace(maps, coarse_inverse_depth=None))
    assert set(pictures) - set(without) == {'coarse disparity'}


def test_the_cell_that_is_looked_from_has_the_most_contrast() -> None:
    image = torch.full((3, 64, 96), 0.5)
    image[:, 40:48, 56:64:2] = 1.0  # row 5, column 7
    image[:, :8, :8:2] = 5.0  # stronger, but at the border, where little is seen of a scene
    assert busiest_cell(image) == (5, 7)


def test_looking_at_the_attention_leaves_the_network_as_it_was() -> None:
    network = lively(TINY).train()
    network.decoder.eval()  # frozen
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = frames(3, 64, 96, batch=2)
    pictures = attention_pictures(network, images, camera_matrix(64, 96).expand(2, 3, 3), 1)
    assert list(pictures) == [
        'spatial attention',
        'temporal attention, frame -1',
        'temporal attention, frame +1',
    ]
    # White around the cell, and brightest in it: nothing is nearer to a cell than itself
    row, column = busiest_cell(images[0, 1])
    shown = pictures['spatial attention'].sum(axis=-1, dtype=int)
    assert shown[8 * row - 2, 8 * column - 2] == 3 * 255
    assert np.argwhere(shown[4::8, 4::8] == shown[4::8, 4::8].max()).tolist() == [[row, column]]
    assert network.training and not network.decoder.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    alone = Monodepth(MonodepthConfig())
    assert attention_pictures(alone, images, camera_matrix(64, 96), 1) == {}


def test_a_sheet_has_all_pictures_and_the_newest_is_found(tmp_path: Path) -> None:
    pictures = loss_pictures(maps_of()) | {'one more': loss_pictures(maps_of())['target']}
    sheet = training_sheet(pictures)
    assert sheet.shape[1] == 5 * watched.PICTURE_WIDTH
    height = sheet.shape[0] // 3
    bottom = sheet[2 * height :]
    assert bottom[40:, : watched.PICTURE_WIDTH].any() and not bottom[40:, 330:].any()
    assert latest_training_sheet(tmp_path, 500) is None
    for step in (20, 500, 1000):
        path = write_training_sheet(tmp_path, step, pictures)
    assert path == tmp_path / 'pictures' / 'step_001000.png'
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], sheet)
    # A longer run was here before
    newest = latest_training_sheet(tmp_path, 999)
    assert newest is not None and newest.name == 'step_000500.png'


def test_tensorboard_forgets_what_is_done_again(tmp_path: Path) -> None:
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = open_tensorboard(tmp_path, 0, wanted=True)
    assert isinstance(first, TensorBoard)
    for step in (1, 2, 3, 4):
        first.scalars(step, {'loss/total': 1.0})
    first.pictures(2, {'target': loss_pictures(maps_of())['target']})
    first.close()
    time.sleep(1.1)  # files of events are named by their second, and read in that order
    second = open_tensorboard(tmp_path, 2, wanted=True)
    second.scalars(3, {'loss/total': 2.0})
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = [(event.step, event.value) for event in events.Scalars('loss/total')]
    assert shown == [(1, 1), (2, 1), (3, 2)]
    assert (events.Images('target')[0].width, events.Images('target')[0].height) == (48, 32)


def test_without_tensorboard_a_run_goes_on_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    board = open_tensorboard(tmp_path / 'events', 0, wanted=True)
    assert isinstance(board, NoTensorBoard)
    board.scalars(1, {'loss/total': 1.0})
    board.pictures(1, {})
    board.close()
    assert capsys.readouterr().out.count('pip install tensorboard') == 1
    assert isinstance(open_tensorboard(tmp_path / 'events', 0, wanted=False), NoTensorBoard)
    assert not (tmp_path / 'events').exists() and not capsys.readouterr().out
