"""Reduced precision: taken where it is as good as float32, refused or replaced where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_matching import TINY_MATCHING
from test_network import TINY, lively

from tc_depth_ros import precision
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo
from tc_depth_ros.network.matching import Match
from tc_depth_ros.precision import choose_precision
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor

INFO = WeightsInfo(TINY, 48, 64, metric=True)
NETWORK = lively(TINY)
CPU = torch.device('cpu')


def test_on_the_cpu_auto_is_float32_without_a_note() -> None:
    chosen = choose_precision(NETWORK, INFO, CPU, 'auto')
    assert (chosen.name, chosen.difference, chosen.note) == ('float32', 0.0, '')


def test_a_precision_that_passes_is_used_and_gives_almost_the_same_depth(
    synthetic_views: list[object],
) -> None:
    from tc_depth_ros.frames.frame import Frame

    reduced = DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu', precision='bfloat16')
    exact = DepthPredictor.from_weights(DEFAULT_WEIGHTS, 'cpu', precision='float32')
    assert reduced.precision.name == 'bfloat16'
    assert 0 < reduced.precision.difference < precision.MAX_DIFFERENCE
    view = synthetic_views[0]
    frame = Frame(view.image, view.K, 1, 'optical')  # type: ignore[attr-defined]
    a, b = reduced.push(frame), exact.push(frame)
    assert a is not None and b is not None
    difference = np.abs(a.depth / b.depth - 1)
    assert 0 < np.median(difference) < precision.MAX_DIFFERENCE


def test_one_that_fails_is_refused_if_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, 'MAX_DIFFERENCE', 1e-7)
    with pytest.raises(
        ValueError, match=r'bfloat16 on cpu changes depth by .* use precision auto'
    ):
        DepthPredictor(Weights(NETWORK, None, INFO), precision='bfloat16')


def test_auto_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which this machine need not have: half precision answers nonsense there."""
    network = lively(TINY)
    whole = network.encode

    def encode(image: torch.Tensor, K: torch.Tensor) -> object:
        nonsense = torch.is_autocast_enabled('cpu')
        return whole(1 - image if nonsense else image, K)

    monkeypatch.setattr(network, 'encode', encode)
    monkeypatch.setattr(precision, '_first_choice', lambda _: 'bfloat16')
    chosen = choose_precision(network, INFO, CPU, 'auto')
    assert chosen.name == 'float32' and chosen.difference > precision.MAX_DIFFERENCE
    assert 'float32 is used' in chosen.note and 'bfloat16' in chosen.note


@pytest.mark.parametrize('breaks', [False, True])
def test_the_check_matches_where_the_weights_do(
    monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    network = lively(TINY_MATCHING)
    info = WeightsInfo(TINY_MATCHING, 96, 128, metric=True)

    calls = 0

    def match(disparity: torch.Tensor, features: torch.Tensor, *_: object) -> object:
        nonlocal calls
        calls += 1
        nothing = torch.zeros_like(features[:, :1])
        is_second_run = calls == 2  # the last of the frames is matched in each
        found = 1 - disparity if breaks and is_second_run else disparity
        return found, Match(nothing, nothing, nothing)

    monkeypatch.setattr(network, 'match', match)
    # Weights drawn at random are too rough for a true bfloat16
    monkeypatch.setitem(precision.DTYPES, 'bfloat16', torch.float32)
    monkeypatch.setattr(precision, '_first_choice', lambda _: 'bfloat16')
    chosen = choose_precision(network, info, CPU, 'auto')
    assert calls == 2
    assert chosen.name == ('float32' if breaks else 'bfloat16'), chosen.note


def test_numbers_that_overflow_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = np.ones((4, 4))
    broken = np.where(np.eye(4) > 0, np.nan, exact)
    answers = iter([exact, exact, broken])
    monkeypatch.setattr(precision, '_check_depth', lambda *_: next(answers))
    with pytest.raises(ValueError, match='inf %'):
        choose_precision(NETWORK, INFO, CPU, 'float16')


def test_the_stored_frame_is_part_of_the_package() -> None:
    assert precision.CHECK_IMAGE.parent == DEFAULT_WEIGHTS.parent
    assert Path(precision.CHECK_IMAGE).stat().st_size < 200_000
