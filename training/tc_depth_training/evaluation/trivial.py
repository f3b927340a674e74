"""
What one can answer without looking: the bar that any depth has to clear.

Each answer's shape is fitted in inverse depth, and its size by the factor of least Abs Rel.
"""

from __future__ import annotations

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
    height, width = shape
    v, u = np.mgrid[:height, :width]
    basis = np.stack([u / width, v / height, np.ones(shape)])
    normal, right = np.zeros((3, 3)), np.zeros(3)
    total = np.zeros((-(-height // cell), -(-width // cell)))
    count = np.zeros_like(total)
    for truth in truths():
        known = np.isfinite(truth)
        inverse = 1 / truth[known]
        rows = basis[:, known]
        normal += rows @ rows.T
        right += rows @ inverse
        place = (v[known] // cell, u[known] // cell)
        np.add.at(total, place, inverse)
        np.add.at(count, place, 1)
    plane = np.tensordot(np.linalg.lstsq(normal, right, rcond=None)[0], basis, 1)
    with np.errstate(invalid='ignore'):
        mean = (total / count)[v // cell, u // cell]
    # A plane may cross zero in a corner; the farthest answer there is finite
    answers = np.ones(shape), 1 / np.maximum(plane, 1e-3), 1 / mean
    return TrivialAnswers(*(_fitted(answer, truths()) for answer in answers))


def best_factor(ratios: Iterable[Floats]) -> float:
    """
    Find the factor of an answer at which its mean |answer - truth| / truth is least.

    :param ratios: truth / answer, of some pixels each, (N,)
    """
    # The sum of (answer / truth) |factor - truth / answer| is least at a weighted median. Its
    # place is found to 0.1 % by a histogram, which does not grow with the bag
    edges = np.geomspace(1e-4, 1e4, 18_421)
    weight = np.zeros(len(edges) - 1)
    for ratio in ratios:
        weight += np.histogram(ratio, edges, weights=1 / ratio)[0]
    middle = int(np.searchsorted(weight.cumsum(), weight.sum() / 2))
    return float(np.sqrt(edges[middle] * edges[middle + 1]))


def _fitted(answer: Floats, truths: Iterable[Floats]) -> Floats:
    every = ((truth, np.isfinite(truth)) for truth in truths)
    return best_factor(truth[known] / answer[known] for truth, known in every) * answer
