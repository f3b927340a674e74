"""The page that a run leaves behind: was it any good, and how did it get there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_ros.pictures import contact_sheet, encode_picture
from tc_depth_training.config import TrainingConfig
from tc_depth_training.evaluation.depth_errors import KnownPixels, common_scale
from tc_depth_training.evaluation.sheet import TITLES, TITLES_WITH_TRUTH, depth_row
from tc_depth_training.files import write_atomically
from tc_depth_training.page import (
    data_uri,
    grid,
    number,
    page,
    paragraph,
    picture,
    preformatted,
    section,
    table,
    warnings,
)
from tc_depth_training.summary import RunSummary, Sample
from tc_depth_training.watch import facts
from tc_depth_training.watch.curves import training_curves, validation_curves
from tc_depth_training.watch.log import RunHistory
from tc_depth_training.watch.pictures import latest_training_sheet

REPORT_NAME = 'report.html'
DENSE = 0.3  # share of known pixels from which a truth is shown as it is


def write_run_report(folder: Path, summary: RunSummary, history: RunHistory) -> Path:
    """
    Write ``report.html``: one file with all its pictures in it, whole or not at all.

    :param folder: of the run, where the training pictures are looked for too
    :raises OSError: it cannot be written
    """
    told = [warning.text for warning in history.warnings]
    lines = [f'Step {warning.step}: {warning.text}' for warning in history.warnings]
    lines += [text for text in summary.warnings if text not in told]
    names = ', '.join(recording.name for recording in summary.recordings)
    text = page(
        f'Training on {names}',
        paragraph(facts.network_sentence(summary)),
        paragraph(facts.length_sentence(summary)),
        warnings(lines),
        _headline(summary, history),
        section('Held-out frames', *_held_out(summary)),
        section('What the kept weights see', *_samples(summary.samples, summary.info)),
        section('On held-out windows', _curves(_validation(summary, history))),
        section('While learning', _explained(training_curves(history))),
        section('The last window looked at', _training_sheet(folder, summary)),
        section('Recordings', table(facts.recordings_table(summary))),
        section('Configuration', preformatted(_yaml(summary.config))),
        section('Made with', preformatted(_notes(summary.info))),
    )
    path = folder / REPORT_NAME
    write_atomically(path, text.encode())
    return path


def _headline(summary: RunSummary, history: RunHistory) -> str:
    numbers = [number(f'step {summary.best_step}', facts.choice_sentence(summary))]
    curve = history.validation.get(summary.score_name)
    best = [] if curve is None else curve.values[curve.steps == summary.best_step].tolist()
    if best:
        numbers.append(number(f'{best[-1]:.4g}', f'{summary.score_name} of these weights.'))
    unit = 'metres' if summary.info.metric else 'no unit'
    numbers.append(number(unit, facts.scale_sentence(summary.info)))
    compared = facts.against_constant(summary.held_out)
    if compared is not None:
        numbers.append(number(f'{compared[0]:.3f}', _comparison(*compared)))
    return grid(*numbers)


def _comparison(error: float, constant: float) -> str:
    verdict = (
        'it sees depth' if error < constant else 'it is no better than not looking: do not use it'
    )
    return (
        'Mean relative error of depth on held-out frames, all images scaled by one factor. '
        f'The best constant depth gives {constant:.3f}: {verdict}.'
    )


def _held_out(summary: RunSummary) -> list[str]:
    if not summary.held_out:
        return [paragraph('No frames were held out: how good these weights are was not measured.')]
    parts = [
        paragraph(
            'Frames of the same recordings, kept from learning. Reprojection error: of the '
            'neighbouring frames warped to each frame, 0 to 1. Disagreement: how far the depths '
            'of neighbouring frames differ, relative.'
        ),
        table(facts.held_out_table(summary.held_out)),
    ]
    measured = facts.depth_table(summary.held_out)
    if not measured.rows:
        return [*parts, paragraph('No recording has measured depth to compare with.')]
    explained = paragraph(
        'Against measured depth, which was never learned from. Errors: lower is better; delta: '
        'the share of pixels within that factor, higher is better.'
    )
    return [*parts, explained, table(measured)]


def _samples(samples: Sequence[Sample], info: WeightsInfo) -> list[str]:
    """Sheets of frames with truth, and of frames without."""
    with_truth = [sample for sample in samples if sample.truth is not None]
    without = [sample for sample in samples if sample.truth is None]
    factor = info.scale if info.metric else _common_factor(with_truth)
    scaled = '' if info.metric else ' The prediction is scaled by one factor for all.'
    parts = []
    if with_truth:
        parts.append(_sheet(with_truth, TITLES_WITH_TRUTH, factor, scaled))
    if without:
        parts.append(_sheet(without, TITLES, factor, ''))
    return parts


def _sheet(samples: Sequence[Sample], titles: Sequence[str], factor: float, scaled: str) -> str:
    rows = [
        depth_row(
            sample.image,
            np.float32(factor) * sample.depth,
            sample.truth,
            sparse=sample.truth is not None and bool(np.isfinite(sample.truth).mean() < DENSE),
        )
        for sample in samples
    ]
    sheet = encode_picture(contact_sheet(rows, titles), '.jpg')
    names = ', '.join(dict.fromkeys(sample.recording for sample in samples))
    caption = f'Held-out frames of {names}. Near is red, far is blue.{scaled}'
    return picture(data_uri(sheet, 'image/jpeg'), ', '.join(titles), caption)


def _common_factor(samples: Sequence[Sample]) -> float:
    """Median of the images' own factors; 1 without truth."""
    known = (KnownPixels.of(s.truth, s.depth) for s in samples if s.truth is not None)
    return common_scale([pixels.own_scale() for pixels in known if pixels.truth.size])


def _validation(summary: RunSummary, history: RunHistory) -> dict[str, bytes]:
    return validation_curves(history, summary.score_name, summary.best_step)


def _explained(curves: dict[str, bytes]) -> str:
    if not curves:
        return ''
    return _curves(curves) + paragraph(
        'Light: every step, its extremes where there are many. Dark: means over blocks of steps. '
        'Dashed: where a run is warned of.'
    )


def _curves(curves: dict[str, bytes]) -> str:
    return grid(*(picture(data_uri(svg, 'image/svg+xml'), title) for title, svg in curves.items()))


def _training_sheet(folder: Path, summary: RunSummary) -> str:
    path = latest_training_sheet(folder, summary.steps)
    if path is None:
        return ''
    caption = f'{path.stem.replace("_", " ")}; masks: white is used'
    return picture(data_uri(path.read_bytes(), 'image/png'), 'pictures of the losses', caption)


def _yaml(config: TrainingConfig) -> str:
    text = io.StringIO()
    YAML(typ='rt').dump(config.model_dump(mode='json'), text)
    return text.getvalue()


def _notes(info: WeightsInfo) -> str:
    notes = {'tc_depth_training': info.code_version, **info.notes}
    return '\n'.join(f'{name}: {value}' for name, value in notes.items())
