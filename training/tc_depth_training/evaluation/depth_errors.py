"""The seven errors of Eigen et al. (NeurIPS 2014), under three ways to scale a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
    difference = prediction - truth
    ratio = np.maximum(prediction / truth, truth / prediction)
    return DepthErrors(
        abs_rel=float(np.mean(np.abs(difference) / truth)),
        sq_rel=float(np.mean(difference**2 / truth)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        rmse_log=float(np.sqrt(np.mean((np.log(prediction) - np.log(truth)) ** 2))),
        a1=float(np.mean(ratio < 1.25)),
        a2=float(np.mean(ratio < 1.25**2)),
        a3=float(np.mean(ratio < 1.25**3)),
    )


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
        return cls(truth[both].astype(np.float64), prediction[both].astype(np.float64))

    def own_scale(self) -> float:
        """Median of the truth over the median of the prediction; of at least one pixel."""
        return float(np.median(self.truth) / np.median(self.prediction))

    def errors(self, scale: float, depth_range: DepthRange) -> DepthErrors:
        """Compare the prediction, times a factor and clamped to the range, with the truth."""
        scaled = np.clip(scale * self.prediction, depth_range.minimum, depth_range.maximum)
        return depth_errors(self.truth, scaled)


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
