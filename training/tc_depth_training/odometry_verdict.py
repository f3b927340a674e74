"""
Where a recording's odometry is wrong: wheels slip, an estimate is lost, a pose stays what it was.

A network that has learned depth from the whole recording rebuilds each window's middle frame by
the odometry, and once more by the motion that optical flow and that depth tell (FlowMotion). The
odometry is not to be learned from where it explains the images far worse than the flow does,
compared with what is usual in this recording; or no better than a camera that stands still. Where
the flow explains little too, depth is not learned, and odometry is not judged by it.

Depth that was learned elsewhere has another unit, or is of another scale, so that right odometry
does not fit it either: odometry is called bad throughout only if it fits no better when its ways
are made as long as the flow's.

Tried on a hand-held recording of 700 frames (kitchen), 15 % of which were spoiled, with the
embedded weights: against the flow, the photometric error of translations made 3 times too long is
3.0 to 5.5 times, of a frozen pose 2.3 to 6.5 times, of a turn of 1 degree per frame 3.3 to 7.2
times as large; with nothing spoiled, 1.0 to 2.0 times. At least 99 % of the spoiled windows were
found, and 96 to 98 % of those called bad were spoiled, the others beside them; with nothing
spoiled, none was called bad. The error compared with standing still alone overlaps: 0.5 to 1.1,
and 0.2 to 0.5. Where frames are so far apart that the flow is often lost (HoloLens keyframes),
most of a frozen pose is found, of the others little; nothing else is called bad.

Odometry spoiled throughout; medians of the error over that of standing still, 30 to 80 windows.
By flow, by right odometry, by right odometry made as long as the flow, and by wrong odometry (axes
of base_link, frozen, reversed in time; either length):

    kitchen, embedded weights       0.20   0.34   0.35   1.00 to 1.08
    HoloLens, embedded weights      0.28   0.31   0.35   1.00 to 1.06
    street, embedded weights        0.60   1.19   0.61   1.00 to 1.44    indoor weights: not judged
    kitchen, nothing learned        0.32   0.46   0.73   1.00 to 1.13
    street, nothing learned         0.59   1.16   0.85   1.00 to 1.40    not judged
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.odometry_check import OdometryErrors, Values

SMOOTHING_S = 1.0  # of time that is judged together; at least NEIGHBOURS windows either side
NEIGHBOURS = 2
DEVIATIONS = 3.5  # of the logarithm of the error over the flow's, beyond which it is unusual
LEAST_BAD = 1.6  # times the flow's error, below which nothing is bad
# Times the error of standing still: from the first on all is bad; odometry whose usual error is
# above the second explains nothing; a flow whose usual error is below the third has learned depth
CERTAINLY_BAD, LARGEST_USUAL, LARGEST_LEARNED = 0.95, 0.8, 0.5
LEAST_KEPT = 0.1  # of a recording most of whose odometry explains nothing


@dataclass(frozen=True)
class BadStretch:
    """A time of a recording whose odometry does not fit its images."""

    recording: int
    start_ns: int  # stamps of its first and last window
    end_ns: int


@dataclass(frozen=True)
class OdometryVerdict:
    """What to leave out."""

    stretches: tuple[BadStretch, ...]  # by recording and time
    # Of which not all can be said: the network has not yet learned their depth, or its unit
    unjudged: tuple[int, ...]


def judge_odometry(errors: OdometryErrors, stamps_ns: NDArray[np.int64]) -> OdometryVerdict:
    """
    Tell the bad stretches.

    Where neither odometry nor flow explains a recording's images, depth is not learned (or the
    flow is lost), and nothing is said. Else ``rebuilt / flow`` and ``rebuilt / still`` are
    smoothed by running medians over time, so that single windows do not flicker. Bad is, first,
    what is above ``CERTAINLY_BAD`` of standing still, also when made as long as the flow's; if the
    rest hardly explains its images, all above ``LARGEST_USUAL``; and if that leaves less than
    ``LEAST_KEPT``, all of the recording. Of the rest bad is where
    ``rebuilt / flow`` lies above its median by ``DEVIATIONS`` (of its median absolute deviation,
    in logarithms) and above ``LEAST_BAD``, or ``rebuilt / still`` above ``CERTAINLY_BAD``. If the
    rest explains the images only when made as long as the flow's, depth has another unit than
    the odometry, and of the rest nothing is said.

    :param stamps_ns: of the middle frames of all windows, by number, (M,)
    """
    stretches: list[BadStretch] = []
    unjudged: list[int] = []
    for recording in np.unique(errors.recording):
        of_it = np.flatnonzero((errors.recording == recording) & errors.moving)
        of_it = of_it[np.argsort(stamps_ns[errors.window[of_it]], kind='stable')]
        times_ns = stamps_ns[errors.window[of_it]]
        bad, is_judged = _judge(errors.only(of_it), times_ns)
        if not is_judged:
            unjudged.append(int(recording))
        stretches += _stretches(int(recording), bad, times_ns)
    return OdometryVerdict(tuple(stretches), tuple(unjudged))


def _judge(errors: OdometryErrors, times_ns: NDArray[np.int64]) -> tuple[NDArray[np.bool_], bool]:
    """Which windows of a recording, in time order, are bad, (N,); and whether that is all."""
    over_still = errors.rebuilt / errors.still
    at_best = np.minimum(errors.rebuilt, errors.scaled) / errors.still
    flow_explains = _median(errors.flow / errors.still) <= LARGEST_LEARNED
    if not flow_explains and _median(over_still) > LARGEST_USUAL:
        return np.zeros(len(times_ns), dtype=np.bool_), False
    bad = _running_median(at_best, times_ns) > CERTAINLY_BAD
    if _median(at_best[~bad]) > LARGEST_USUAL:
        bad = _running_median(at_best, times_ns) > LARGEST_USUAL
        if (~bad).mean() < LEAST_KEPT:
            return np.ones_like(bad), True
    if _median(over_still[~bad]) > LARGEST_USUAL:
        return bad, False
    over_flow = errors.rebuilt / errors.flow
    unusual = _running_median(over_flow, times_ns) > _limit(over_flow[~bad])
    return bad | unusual | (_running_median(over_still, times_ns) > CERTAINLY_BAD), True


def _median(values: Values) -> float:
    """Infinite, as of an error, where there are none."""
    return float(np.median(values)) if len(values) else np.inf


def _limit(relative: Values) -> float:
    """Relative error beyond which a recording's odometry is unusual."""
    logarithm = np.log(relative)
    usual = np.median(logarithm)
    apart = logarithm - usual
    # The side that is less spread: a bad stretch widens the other
    spread = 1.4826 * min(np.median(apart[apart >= 0]), np.median(-apart[apart <= 0]))
    return max(LEAST_BAD, float(np.exp(usual + DEVIATIONS * spread)))


def _running_median(values: Values, stamps_ns: NDArray[np.int64]) -> Values:
    """Median over SMOOTHING_S around each stamp; in time order, (N,)."""
    half_ns, number = round(0.5e9 * SMOOTHING_S), np.arange(len(values))
    first = np.searchsorted(stamps_ns, stamps_ns - half_ns)
    first = np.minimum(first, number - NEIGHBOURS).clip(min=0)
    end = np.searchsorted(stamps_ns, stamps_ns + half_ns, side='right')
    end = np.maximum(end, number + NEIGHBOURS + 1)
    return np.array([np.median(values[a:b]) for a, b in zip(first, end, strict=True)])


def _stretches(
    recording: int, bad: NDArray[np.bool_], stamps_ns: NDArray[np.int64]
) -> list[BadStretch]:
    """Runs of bad windows; in time order, (N,)."""
    edges = np.flatnonzero(np.diff(np.r_[False, bad, False].astype(np.int8)))
    return [
        BadStretch(recording, int(stamps_ns[a]), int(stamps_ns[b - 1]))
        for a, b in edges.reshape(-1, 2)
    ]
