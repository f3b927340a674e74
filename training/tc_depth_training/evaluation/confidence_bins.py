"""Whether confidence keeps its word: the depth's error over bins of it, and live consistency."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.network.checkpoint import Weights
from tc_depth_ros.pipeline import Estimate
from tc_depth_ros.temporal.consistency import Consistency, scale_jump
from tc_depth_ros.temporal.tracker import TemporalConfig, TemporalTracker, motion_source
from tc_depth_training.data.measured_depth import resize_depth
from tc_depth_training.evaluation.depth_errors import KnownPixels
from tc_depth_training.evaluation.sequence import FrameSequence

BINS = 5
SLOTS = 1000  # confidence is sorted to 0.1 %, so that memory does not grow with the bag
GOOD = 0.25  # relative error that confidence is the probability to stay below


@dataclass(frozen=True)
class ConfidenceBin:
    """Pixels of like confidence, over all frames."""

    lowest: float  # confidence
    highest: float
    share: float  # of all pixels with truth; 0: the bin is empty
    abs_rel: float | None  # each image scaled by its own factor; None: empty
    good: float | None  # share of errors below 25 %: what confidence claims


@dataclass(frozen=True)
class LiveConsistency:
    """What the node would say of its own steadiness, averaged; it needs no truth."""

    pairs: int  # of neighbouring frames whose motion could be told
    disagreement: float | None
    scale_step: float | None  # mean |ln of the scale ratio|
    inconsistent_share: float | None
    scale_jumps: int


@dataclass(frozen=True)
class ConfidenceScores:
    """All that ``--confidence`` adds."""

    bins: tuple[ConfidenceBin, ...]  # of equal count, from low to high; none without truth
    mean: float | None  # confidence where there is truth
    live: LiveConsistency

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class ConfidenceTally:
    """Follows predictions as the node does, and compares each with its truth."""

    def __init__(self, sequence: FrameSequence, weights: Weights) -> None:
        self._sequence = sequence
        self._config = TemporalConfig()
        source = motion_source(self._config, weights.pose_net, weights.info.scale)
        self._tracker = TemporalTracker(source, self._config)
        # Per slot of confidence: pixels, the sum of their errors, how many were good
        self._sums = np.zeros((3, SLOTS))
        self._confidence_sum = 0.0
        self._pairs: list[Consistency] = []

    def add(self, index: int, prediction: Estimate) -> None:
        """Take the estimate of a frame of the sequence, in order."""
        if prediction.continuity != 'continued':
            self._tracker.reset()
        truth = self._sequence.truth
        estimate = self._tracker.push(prediction.view, wants_confidence=truth is not None)
        if estimate.consistency:
            self._pairs.append(estimate.consistency)
        if truth is None:
            return
        assert estimate.confidence is not None
        depth = prediction.view.depth[0, 0].cpu().numpy()
        self._compare(estimate.confidence, depth, np.asarray(truth[index]))

    def _compare(
        self, confidence: NDArray[np.float32], depth: NDArray[np.float32], truth: NDArray[Any]
    ) -> None:
        """Count errors at the network's size, where confidence is made."""
        shown = resize_depth(truth, (depth.shape[0], depth.shape[1]))
        known = np.isfinite(shown)
        if not known.any():
            return
        true, predicted = shown[known].astype(np.float64), depth[known].astype(np.float64)
        error = np.abs(KnownPixels(true, predicted).own_scale() * predicted - true) / true
        certain = confidence[known]
        slot = (certain * SLOTS).astype(int).clip(max=SLOTS - 1)
        for sums, weights in zip(self._sums, (None, error, error < GOOD), strict=True):
            sums += np.bincount(slot, weights, SLOTS)
        self._confidence_sum += float(certain.sum())

    def scores(self) -> ConfidenceScores:
        """Sum up."""
        count = float(self._sums[0].sum())
        mean = self._confidence_sum / count if count else None
        return ConfidenceScores(self._bins() if count else (), mean, self._live())

    def _bins(self) -> tuple[ConfidenceBin, ...]:
        """Cut the slots where a fifth, two fifths, … of the pixels lie below."""
        below = self._sums[0].cumsum() / self._sums[0].sum()
        cuts = [0, *np.searchsorted(below, np.arange(1, BINS) / BINS), SLOTS]
        filled = np.flatnonzero(self._sums[0])
        cuts[0], cuts[-1] = filled[0], filled[-1] + 1
        return tuple(self._bin(low, high) for low, high in zip(cuts, cuts[1:], strict=False))

    def _bin(self, low: int, high: int) -> ConfidenceBin:
        pixels, error, good = (float(x) for x in self._sums[:, low:high].sum(axis=1))
        return ConfidenceBin(
            low / SLOTS,
            high / SLOTS,
            pixels / float(self._sums[0].sum()),
            error / pixels if pixels else None,
            good / pixels if pixels else None,
        )

    def _live(self) -> LiveConsistency:
        pairs = self._pairs
        if not pairs:
            return LiveConsistency(0, None, None, None, 0)
        return LiveConsistency(
            len(pairs),
            float(np.mean([pair.disagreement for pair in pairs])),
            float(np.mean([abs(math.log(pair.scale_ratio)) for pair in pairs])),
            float(np.mean([pair.inconsistent_share for pair in pairs])),
            sum(scale_jump(pair, self._config.max_scale_step) for pair in pairs),
        )
