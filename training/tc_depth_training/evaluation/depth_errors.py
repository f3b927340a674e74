"""The seven errors of Eigen et al. (NeurIPS 2014), under three ways to scale a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK = 1 << 14  # pixels at a time, which stay in the processor's cache


@dataclass(frozen=True)
class DepthErrors:
    """How far predicted depths are from true ones."""

    abs_rel: float  # mean |p - t| / t
    sq_rel: float  # mean (p - t)^2 / t, in m
    rmse: float  # root of mean (p - t)^2, in m
    rmse_log: float  # root of mean (ln p - ln t)^2
    a1: float  # share with max(p / t, t / p) < 1.25
    a2: float  # < 1.25^2
    a3: float  # < 1.25^3


def depth_errors(truth: Floats, prediction: Floats) -> DepthErrors:
    """
    Errors over the pixels of one image.

    :param truth: true depths in m, positive, (N,)
    :param prediction: predicted depths in m, positive, (N,)
    """
    return KnownPixels(truth, prediction).errors(1.0, ANY_DEPTH)


def _error_sums(truth: Floats, prediction: Floats) -> list[float]:
    """Sum over pixels what the seven errors are means of."""
    difference = prediction - truth
    squares = difference**2
    ratio = prediction / truth
    either = np.maximum(ratio, truth / prediction)
    return [
        np.sum(np.abs(difference) / truth),
        np.sum(squares / truth),
        np.sum(squares),
        np.sum(np.log(ratio) ** 2),
        *(np.count_nonzero(either < 1.25**power) for power in (1, 2, 3)),
    ]


def mean_errors(errors: Sequence[DepthErrors]) -> DepthErrors:
    """Average over images, each counting once."""
    return DepthErrors(*np.mean([astuple(e) for e in errors], axis=0).tolist())


@dataclass(frozen=True)
class DepthRange:
    """Truth outside is left out; predictions are clamped to it after scaling."""

    minimum: float = 1e-3  # m
    maximum: float = 80.0


ANY_DEPTH = DepthRange(0.0, float('inf'))


@dataclass(frozen=True)
class KnownPixels:
    """Where one image has both a truth and a prediction."""

    truth: Floats  # z in m, (N,)
    prediction: Floats  # z in any unit, (N,)

    @classmethod
    def of(cls, truth: NDArray[Any], prediction: NDArray[Any]) -> KnownPixels:
        """Choose the pixels where both are finite, of maps of one shape."""
        both = np.isfinite(truth) & np.isfinite(prediction)
        known = (x[both].astype(np.float64, copy=False) for x in (truth, prediction))
        return cls(*known)

    def own_scale(self) -> float:
        """Median of the truth over the median of the prediction; of at least one pixel."""
        return float(median(self.truth) / median(self.prediction))

    def errors(self, scale: float, depth_range: DepthRange) -> DepthErrors:
        """Compare the prediction, times a factor and clamped to the range, with the truth."""
        sums, count = np.zeros(7), self.truth.size
        for start in range(0, count, BLOCK):
            truth, prediction = (x[start : start + BLOCK] for x in (self.truth, self.prediction))
            scaled = np.clip(scale * prediction, depth_range.minimum, depth_range.maximum)
            sums += _error_sums(truth, scaled)
        abs_rel, sq_rel, square, square_log, *shares = (sums / count).tolist()
        return DepthErrors(abs_rel, sq_rel, square**0.5, square_log**0.5, *shares)


def median(values: Floats) -> np.float64:
    """As np.median has it, in a fraction of the time; of at least one value, none of them NaN."""
    middle = values.size // 2
    ranked = np.partition(values, middle)
    upper: np.float64 = ranked[middle]
    return upper if values.size % 2 else (ranked[:middle].max() + upper) / 2


@dataclass(frozen=True)
class ScaledErrors:
    """Errors under three ways to choose the factor that a prediction is multiplied by."""

    median: DepthErrors  # every image by its own, the ratio of medians
    overall: DepthErrors  # all images by one: the median of the images' own
    none: DepthErrors  # the prediction as it is

    @classmethod
    def mean(cls, images: Sequence[ScaledErrors]) -> ScaledErrors:
        """Average over images, each counting once."""
        ways = zip(*((image.median, image.overall, image.none) for image in images), strict=True)
        return cls(*(mean_errors(errors) for errors in ways))


def common_scale(scales: Sequence[float]) -> float:
    """One factor for all images: the median of their own; 1 where there are none."""
    return float(np.median(scales)) if scales else 1.0


def scaled_errors(
    images: Iterable[KnownPixels], scales: Sequence[float], depth_range: DepthRange
) -> list[ScaledErrors]:
    """Score each image with its own factor, which is given, with the common one, and with none."""
    common = common_scale(scales)
    return [
        ScaledErrors(*(pixels.errors(scale, depth_range) for scale in (own, common, 1.0)))
        for pixels, own in zip(images, scales, strict=True)
    ]
