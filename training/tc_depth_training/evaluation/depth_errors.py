"""The seven errors of Eigen et al. (NeurIPS 2014), of one image and averaged over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

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


@dataclass(frozen=True)
class ScaledErrors:
    """Errors under three ways to choose the factor that a prediction is multiplied by."""

    median: DepthErrors  # every image by its own, the ratio of medians
    overall: DepthErrors  # all images by one: the median of the images' own
    none: DepthErrors  # the prediction as it is


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


def median_scale(truth: Floats, prediction: Floats) -> float:
    """Median of the true depths over the median of the predicted ones, both (N,)."""
    return float(np.median(truth) / np.median(prediction))


def mean_errors(errors: Sequence[DepthErrors]) -> DepthErrors:
    """Average over images, each counting once."""
    return DepthErrors(*np.mean([astuple(e) for e in errors], axis=0).tolist())
