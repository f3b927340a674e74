"""A page of pictures: the best and the worst frames, where they err, and the scale over time."""

from __future__ import annotations

import html
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tc_depth_ros.pictures import (
    RGBImage,
    colour_depth,
    contact_sheet,
    depth_range,
    write_picture,
)
from tc_depth_training.evaluation.scores import Evaluation, FrameScore
from tc_depth_training.evaluation.sequence import FrameSequence
from tc_depth_training.evaluation.table import table

ROWS = 4  # frames on each sheet
PICTURE_WIDTH = 400  # px
WORST_ERROR = 0.5  # relative, the upper end of the error map


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


def error_map(truth: NDArray[np.float32], prediction: NDArray[np.float32]) -> RGBImage:
    """
    Show the relative error in colours: dark blue is 0, yellow is 50 % and more, black unknown.

    :param truth: m, NaN where unknown, (H, W)
    :param prediction: m, (H, W)
    """
    error = np.abs(prediction - truth) / truth
    level = np.nan_to_num((error / WORST_ERROR).clip(0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(level, cv2.COLORMAP_PLASMA)
    bgr[~np.isfinite(error)] = 0
    return np.ascontiguousarray(bgr[..., ::-1])


def _sheet(
    chosen: list[FrameScore],
    sequence: FrameSequence,
    depths: NDArray[np.float32],
    evaluation: Evaluation,
) -> RGBImage:
    """Image, truth, prediction and error of some frames; no truth: image and prediction."""
    common = float(np.median([s.scale for s in evaluation.window.of_frames] or [1.0]))
    rows = []
    for score in chosen:
        prediction = np.float32(common) * np.asarray(depths[score.index])
        image = np.asarray(sequence.images[score.index])
        row = [image]
        if sequence.truth is not None:
            truth = np.asarray(sequence.truth[score.index])
            shown = _thick(truth) if sequence.sparse else truth
            ends = depth_range(shown)
            row += [colour_depth(shown, ends), colour_depth(prediction, ends)]
            row += [error_map(shown, prediction)]
        else:
            row += [colour_depth(prediction, depth_range(prediction))]
        rows.append([_small(picture) for picture in row])
    titles = ['image', 'truth', 'prediction', 'relative error, 0 to 50 %']
    return contact_sheet(rows, titles if sequence.truth is not None else ['image', 'prediction'])


def _thick(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lidar points, large enough to be seen; the nearest on top."""
    inverse = np.nan_to_num(1 / depth)
    wide = cv2.dilate(inverse, np.ones((5, 5), np.uint8))
    return np.divide(1, wide, out=np.full_like(depth, np.nan), where=wide > 0)


def _small(picture: RGBImage) -> RGBImage:
    height = round(PICTURE_WIDTH * picture.shape[0] / picture.shape[1])
    size = (PICTURE_WIDTH, height)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


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
        f'<h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p><img src="{file}">'
        for title, file, caption in sections
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<title>{html.escape(evaluation.bag)}</title>'
        '<style>body{font-family:sans-serif;max-width:1650px;margin:2em auto;padding:0 1em}'
        'img{max-width:100%}pre{background:#f4f4f4;padding:1em;overflow:auto}</style>'
        f'<h1>Depth on {html.escape(evaluation.bag)}</h1>'
        f'<pre>{html.escape(table(evaluation))}</pre>' + ''.join(parts) + '</html>\n'
    )
