"""One factor out of many noisy ratios, some of which are wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, isfinite, log, nan, sqrt
from statistics import median

from tc_depth_ros.settings import setting

GATE_SIGMAS = 3.0
CLEAR_MAJORITY = 2 / 3  # of the outliers must agree, or they are only wild
# Of normal noise: its deviation over its MAD, and the median's standard error over the mean's
SIGMA_OVER_MAD = 1.4826
MEDIAN_ERROR = 1.2533


@dataclass(frozen=True)
class FilterConfig:
    """How ratios become a factor."""

    window: int = setting(30, 'the factor is the median of so many ratios, the newest', 1, 10000)
    tracking_ratios: int = setting(5, 'ratios until the factor is applied (TRACKING)', 1, 10000)
    gate: float = setting(
        0.1,
        'a ratio farther from the factor than this part of it, and than three deviations, is an '
        'outlier',
        0.001,
        10.0,
    )
    change_ratios: int = setting(
        8, 'outliers in a row that agree with each other until they are believed', 2, 10000
    )
    max_slew_per_s: float = setting(
        0.05, 'the applied factor changes by at most this part of itself in a second', 1e-4, 100.0
    )
    stale_after_s: float = setting(
        30.0,
        'the factor is STALE after so many seconds in which it should have been confirmed',
        0.1,
        1e6,
    )

    def __post_init__(self) -> None:
        """Refuse what no ratio could pass."""
        if not 1 <= self.tracking_ratios <= self.window:
            raise ValueError(
                f'scale.tracking_ratios is {self.tracking_ratios} and scale.window {self.window}; '
                'they must satisfy 1 <= tracking_ratios <= window'
            )
        if self.change_ratios < 2:
            raise ValueError(
                f'scale.change_ratios is {self.change_ratios}; one outlier agrees with itself, '
                'so it must be at least 2'
            )
        for name in ('gate', 'max_slew_per_s', 'stale_after_s'):
            if not getattr(self, name) > 0:
                raise ValueError(f'scale.{name} is {getattr(self, name)}; it must be positive')


class RatioFilter:
    """
    A running median in the log domain that outliers do not move and genuine changes do.

    Slip of a wheel must not move the factor, a new factor must. Both begin with outliers; the
    second goes on. So outliers are kept aside, and once ``change_ratios`` of them, and two thirds,
    agree, with no ratio near the old factor in between, they become the window.

    The factor that is applied is 1 until ``tracking_ratios`` ratios are in, then their median: one
    step, which comes with the change of state. From there on it follows the median at no more
    than ``max_slew_per_s``. Without a ratio the median stays, so the factor does.
    """

    def __init__(self, config: FilterConfig | None = None) -> None:
        self._config = config or FilterConfig()
        self.reset()

    def reset(self) -> None:
        """Forget all ratios."""
        self._logs: deque[float] = deque(maxlen=self._config.window)
        # Twice as many as must agree, for a change may come among slips
        self._outliers: deque[float] = deque(maxlen=2 * self._config.change_ratios)
        self._log_factor: float | None = None
        self._unconfirmed_s = 0.0

    @property
    def ratios(self) -> int:
        """How many ratios the median is of."""
        return len(self._logs)

    @property
    def tracking(self) -> bool:
        """Whether there were enough ratios for the factor to be applied."""
        return self._log_factor is not None

    @property
    def stale(self) -> bool:
        """Whether the factor should have been confirmed long ago."""
        return self._unconfirmed_s >= self._config.stale_after_s

    @property
    def factor(self) -> float:
        """What to multiply depth by; 1 until tracking."""
        return 1.0 if self._log_factor is None else exp(self._log_factor)

    @property
    def deviation(self) -> float:
        """
        How far the scale of one image may lie from the factor, relative: one deviation.

        The deviation of single ratios, and what the factor lags behind their median. What all
        ratios have in common (a focal length, a lever arm) it cannot see. NaN for fewer than two.
        """
        return hypot(self._sigma(), self._lag())

    @property
    def standard_error(self) -> float:
        """Relative standard error of the median, if ratios are independent; NaN below two."""
        return MEDIAN_ERROR * self._sigma() / sqrt(max(len(self._logs), 1))

    def push(self, ratio: float) -> bool:
        """
        Take a ratio of metres to the depth's unit.

        :return: False: it was an outlier and has changed nothing
        :raises ValueError: the ratio is not a positive number
        """
        if not (isfinite(ratio) and ratio > 0):
            raise ValueError(f'the ratio is {ratio}; it must be positive and finite')
        if self._is_outlier(log(ratio)):
            self._outliers.append(log(ratio))
            agreeing = self._agreeing_outliers()
            needed = max(self._config.change_ratios, CLEAR_MAJORITY * len(self._outliers))
            if len(agreeing) < needed:
                return False
            self._logs = deque(agreeing, maxlen=self._config.window)
        else:
            self._logs.append(log(ratio))
        self._outliers.clear()
        self._unconfirmed_s = 0.0
        if self._log_factor is None and len(self._logs) >= self._config.tracking_ratios:
            self._log_factor = median(self._logs)
        return True

    def miss(self, duration_s: float) -> None:
        """Take note of a time in which a ratio was due and none was accepted."""
        self._unconfirmed_s += duration_s

    def advance(self, duration_s: float) -> None:
        """Let the factor follow the median for a time."""
        if self._log_factor is not None:
            step = self._config.max_slew_per_s * duration_s
            self._log_factor += min(max(self._lag(), -step), step)

    def _lag(self) -> float:
        return 0.0 if self._log_factor is None else median(self._logs) - self._log_factor

    def _is_outlier(self, log_ratio: float) -> bool:
        # Before tracking there is nothing to be far from; the median bears up to half of them
        return self.tracking and abs(log_ratio - median(self._logs)) > self._gate()

    def _gate(self) -> float:
        spread = self._sigma()
        return max(self._config.gate, GATE_SIGMAS * spread if isfinite(spread) else 0.0)

    def _sigma(self) -> float:
        """Deviation of one ratio, out of the MAD; few samples make that too small (Croux 1992)."""
        count = len(self._logs)
        if count < 2:
            return nan
        return SIGMA_OVER_MAD * count / (count - 0.8) * _median_deviation(self._logs)

    def _agreeing_outliers(self) -> list[float]:
        middle = median(self._outliers)
        return [x for x in self._outliers if abs(x - middle) <= self._gate()]


def _median_deviation(values: Sequence[float]) -> float:
    middle = median(values)
    return median(abs(x - middle) for x in values)
