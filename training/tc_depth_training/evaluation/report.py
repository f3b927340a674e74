"""A page of pictures: the best and the worst frames, where they err, and the scale over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tc_depth_ros.pictures import RGBImage, contact_sheet, write_picture
from tc_depth_training.evaluation.depth_errors import common_scale
from tc_depth_training.evaluation.scores import Evaluation, FrameScore
from tc_depth_training.evaluation.sequence import FrameSequence
from tc_depth_training.evaluation.sheet import TITLES, TITLES_WITH_TRUTH, depth_row
from tc_depth_training.evaluation.table import table
from tc_depth_training.page import page, picture, preformatted, section

ROWS = 4  # frames on each sheet


def write_report(
    folder: Path, evaluation: Evaluation, sequence: FrameSequence, depths: NDArray[np.float32]
) -> None:
    """
    Write ``index.html`` and its pictures.

    :param depths: predicted, z in the weights' unit, (N, H, W)
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = sorted(evaluation.window.of_frames, key=lambda score: score.abs_rel)
    sections = []
    if scores:
        for name, chosen in (('best', scores[:ROWS]), ('worst', scores[: -ROWS - 1 : -1])):
            write_picture(folder / f'{name}.png', _sheet(chosen, sequence, depths, evaluation))
            sections.append((f'The {name} frames', f'{name}.png', _caption(chosen)))
        _plot_over_time(folder / 'over_time.png', evaluation, sequence)
        sections.append(('Scale and error over time', 'over_time.png', ''))
    else:
        chosen = [FrameScore(i, 1.0, 0.0) for i in _spread(len(depths))]
        write_picture(folder / 'frames.png', _sheet(chosen, sequence, depths, evaluation))
        sections.append(('Frames from all over the bag', 'frames.png', 'There is no truth here.'))
    (folder / 'index.html').write_text(_page(evaluation, sections))


def _sheet(
    chosen: list[FrameScore],
    sequence: FrameSequence,
    depths: NDArray[np.float32],
    evaluation: Evaluation,
) -> RGBImage:
    """Image, truth, prediction and error of some frames; no truth: image and prediction."""
    common = common_scale([score.scale for score in evaluation.window.of_frames])
    rows = [
        depth_row(
            np.asarray(sequence.images[score.index]),
            np.float32(common) * np.asarray(depths[score.index]),
            None if sequence.truth is None else np.asarray(sequence.truth[score.index]),
            sequence.sparse,
        )
        for score in chosen
    ]
    return contact_sheet(rows, TITLES if sequence.truth is None else TITLES_WITH_TRUTH)


def _spread(count: int) -> list[int]:
    return [int(i) for i in np.unique(np.linspace(0, count - 1, ROWS).round())]


def _caption(chosen: list[FrameScore]) -> str:
    return 'Abs Rel with the common factor: ' + ', '.join(
        f'frame {score.index}: {score.abs_rel:.3f}' for score in chosen
    )


def _plot_over_time(path: Path, evaluation: Evaluation, sequence: FrameSequence) -> None:
    figure = Figure(figsize=(10, 5), layout='constrained')
    scale_axes, error_axes = figure.subplots(2, 1, sharex=True)
    start_ns = sequence.stamps_ns[0]
    for label, scores in (
        ('this model', evaluation.window),
        ('single frame', evaluation.single_frame),
    ):
        of_frames = scores.of_frames
        time_s = [(int(sequence.stamps_ns[s.index]) - int(start_ns)) * 1e-9 for s in of_frames]
        scale_axes.plot(time_s, [s.scale for s in of_frames], label=label, linewidth=1)
        error_axes.plot(time_s, [s.abs_rel for s in of_frames], label=label, linewidth=1)
    scale_axes.set_ylabel('scale of the image')
    error_axes.set_ylabel('Abs Rel, one factor')
    error_axes.set_xlabel('time [s]')
    for axes in (scale_axes, error_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)


def _page(evaluation: Evaluation, sections: list[tuple[str, str, str]]) -> str:
    parts = [
        section(title, picture(file, f'picture of {title.lower()}', caption))
        for title, file, caption in sections
    ]
    return page(f'Depth on {evaluation.bag}', preformatted(table(evaluation)), *parts)
