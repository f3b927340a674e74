"""An evaluation as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

from tc_depth_training.evaluation.confidence_bins import ConfidenceScores
from tc_depth_training.evaluation.depth_errors import DepthErrors, ScaledErrors
from tc_depth_training.evaluation.scores import Evaluation, Scores

ABSENT = '-'
UNITS = {'sq_rel': ' [m]', 'rmse': ' [m]'}
TEMPORAL = {
    'tcm_abs': 'TCM [m]',
    'tcm_rmse': 'TCM RMSE [m]',
    'tae': 'TAE',
    'opw': 'OPW',
    'scale_ratio_std': 'scale ratio std',
}
SCALINGS: tuple[tuple[str, Callable[[ScaledErrors], DepthErrors]], ...] = (
    ('each image scaled by its own factor', lambda depth: depth.median),
    ('all images scaled by one factor', lambda depth: depth.overall),
    ('not scaled', lambda depth: depth.none),
)


def table(evaluation: Evaluation) -> str:
    """Lay out all numbers: a row for each, a column for each way to predict."""
    trivial = evaluation.trivial
    ways = {'this model': evaluation.window, 'single frame': evaluation.single_frame}
    if evaluation.without_motion:
        ways['no motion'] = evaluation.without_motion
    of_ways = list(ways.values())
    trivial_titles = ['constant', 'plane', 'pixel mean'] if trivial else []
    lines = [_headline(evaluation), '', _row('', [*ways, *trivial_titles])]
    depths = [scores.depth for scores in of_ways if scores.depth]
    for label, of in SCALINGS if len(depths) == len(of_ways) else ():
        columns = [of(depth) for depth in depths]
        # The trivial answers are fitted to the truth: no factor would be theirs
        if trivial and label == SCALINGS[-1][0]:
            columns += [trivial.constant, trivial.plane, trivial.pixel_mean]
        lines.append(label)
        for field in fields(DepthErrors):
            values = [_number(getattr(column, field.name)) for column in columns]
            lines.append(_row(f'  {field.name}{UNITS.get(field.name, "")}', values))
    lines += ['scale of the images', *_scale_rows(of_ways), 'over time']
    for name, label in TEMPORAL.items():
        values = [_number(getattr(scores.temporal, name)) for scores in of_ways]
        lines.append(_row(f'  {label}', values))
    pose = evaluation.pose
    lines += ['pose network against odometry']
    for label, value in (
        ('ATE over 5 frames [m]', pose.ate5_mean),
        ('  its deviation [m]', pose.ate5_std),
        ('ATE RMSE of all [m]', pose.ate_rmse),
    ):
        lines.append(_row(f'  {label}', [_number(value)]))
    if evaluation.confidence:
        lines += _confidence_rows(evaluation.confidence)
    return '\n'.join(lines)


def _headline(evaluation: Evaluation) -> str:
    scores = evaluation.window
    truth = f'truth {evaluation.truth_topic}' if evaluation.truth_topic else 'no truth'
    coverage = '' if scores.coverage is None else f', coverage {100 * scores.coverage:.1f} %'
    unit = 'metres' if evaluation.metric else 'a unit of their own'
    motions = ', '.join(f'{source} {count}' for source, count in evaluation.motions.items())
    matched = f'; frames matched by motion of: {motions}' if motions else ''
    return (
        f'{evaluation.bag}: {scores.frames} frames, {truth}{coverage}; depths in {unit}{matched}'
    )


def _scale_rows(ways: Sequence[Scores]) -> list[str]:
    scales = [scores.scale for scores in ways]
    return [
        _row('  mean', [_number(scale.mean if scale else None) for scale in scales]),
        _row('  deviation', [_number(scale.std if scale else None) for scale in scales]),
    ]


def _confidence_rows(scores: ConfidenceScores) -> list[str]:
    lines = ['confidence, each image scaled by its own factor']
    lines.append(_row('  from, to', ['share', 'abs_rel', 'error < 25 %']))
    for one in scores.bins:
        label = f'  {one.lowest:.3f}, {one.highest:.3f}' + ('' if one.share else ' (empty)')
        lines.append(_row(label, [_number(v) for v in (one.share, one.abs_rel, one.good)]))
    live = scores.live
    return [
        *lines,
        _row('  mean confidence', [_number(scores.mean)]),
        f'live consistency of {live.pairs} pairs of frames',
        _row('  disagreement', [_number(live.disagreement)]),
        _row('  |ln scale ratio|', [_number(live.scale_step)]),
        _row('  inconsistent share', [_number(live.inconsistent_share)]),
        _row('  scale jumps', [str(live.scale_jumps)]),
    ]


def _row(label: str, values: list[str]) -> str:
    return f'{label:<26}' + ''.join(f'{value:>14}' for value in values)


def _number(value: float | None) -> str:
    return ABSENT if value is None else f'{value:.4f}'
