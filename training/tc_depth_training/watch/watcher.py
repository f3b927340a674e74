"""What a person sees of a run under way: bar, log, curves, pictures, warnings."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from tc_depth_ros.network.build import DepthNetwork
from tc_depth_training.guards import CollapseGuard
from tc_depth_training.run import Run, TakenStep
from tc_depth_training.run_folder import LOG_NAME
from tc_depth_training.validation import Score
from tc_depth_training.watch.log import RunLog
from tc_depth_training.watch.pictures import (
    attention_pictures,
    loss_pictures,
    write_training_sheet,
)
from tc_depth_training.watch.tensorboard import open_tensorboard

TENSORBOARD_NAME = 'tensorboard'
FILE_INTERVAL_S = 30.0
CURVE_EVERY_STEPS = 10  # in TensorBoard; the log has every step


class Watcher:
    """Shows a run; of several processes, in the main one only."""

    def __init__(self, out: Path, run: Run) -> None:
        """Begin to watch a run, which may have been begun before; a context manager."""
        first, steps = run.steps_done, run.schedule.steps
        self._out = out
        self._log = RunLog(out / LOG_NAME, first if run.is_begun else None)
        wanted = run.config.watch.tensorboard
        self._board = open_tensorboard(out / TENSORBOARD_NAME, first, wanted)
        # In a file, as of nohup, now and then a line
        interval_s = 0.1 if sys.stderr.isatty() else FILE_INTERVAL_S
        self._bar = tqdm(
            None, 'training', steps, unit='step', initial=first, mininterval=interval_s
        )
        self._guard = CollapseGuard()

    def __enter__(self) -> Watcher:
        """Watch."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all that is open."""
        with ExitStack() as stack:  # where one cannot be closed, the others are
            for shown in (self._log, self._board, self._bar):
                stack.callback(shown.close)

    def begin(self, run: Run) -> None:
        """Note what a new run learns from, and is judged by."""
        self._log.write(0, {'recordings': [summary.line for summary in run.data.summaries]})

    def step(self, taken: TakenStep, run: Run) -> None:
        """Note a step that a run has taken."""
        values = {**taken.values, 'learning_rate': taken.rate}
        self._log.write(taken.number, {**values, **run.focal_factors()})
        for warning in self._guard.check(taken.number, values):
            self.warn(taken.number, warning)
        if taken.number % CURVE_EVERY_STEPS == 0:
            named = {f'training/{name}': value for name, value in values.items()}
            self._board.scalars(taken.number, named)
        if run.is_due(run.config.watch.pictures_every_steps):
            self._show_pictures(taken, run.learner.model.network)
        self._bar.set_postfix(
            loss=f'{values["total"]:.4f}', rate=f'{taken.rate:.1e}', refresh=False
        )
        self._bar.update()

    def score(self, score: Score, run: Run) -> None:
        """Note what a run's weights are worth now."""
        number, best = run.steps_done, run.best.step == run.steps_done
        self._log.validation(number, score.figures)
        named = {f'validation/{name}': value for name, value in score.figures.items()}
        self._board.scalars(number, named)
        told = f'step {number}: {score.name} {score.value:.4f}'
        self._bar.write(f'{told}, the best so far' if best else told)

    def warn(self, number: int, text: str) -> None:
        """Show and keep a warning."""
        self._log.warn(number, text)
        self._bar.write(f'warning: {text}')

    def _show_pictures(self, taken: TakenStep, network: DepthNetwork) -> None:
        """What the first window of a batch looks like to the losses and to the attention."""
        batch = taken.batch
        pictures = {
            **loss_pictures(taken.maps),
            **attention_pictures(network, batch.images, batch.K, taken.target),
        }
        self._board.pictures(taken.number, pictures)
        write_training_sheet(self._out, taken.number, pictures)
