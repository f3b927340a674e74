"""Many noisy ratios, one factor: what moves it, how fast, and what does not."""

from __future__ import annotations

from math import isnan, log

import numpy as np
import pytest

from tc_depth_ros.scale.ratio_filter import FilterConfig, RatioFilter

CONFIG = FilterConfig(window=20, tracking_ratios=5, change_ratios=6, max_slew_per_s=0.1)


def filled(ratios) -> RatioFilter:
    ratio_filter = RatioFilter(CONFIG)
    for ratio in ratios:
        ratio_filter.push(float(ratio))
        ratio_filter.advance(1.0)
    return ratio_filter


def noisy(factor: float, count: int, noise: float = 0.03, seed: int = 0) -> np.ndarray:
    return factor * np.exp(noise * np.random.default_rng(seed).normal(size=count))


def test_equal_ratios_are_the_factor() -> None:
    ratio_filter = filled([2.5] * 5)
    assert ratio_filter.factor == pytest.approx(2.5, rel=1e-12)
    assert ratio_filter.deviation == 0


def test_the_factor_is_one_until_there_are_enough_ratios_then_their_median() -> None:
    ratios = [2.0, 3.0, 2.5, 9.0]
    assert filled(ratios).factor == 1.0
    assert not filled(ratios).tracking
    assert filled([*ratios, 2.6]).factor == pytest.approx(2.6)
    assert filled([*ratios, 2.6]).tracking


def test_a_factor_and_its_inverse_are_treated_alike() -> None:
    ratios = noisy(1.3, 20)
    assert filled(1 / ratios).factor == pytest.approx(1 / filled(ratios).factor)


def test_every_fifth_ratio_may_slip() -> None:
    ratios = noisy(1.0, 200)
    ratios[::5] *= 1.2
    assert filled(ratios).factor == pytest.approx(1.0, abs=0.015)


def test_an_outlier_changes_nothing() -> None:
    ratio_filter = filled([2.0] * 10)
    assert ratio_filter.push(2.0 * 1.2) is False
    ratio_filter.advance(10.0)
    assert ratio_filter.factor == pytest.approx(2.0)
    assert ratio_filter.ratios == 10


@pytest.mark.parametrize('change', [0.5, 0.8, 1.2, 3.0])
def test_a_change_that_lasts_is_followed(change) -> None:
    ratio_filter = filled([*noisy(1.0, 20), *noisy(change, 6, noise=0.01)])
    ratio_filter.advance(60.0)
    assert ratio_filter.factor == pytest.approx(change, rel=0.02)


def test_outliers_that_do_not_agree_are_no_change() -> None:
    alternating = [1.5, 0.6] * 20
    assert filled([*[1.0] * 20, *alternating]).factor == pytest.approx(1.0)


def test_a_ratio_near_the_factor_ends_a_row_of_outliers() -> None:
    slips = [*[1.2] * 5, 1.0] * 10  # a change would be six in a row
    assert filled([*[1.0] * 20, *slips]).factor == pytest.approx(1.0)


def test_a_change_is_seen_through_slips() -> None:
    changed = noisy(1.5, 12, noise=0.01)
    changed[[2, 5, 9]] *= 1.4
    ratio_filter = filled([*noisy(1.0, 20), *changed])
    ratio_filter.advance(60.0)
    assert ratio_filter.factor == pytest.approx(1.5, rel=0.02)


def test_the_factor_does_not_jump() -> None:
    ratio_filter = filled([1.0] * 20)
    for _ in range(6):
        ratio_filter.push(1.5)
    assert ratio_filter.factor == pytest.approx(1.0)
    factors = []
    for _ in range(60):
        ratio_filter.advance(0.1)
        factors.append(ratio_filter.factor)
    steps = np.diff(np.log([1.0, *factors]))
    assert steps.max() == pytest.approx(0.1 * 0.1)  # a tenth of a second at 10 % a second
    assert steps.min() >= 0
    assert factors[-1] == pytest.approx(1.5)


def test_without_ratios_the_factor_stays() -> None:
    ratio_filter = filled(noisy(2.0, 20))
    ratio_filter.advance(60.0)
    before = ratio_filter.factor
    ratio_filter.advance(3600.0)
    assert ratio_filter.factor == before


@pytest.mark.parametrize('noise', [0.01, 0.05])
def test_the_deviation_is_that_of_the_ratios(noise) -> None:
    deviations = [filled(noisy(1.0, 20, noise, seed)).deviation for seed in range(40)]
    assert np.mean(deviations) == pytest.approx(noise, rel=0.2)


def test_the_standard_error_is_how_far_the_factor_is_off() -> None:
    filters = [filled(noisy(1.0, 20, 0.03, seed)) for seed in range(200)]
    errors = [log(f.factor) for f in filters]
    claimed = np.mean([f.standard_error for f in filters])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(claimed, rel=0.2)


def test_a_factor_on_its_way_says_how_far_it_is_off() -> None:
    ratio_filter = filled([1.0] * 20)
    for _ in range(6):
        ratio_filter.push(1.5)
    assert ratio_filter.deviation == pytest.approx(log(1.5))


@pytest.mark.parametrize('count', [0, 1])
def test_of_one_ratio_no_deviation_is_claimed(count) -> None:
    assert isnan(filled([1.0] * count).deviation)
    assert isnan(filled([1.0] * count).standard_error)


def test_missed_ratios_make_it_stale_and_one_ratio_fresh() -> None:
    ratio_filter = filled([1.0] * 5)
    ratio_filter.miss(29.9)
    assert not ratio_filter.stale
    ratio_filter.miss(0.2)
    assert ratio_filter.stale
    ratio_filter.push(1.0)
    assert not ratio_filter.stale


def test_an_outlier_does_not_confirm() -> None:
    ratio_filter = filled([1.0] * 5)
    ratio_filter.miss(30.0)
    ratio_filter.push(2.0)
    assert ratio_filter.stale


def test_reset_forgets() -> None:
    ratio_filter = filled([3.0] * 5)
    ratio_filter.miss(100.0)
    ratio_filter.reset()
    assert (ratio_filter.factor, ratio_filter.ratios) == (1.0, 0)
    assert not ratio_filter.tracking
    assert not ratio_filter.stale


@pytest.mark.parametrize('ratio', [0.0, -1.0, float('nan'), float('inf')])
def test_what_is_no_ratio_is_refused(ratio) -> None:
    with pytest.raises(ValueError, match='positive and finite'):
        RatioFilter().push(ratio)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        ({'window': 3}, r'scale\.tracking_ratios'),
        ({'tracking_ratios': 0}, r'scale\.tracking_ratios'),
        ({'change_ratios': 1}, r'scale\.change_ratios'),
        ({'gate': 0.0}, r'scale\.gate'),
        ({'max_slew_per_s': -1.0}, r'scale\.max_slew_per_s'),
        ({'stale_after_s': float('nan')}, r'scale\.stale_after_s'),
    ],
)
def test_settings_that_cannot_work_are_named(settings, named) -> None:
    with pytest.raises(ValueError, match=named):
        FilterConfig(**settings)
