"""Curves of a run's log, each a small picture of its own that a phone can show."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tc_depth_training.guards import limits
from tc_depth_training.watch.log import Curve, RunHistory

BLOCKS = 60  # of steps, whose means make a smooth line, each of four or more
POINTS = 600  # of the light line behind it
SIZE_IN = (4.4, 2.6)
BEST = '#c0392b'
FOCAL_FACTORS = 'focal_factors.'  # so begin those of the recordings


@dataclass(frozen=True)
class Panel:
    """How a logged number is shown."""

    name: str
    title: str
    unit: str
    limits: tuple[float, ...] = ()  # beyond which a run is warned of
    unused: float = 0.0  # what it is throughout where it plays no part


PANELS = (
    Panel('total', 'Loss', 'weighted sum'),
    Panel('photometric', 'Photometric loss', 'SSIM and L1, 0 to 1'),
    Panel('geometric', 'Geometric loss', 'relative difference'),
    Panel('smoothness', 'Smoothness loss', 'no unit'),
    Panel('coarse', 'Coarse loss', 'inverse depth [1/m]'),
    Panel('motion', 'Motion loss', 'inverse depth [1/m]'),
    Panel('pose', 'Pose loss', 'no unit'),
    Panel('matching', 'Matching loss', 'weighted sum'),
    Panel('depth', 'Depth loss', '|ln of the ratio|'),
    Panel(
        'auto_mask_share', 'Pixels that the auto mask keeps', 'share', limits('auto_mask_share')
    ),
    Panel('static_share', 'Pixels where the teacher agrees', 'share', unused=1.0),
    Panel('geometric_difference', 'Disagreement of depths', 'relative difference'),
    Panel('disparity_spread', 'Spread of the disparity', 'std / mean', limits('disparity_spread')),
    Panel('translation', 'Motion between frames', 'network units', limits('translation')),
    Panel('gradient_norm', 'Gradient before clipping', 'norm'),
    Panel('learning_rate', 'Learning rate', 'no unit'),
)


def training_curves(history: RunHistory) -> dict[str, bytes]:
    """Draw all that was logged of the steps and plays a part, as SVG by title."""
    return {
        panel.title: _svg(_draw_training(panel, _finite(history.training[panel.name])))
        for panel in _panels_of(history.training)
    }


def validation_curves(history: RunHistory, score_name: str, best_step: int) -> dict[str, bytes]:
    """Draw all that was measured on held-out windows, as SVG by title; the score comes first."""
    names = sorted(history.validation, key=lambda name: (name != score_name, name))
    return {
        name: _svg(_draw_validation(name, history.validation[name], best_step)) for name in names
    }


def _panels_of(curves: Mapping[str, Curve]) -> Iterator[Panel]:
    known = {panel.name: panel for panel in PANELS}
    others = (_panel_of_its_own(name) for name in curves if name not in known)
    for panel in (*PANELS, *others):
        if panel.name in curves and (curves[panel.name].values != panel.unused).any():
            yield panel


def _panel_of_its_own(name: str) -> Panel:
    recording = name.removeprefix(FOCAL_FACTORS)
    if recording != name:
        return Panel(name, f'Focal length of {recording}', 'found / given')
    return Panel(name, name, '')


def _finite(curve: Curve) -> Curve:
    kept = np.isfinite(curve.values)
    return Curve(curve.steps[kept], curve.values[kept])


def _draw_training(panel: Panel, curve: Curve) -> Figure:
    figure, axes = _axes(panel.title, panel.unit)
    raw, smooth = _thinned(curve), _means(curve)
    axes.plot(raw.steps, raw.values, color='C0', alpha=0.3, linewidth=0.7)
    axes.plot(smooth.steps, smooth.values, color='C0', linewidth=1.6)
    for limit in panel.limits:
        axes.axhline(limit, color=BEST, linestyle='--', linewidth=0.9)
    return figure


def _draw_validation(name: str, curve: Curve, best_step: int) -> Figure:
    figure, axes = _axes(name, 'on held-out windows')
    axes.plot(curve.steps, curve.values, marker='o', markersize=3, linewidth=1.2)
    best = curve.steps == best_step
    label = f'kept: step {best_step}'
    axes.plot(curve.steps[best], curve.values[best], 'o', color=BEST, markersize=7, label=label)
    if best.any():
        axes.legend(frameon=False)
    return figure


def _axes(title: str, unit: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, layout='constrained')
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc='left', parse_math=False)
    axes.set_xlabel('step')
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    return figure, axes


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    # Letters stay letters: smaller, and a reader can search them. No date: same log, same file
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'tc_depth'}):
        figure.savefig(file, format='svg', metadata={'Date': None})
    return file.getvalue()


def _means(curve: Curve) -> Curve:
    """Means over blocks of steps."""
    blocks = [
        (curve.steps[block], curve.values[block])
        for block in _blocks(curve, min(BLOCKS, 1 + len(curve.steps) // 5))
    ]
    means = np.array([(steps.mean(), values.mean()) for steps, values in blocks]).reshape(-1, 2)
    return Curve(means[:, 0].round().astype(np.int64), means[:, 1])


def _thinned(curve: Curve) -> Curve:
    """As many points as can be seen: the lowest and the highest of each block, in their order."""
    kept = np.concatenate(
        [
            block[sorted({int(values.argmin()), int(values.argmax())})]
            for block in _blocks(curve, POINTS // 2)
            for values in (curve.values[block],)
        ]
        or [np.arange(0)]
    )
    return Curve(curve.steps[kept], curve.values[kept])


def _blocks(curve: Curve, most: int) -> list[NDArray[np.int64]]:
    """Positions of a curve in at most so many runs of about equal length."""
    count = len(curve.steps)
    return np.array_split(np.arange(count), min(most, count)) if count else []
