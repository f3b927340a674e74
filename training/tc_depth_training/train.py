"""Train TC-Depth on bags: join the processes -> read -> build -> step by step -> finish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from tc_depth_training.config import TrainingConfig
from tc_depth_training.config_file import save_config
from tc_depth_training.data.loader import share_of_batch
from tc_depth_training.data.stretch import BagPart
from tc_depth_training.finish import finish
from tc_depth_training.guards import TrainingError
from tc_depth_training.interruption import Interrupted, Interruption
from tc_depth_training.processes import Processes, join_processes
from tc_depth_training.run import ASKED, Run
from tc_depth_training.run_folder import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    find_state,
    held_folder,
    writing,
)
from tc_depth_training.starting_model import resumed_model, start_info, starting_model
from tc_depth_training.teacher import Teacher, epoch_file
from tc_depth_training.training_data import load_training_data
from tc_depth_training.validation import Score
from tc_depth_training.watch.report import REPORT_NAME
from tc_depth_training.watch.watcher import Watcher


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    weights: Path
    steps: int  # done
    finished: bool  # False: it was asked to end before


def train(
    bags: Sequence[Path | BagPart], config: TrainingConfig, out: Path, *, resume: bool = False
) -> Outcome:
    """
    Train on bags; everything is written to one folder.

    ``weights.safetensors`` (the best so far), ``last.pt`` (to go on from), ``config.yaml``,
    ``log.jsonl``, ``pictures/`` and ``tensorboard/``; in the end ``report.html`` and
    ``README.md``, the weights' model card. SIGINT and SIGTERM end the run after its step, with
    all that it has learned.

    :param bags: and what of them is used, where that is not the settings' stretch
    :param resume: go on with the run that is in the folder, if there is one
    :raises BagError: a bag cannot be used
    :raises ConfigError: the folder holds a run already, or one of another configuration
    :raises WeightsError: the teacher, or the weights to start from, cannot be used
    :raises TrainingError: the loss stopped being a number, or the folder cannot be written
    """
    with (
        Interruption() as interruption,
        join_processes(config.device, lambda: interruption.requested) as processes,
    ):
        hold = held_folder(out) if processes.is_main else nullcontext()
        with hold, _deterministic(processes.device):
            try:
                run = _prepare(bags, config, out, processes, resume=resume)
            except Interrupted:
                print('stopped before the first step; bags that were read are in the cache')
                return Outcome(out / WEIGHTS_NAME, 0, finished=False)
            interruption.wait_for_steps()
            return _carry_out(run, out, interruption)


def _prepare(
    bags: Sequence[Path | BagPart],
    config: TrainingConfig,
    out: Path,
    processes: Processes,
    *,
    resume: bool,
) -> Run:
    """Read and build all that a run needs; what is wrong shows in the order of its price."""
    config = processes.from_main(config)  # on --resume it alone may have found the run's own
    share_of_batch(config.batch_size, processes.count)
    state = find_state(out, config, resume) if processes.is_main else None
    state = processes.from_main(state)
    teacher = Teacher(Path(config.teacher), processes.device) if config.teacher else None
    torch.manual_seed(config.seed)
    if state is None:
        start, model = start_info(config), starting_model(config, processes.device)
    else:
        start, model = state.start, resumed_model(config, state.start, processes.device)
    data = load_training_data(bags, config, quiet=not processes.is_main)
    _check_same(processes.gather(data.keys))
    run = Run(config, data, model, processes, teacher, start)
    if state is not None:
        run.go_on_from(state)
    if processes.is_main:
        with writing(out):
            save_config(config, out / CONFIG_NAME)
    return run


def _check_same(keys: Sequence[tuple[str, ...]]) -> None:
    """All processes must see the same windows, or each would learn from an order of its own."""
    for rank, others in enumerate(keys):
        if others != keys[0]:
            raise TrainingError(
                f'process {rank} reads other data ({"; ".join(others)}) than process 0 '
                f'({"; ".join(keys[0])}): give all machines the same bags and the same version of '
                'OpenCV'
            )


def _carry_out(run: Run, out: Path, interruption: Interruption) -> Outcome:
    """Take the steps, and finish; only the main process writes."""
    if not run.processes.is_main:
        stopped = _take_steps(run, out, None)
        return Outcome(out / WEIGHTS_NAME, run.steps_done, stopped != ASKED)
    with writing(out), Watcher(out, run) as watcher:
        stopped = _take_steps(run, out, watcher)
    if stopped != ASKED:
        stopped = _finish(run, out, stopped, interruption)
    _tell(run, out, stopped)
    return Outcome(out / WEIGHTS_NAME, run.steps_done, stopped != ASKED)


def _take_steps(run: Run, out: Path, watcher: Watcher | None) -> str:
    """Take the steps that are left; returns why not all of them, '' if so."""
    stopped = run.reason_to_stop()
    if watcher and not run.is_begun:
        watcher.begin(run)
    if watcher and run.doubt_of_start and not run.is_begun:
        watcher.warn(0, run.doubt_of_start)
    if run.owes_judgement and not stopped:
        _judge(run, out, watcher)
        stopped = run.reason_to_stop()
    for batch in run.batches() if not stopped else ():
        findings: tuple[str, ...] = ()
        if run.odometry_check_is_due():
            findings = run.check_odometry()
            if stopped := run.reason_to_stop():
                break
        taken = run.learn(batch)
        score = run.validate() if run.is_due(run.config.validation.every_steps) else None
        stopped = run.reason_to_stop()
        if watcher:
            watcher.step(taken, run)
            for finding in findings:
                watcher.warn(taken.number, finding)
        _note(run, out, watcher, score)
        if stopped:
            break
    if stopped and watcher and run.is_begun:
        run.save(out)
    return stopped


def _judge(run: Run, out: Path, watcher: Watcher | None) -> None:
    """
    Judge the weights before the next step: those of the start, or of a run cut off meanwhile.

    Trained weights that a run starts from may remain the best; and odometry and focal lengths are
    better held against depth that was not learned from them, for a network makes the best of what
    is wrong.
    """
    findings: tuple[str, ...] = ()
    if run.steps_done == 0:
        if run.config.fit_focal_length:
            findings += run.find_focal_lengths()
        if run.config.pose != 'learned':
            findings += run.check_odometry()
        if run.processes.asked_to_end():  # then these were cut short
            return
    score = run.validate()
    if watcher and not run.owes_judgement:
        for finding in findings:
            watcher.warn(run.steps_done, finding)
        _note(run, out, watcher, score)


def _note(run: Run, out: Path, watcher: Watcher | None, score: Score | None) -> None:
    """Show a score, write the weights if they are the best so far, and the state if it is time."""
    if watcher is None:
        return
    if score:
        watcher.score(score, run)
    is_best = run.best.step == run.steps_done
    if is_best:
        run.save_weights(out / WEIGHTS_NAME)
    if run.ends_epoch and run.config.save_every_epoch:
        run.save_weights(epoch_file(out, run.epoch))
    # With the best weights, so that the two never tell of different ones
    if is_best or run.is_due(run.config.save_every_steps):
        run.save(out)


def _finish(run: Run, out: Path, stopped: str, interruption: Interruption) -> str:
    """Judge and tell; a signal ends it at once, since all that was learned is saved by now."""
    try:
        interruption.wait_no_more()
        with writing(out):
            finish(run, out, stopped)
    except Interrupted:
        return ASKED
    return stopped


def _tell(run: Run, out: Path, stopped: str) -> None:
    """Say what there is now, and what to do with it."""
    if stopped == ASKED:
        saved = f'all is saved in {out}' if run.steps_done else 'nothing was learned yet'
        print(
            f'stopped after step {run.steps_done} of {run.schedule.steps}; {saved}: '
            'go on with the same command and --resume'
        )
        return
    print(
        f'wrote {out / WEIGHTS_NAME}, of step {run.best.step}, and what to know of it: '
        f'{out / REPORT_NAME}'
    )


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, let a resumed run go as it would have gone; CUDA lacks such kernels."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == 'cpu')
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
