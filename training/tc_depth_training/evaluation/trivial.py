"""
What one can answer without looking: the bar that any depth has to clear.

Each answer's shape is fitted in inverse depth, and its size by the factor of least Abs Rel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrivialAnswers:
    """Depths that are the same for every frame, fitted to the truth; each (H, W) in m."""

    constant: Floats
    plane: Floats  # the plane in inverse depth that fits best
    pixel_mean: Floats  # the mean inverse depth of every pixel, NaN where there is never a truth


def fit_trivial_answers(
    truths: Callable[[], Iterable[Floats]], shape: tuple[int, int], cell: int = 1
) -> TrivialAnswers:
    """
    Fit the trivial answers to all frames.

    :param truths: gives the frames' true depths, each (H, W) in m, NaN where unknown
    :param shape: (H, W)
    :param cell: side in pixels of what pixel_mean averages over: more than 1 where truth is so
        sparse that a pixel has hardly ever one twice
    """
    total, count = np.zeros(shape), np.zeros(shape)  # of inverse depth, per pixel
    for truth in truths():
        known = np.isfinite(truth)
        total += np.divide(1, truth, out=np.zeros(shape), where=known)
        count += known
    height, width = shape
    v, u = np.mgrid[:height, :width]
    basis = np.stack([u / width, v / height, np.ones(shape)]).reshape(3, -1)
    normal, right = basis * count.ravel() @ basis.T, basis @ total.ravel()
    plane = (np.linalg.lstsq(normal, right, rcond=None)[0] @ basis).reshape(shape)
    with np.errstate(invalid='ignore'):
        mean = (_cell_sums(total, cell) / _cell_sums(count, cell))[v // cell, u // cell]
    # A plane may cross zero in a corner; the farthest answer there is finite
    answers = np.ones(shape), 1 / np.maximum(plane, 1e-3), 1 / mean
    return TrivialAnswers(*(_fitted(answer, truths()) for answer in answers))


def best_factor(ratios: Iterable[Floats]) -> float:
    """
    Find the factor of an answer at which its mean |answer - truth| / truth is least.

    :param ratios: truth / answer, of some pixels each, (N,)
    """
    # The sum of (answer / truth) |factor - truth / answer| is least at a weighted median. Its
    # place is found to 0.1 % by a histogram, which does not grow with the bag. In logarithms its
    # bins have one width, and need no search. Ratios outside the range go to a bin at either end
    edges = np.geomspace(1e-4, 1e4, 18_421)
    bins, lowest = len(edges) - 1, math.log(edges[0])
    per_log = bins / (math.log(edges[-1]) - lowest)
    weight = np.zeros(bins + 2)
    for ratio in ratios:
        place = (np.log(ratio) - lowest) * per_log + 1
        np.clip(place, 0, bins + 1, out=place)
        weight += np.bincount(place.astype(np.intp), 1 / ratio, bins + 2)
    inner = weight[1:-1]
    middle = int(np.searchsorted(inner.cumsum(), inner.sum() / 2))
    return float(np.sqrt(edges[middle] * edges[middle + 1]))


def _fitted(answer: Floats, truths: Iterable[Floats]) -> Floats:
    every = ((truth, np.isfinite(truth)) for truth in truths)
    return best_factor(truth[known] / answer[known] for truth, known in every) * answer


def _cell_sums(values: Floats, cell: int) -> Floats:
    """Sums over squares of pixels from the top left; those at the edges may be cut short."""
    height, width = values.shape
    rows = np.add.reduceat(values, np.arange(0, height, cell), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, width, cell), axis=1))
