"""What shows that a run learns nothing, long before its pictures do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

PATIENCE_STEPS = 50  # in a row, before it is said


class TrainingError(RuntimeError):
    """A run that cannot go on; the message names the step and the remedy."""


class DivergenceError(TrainingError):
    """A loss or a gradient that is no number; with the same settings it comes again."""


@dataclass(frozen=True)
class Symptom:
    """A figure of the log, the bounds that it keeps in a healthy run, and what to do next time."""

    figure: str
    low: float
    high: float
    meaning: str


SYMPTOMS = (
    Symptom(
        'disparity_spread',
        1e-3,
        math.inf,
        'depth is the same everywhere: begin a new run with a lower learning_rate, or from '
        'trained weights (init: default)',
    ),
    Symptom(
        'translation',
        1e-5,
        math.inf,
        'the camera seems to stand still: begin a new run with longer data.time_steps_s, or take '
        'the motion from odometry (pose: both)',
    ),
    Symptom(
        'auto_mask_share',
        0.05,
        0.95,
        'the photometric loss uses (almost) nothing or everything: check K and the poses with '
        'tc-depth inspect, and begin a new run with data.time_steps_s in which the image moves by '
        'some pixels',
    ),
)


def limits(figure: str) -> tuple[float, ...]:
    """Bounds beyond which a run is warned of a figure; none where it is not."""
    bounds = [(s.low, s.high) for s in SYMPTOMS if s.figure == figure]
    return tuple(x for pair in bounds for x in pair if math.isfinite(x))


def check_finite(what: str, value: float, step: int) -> None:
    """Raise DivergenceError where a loss or a gradient is no number; steps count from 1."""
    if not math.isfinite(value):
        raise DivergenceError(
            f'the {what} is {value} at step {step}: lower learning_rate, and check K and the '
            'poses with tc-depth inspect; what was saved before is kept'
        )


class CollapseGuard:
    """Counts for how many steps in a row each symptom has shown."""

    def __init__(self) -> None:
        self._shown = dict.fromkeys((symptom.figure for symptom in SYMPTOMS), 0)

    def check(self, step: int, values: Mapping[str, float]) -> list[str]:
        """
        Look at one step's figures.

        :param step: counted from 1
        :return: warnings, each once until its symptom has gone
        """
        warnings = []
        for symptom in SYMPTOMS:
            value = values[symptom.figure]
            healthy = symptom.low <= value <= symptom.high
            shown = self._shown[symptom.figure] = 0 if healthy else self._shown[symptom.figure] + 1
            if shown == PATIENCE_STEPS:
                warnings.append(
                    f'step {step}: {symptom.figure} is {value:.2g} for {PATIENCE_STEPS} steps: '
                    f'{symptom.meaning}'
                )
        return warnings
