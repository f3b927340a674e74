"""What stops a run, and what it is warned of."""

from __future__ import annotations

import math

import pytest

from tc_depth_training.guards import PATIENCE_STEPS, CollapseGuard, DivergenceError, check_finite

HEALTHY = {'disparity_spread': 0.4, 'translation': 0.02, 'auto_mask_share': 0.6}


@pytest.mark.parametrize('loss', [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(loss: float) -> None:
    with pytest.raises(DivergenceError, match=f'{loss} at step 7.*lower learning_rate'):
        check_finite('loss', loss, 7)
    check_finite('loss', 0.1, 7)


@pytest.mark.parametrize(
    ('figure', 'value', 'words'),
    [
        ('disparity_spread', 1e-4, 'the same everywhere'),
        ('translation', 0.0, 'pose: both'),
        ('auto_mask_share', 0.01, 'tc-depth inspect'),
        ('auto_mask_share', 0.99, 'tc-depth inspect'),
    ],
)
def test_a_symptom_that_lasts_is_said_once_until_it_has_gone(figure, value, words) -> None:
    guard, sick = CollapseGuard(), {**HEALTHY, figure: value}
    said = [guard.check(step, sick) for step in range(1, 2 * PATIENCE_STEPS)]
    assert [bool(s) for s in said].index(True) == PATIENCE_STEPS - 1
    (warning,) = sum(said, [])
    assert figure in warning and words in warning and f'step {PATIENCE_STEPS}' in warning
    assert not guard.check(0, HEALTHY)
    again = [guard.check(step, sick) for step in range(PATIENCE_STEPS)]
    assert again[-1] and not any(again[:-1])


def test_a_short_symptom_and_good_health_are_not_mentioned() -> None:
    guard = CollapseGuard()
    for step in range(5 * PATIENCE_STEPS):
        bad = step % PATIENCE_STEPS != 0
        assert not guard.check(step, {**HEALTHY, 'translation': 0.0 if bad else 1.0})
