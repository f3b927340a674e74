"""How good weights are on what they never learned from: windows held out in blocks of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_training.data.windows import FRAMES, Batch, WindowDataset
from tc_depth_training.evaluation.depth_errors import ANY_DEPTH, KnownPixels
from tc_depth_training.processes import Processes, never
from tc_depth_training.step import TrainingModel

NEWEST = FRAMES - 1  # the frame whose depth the node asks for
BATCH = 4  # windows
BAR_DELAY_S = 1.0  # in which what takes less is done
ABS_REL, SELF_CONSISTENCY = 'Abs Rel (per image)', 'photometric + consistency'


@dataclass(frozen=True)
class Judgement:
    """What a model sees in the newest frame of one window, and how well that fits."""

    recording: int  # of the run
    window: int  # number within the dataset
    photometric: float  # mean over the pixels of the lesser of reprojection and identity error
    geometric: float
    depth: NDArray[np.float32]  # (H, W), z in the network's unit
    truth: NDArray[np.float32] | None  # (H, W), z in m, NaN where unknown


@dataclass(frozen=True)
class Score:
    """What weights are worth; less is better."""

    name: str  # of the number that they are chosen by
    value: float
    figures: dict[str, float]  # all numbers by name


def spread_windows(count: int, most: int) -> NDArray[np.int64]:
    """At most so many windows out of ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def read_batches(
    windows: WindowDataset,
    numbers: Sequence[int],
    size: int = BATCH,
    bar: str = '',
    stop: Callable[[], bool] = never,
) -> Iterator[Batch]:
    """
    Read windows by number, some at a time.

    :param bar: what they are read for, shown on a terminal where it takes a while; '': nothing is
    :param stop: asked before each batch; the rest is not read then
    """
    hidden = None if bar else True  # None: shown on a terminal only
    with tqdm(
        None, bar, len(numbers), leave=False, unit='window', delay=BAR_DELAY_S, disable=hidden
    ) as progress:
        for start in range(0, len(numbers), size):
            if stop():
                return
            yield windows.__getitems__(numbers[start : start + size])
            progress.update(min(size, len(numbers) - start))


@torch.no_grad()
def judge(
    model: TrainingModel,
    windows: WindowDataset,
    numbers: Sequence[int],
    device: torch.device,
    bar: str = '',
    stop: Callable[[], bool] = never,
) -> Iterator[Judgement]:
    """
    Look at windows as the node will, without learning; the model is left in eval mode.

    :param bar: as read_batches has it, and stop
    """
    model.eval()
    config = model.network.config
    # One by one, for figures that are each window's own
    for read in read_batches(windows, numbers, 1, bar, stop):
        batch = read.to(device)
        losses = model(batch, batch.images, NEWEST, False)
        maps, number = losses.maps, int(read.window[0])
        depth = depth_from_disparity(maps.disparity, config.min_depth, config.max_depth)
        yield Judgement(
            int(read.recording[0]),
            number,
            float(torch.minimum(maps.reprojection_error, maps.identity_error).mean()),
            float(losses.geometric),
            depth[0, 0].cpu().numpy(),
            windows.truth(number, NEWEST),
        )


def validate(
    model: TrainingModel,
    windows: WindowDataset,
    most: int,
    geometric_weight: float,
    processes: Processes,
) -> Score | None:
    """
    Score a model on held-out windows, shared out between the processes.

    Where a recording has measured depth, by Abs Rel of its images, each scaled by itself; else by
    the losses that need no truth, which say less.

    :param most: windows to look at, evenly spread
    :return: None: there are no windows, or a process was asked to end meanwhile
    """
    numbers = spread_windows(len(windows), most)
    if not len(numbers):
        return None
    mine = numbers[processes.rank :: processes.count].tolist()
    bar = 'judging' if processes.is_main else ''
    judged = judge(model, windows, mine, processes.device, bar, processes.asked)
    found = [_figures(one, geometric_weight) for one in judged]
    found = [pair for part in processes.gather(found) for pair in part]
    if processes.asked_to_end():
        return None
    figures = np.array(found)
    abs_rel, consistency = figures.T
    scores = {SELF_CONSISTENCY: float(consistency.mean())}
    if np.isfinite(abs_rel).any():
        scores[ABS_REL] = float(np.nanmean(abs_rel))
    name = ABS_REL if ABS_REL in scores else SELF_CONSISTENCY
    return Score(name, scores[name], scores)


def _figures(one: Judgement, geometric_weight: float) -> tuple[float, float]:
    """Abs Rel, NaN without truth; and the losses that need none."""
    consistency = one.photometric + geometric_weight * one.geometric
    pixels = None if one.truth is None else KnownPixels.of(one.truth, one.depth)
    if pixels is None or not pixels.truth.size:
        return float('nan'), consistency
    return pixels.errors(pixels.own_scale(), ANY_DEPTH).abs_rel, consistency
