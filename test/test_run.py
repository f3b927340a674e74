"""A run through its front door: what it writes, how it ends, how it goes on, what it refuses."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tc_depth_ros.network.checkpoint import load_weights, read_weights_info, save_weights
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training import finish as finish_module
from tc_depth_training import learner as learner_module
from tc_depth_training import run as run_module
from tc_depth_training import run_folder, run_state
from tc_depth_training import train as train_module
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.config import TrainingConfig
from tc_depth_training.config_file import load_config, save_config
from tc_depth_training.data.windows import Batch
from tc_depth_training.finish import finish
from tc_depth_training.guards import TrainingError
from tc_depth_training.interruption import Interrupted, Interruption
from tc_depth_training.learner import Learner
from tc_depth_training.odometry_trust import Distrusted, Findings
from tc_depth_training.processes import Processes
from tc_depth_training.provenance import with_odometry
from tc_depth_training.run import Run, TakenStep
from tc_depth_training.run_folder import CONFIG_NAME, LOG_NAME, WEIGHTS_NAME, held_folder, writing
from tc_depth_training.run_state import STATE_NAME
from tc_depth_training.starting_model import starting_model
from tc_depth_training.synthetic import render_recording
from tc_depth_training.train import train
from tc_depth_training.training_data import load_training_data
from tc_depth_training.watch.facts import scale_sentence
from tc_depth_training.watch.log import read_log

REPOSITORY = Path(__file__).parents[1]
TINY_RUN = [
    'data.height=48',
    'data.width=64',
    'data.time_steps_s=[0.1]',
    'network.imagenet=false',
    'network.initial_depth=4.5',
    'loss.scales=[0]',
    'validation.share=0.2',
    'validation.every_steps=2',
    'watch.tensorboard=false',
    'watch.pictures_every_steps=3',
    'warm_up_steps=2',
    'batch_size=2',
    'save_every_steps=1',
    'pose=odometry',
]


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, render_recording(frames=24, height=120, width=160))
    return path


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


def configured(*more: str) -> TrainingConfig:
    return load_config(None, [*TINY_RUN, *more])


def settings(*more: str) -> list[str]:
    return [part for value in [*TINY_RUN, *more] for part in ('--set', value)]


def steps_of(out: Path) -> list[int]:
    lines = (out / LOG_NAME).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry['step'] for entry in entries if 'total' in entry]


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = (load_weights(folder / WEIGHTS_NAME).network.state_dict() for folder in (a, b))
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def same_state(a: Path, b: Path) -> bool:
    ours, theirs = (
        torch.load(folder / STATE_NAME, weights_only=True)['learner']['model'] for folder in (a, b)
    )
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope='module')
def undisturbed(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('undisturbed')
    train([bag], configured('steps=8'), out)
    return out


# What is left behind


def test_a_run_leaves_weights_state_log_pictures_report_and_model_card(undisturbed: Path) -> None:
    found = {path.name for path in undisturbed.iterdir()}
    expected = {WEIGHTS_NAME, STATE_NAME, CONFIG_NAME, LOG_NAME, 'report.html', 'README.md'}
    assert found == expected | {'pictures', '.lock'}
    assert steps_of(undisturbed) == list(range(1, 9))
    assert load_config(undisturbed / CONFIG_NAME) == configured('steps=8')
    info = read_weights_info(undisturbed / WEIGHTS_NAME)
    assert info.metric and 'odometry' in info.scale_source and info.training_data == 'room'
    assert sorted(p.name for p in (undisturbed / 'pictures').iterdir()) == [
        f'step_{step:06d}.png' for step in (3, 6, 8)
    ]


def test_the_best_weights_are_kept_and_not_the_last(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tc_depth_training import run
    from tc_depth_training.validation import Score

    values = iter([0.3, 0.1, 0.2, 0.4])
    monkeypatch.setattr(run, 'validate', lambda *_: Score('x', next(values), {}))
    train([bag], configured('steps=8'), tmp_path)
    assert read_weights_info(tmp_path / WEIGHTS_NAME).notes['steps'] == 4


def test_what_a_run_started_from_may_remain_the_best(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tc_depth_training import run
    from tc_depth_training.validation import Score

    values = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr(run, 'validate', lambda *_: Score('x', next(values), {'x': 0.0}))
    train([bag], configured('steps=4', 'init=default', 'save_every_steps=100'), tmp_path)
    start, kept = (
        load_weights(path).network for path in (DEFAULT_WEIGHTS, tmp_path / WEIGHTS_NAME)
    )
    kept_weights = kept.state_dict()
    assert all(torch.equal(value, kept_weights[n]) for n, value in start.state_dict().items())
    assert 'nothing better was found' in (tmp_path / 'report.html').read_text()


def test_a_run_that_gets_no_better_stops_early(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tc_depth_training import run
    from tc_depth_training.validation import Score

    monkeypatch.setattr(run, 'validate', lambda *_: Score('x', 1.0, {}))
    outcome = train([bag], configured('steps=20', 'validation.patience=2'), tmp_path)
    assert outcome.finished and outcome.steps == 6
    assert 'no better weights' in (tmp_path / 'report.html').read_text()
    # And stays stopped
    again = train([bag], configured('steps=20', 'validation.patience=2'), tmp_path, resume=True)
    assert again.steps == 6


# How it goes on


def cut_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process seem to die in the middle of a step."""
    original = Run.learn

    def learn(run: Run, batch: Any) -> Any:
        if run.steps_done == step:
            raise MemoryError('killed')
        return original(run, batch)

    monkeypatch.setattr(Run, 'learn', learn)


@pytest.mark.parametrize('step', [1, 5])
def test_a_resumed_run_is_the_run_that_was_never_cut(
    bag: Path, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = configured('steps=8')
    with monkeypatch.context() as patch:
        cut_after(step, patch)
        with pytest.raises(MemoryError):
            train([bag], config, tmp_path)
    torch.rand(7)  # the state of chance at large does not matter
    train([bag], config, tmp_path, resume=True)
    assert same_state(tmp_path, undisturbed) and same_weights(tmp_path, undisturbed)
    ours, theirs = ((folder / LOG_NAME).read_text() for folder in (tmp_path, undisturbed))
    assert ours == theirs


def test_what_was_said_of_the_start_outlives_a_kill(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured('steps=2', 'save_every_steps=100', 'init=default')
    train([bag], config, tmp_path / 'whole')
    with monkeypatch.context() as patch:
        cut_after(1, patch)
        with pytest.raises(MemoryError):
            train([bag], config, tmp_path / 'cut')
    train([bag], config, tmp_path / 'cut', resume=True)
    logs = [(tmp_path / folder / LOG_NAME).read_text() for folder in ('whole', 'cut')]
    assert logs[0] == logs[1] and '"step": 0' in logs[0]


def test_the_weights_that_a_run_started_from_may_go_away(
    bag: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = tmp_path / 'begin.safetensors'
    shutil.copy(undisturbed / WEIGHTS_NAME, begin)
    config = configured('steps=3', f'init={begin}', 'pose=both')
    with monkeypatch.context() as patch:
        cut_after(2, patch)
        with pytest.raises(MemoryError):
            train([bag], config, tmp_path / 'out')
    begin.unlink()
    assert train([bag], config, tmp_path / 'out', resume=True).finished
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'begin.safetensors, whose terms it inherits. These were trained on room; ' in card


@pytest.mark.parametrize('unit', [{'scale': 3.2}, {'metric': False}])
def test_a_start_of_another_unit_is_not_compared_with_metres(
    bag: Path, tmp_path: Path, unit: dict[str, Any]
) -> None:
    given = load_weights(DEFAULT_WEIGHTS)
    save_weights(tmp_path / 'init.safetensors', given.network, replace(given.info, **unit))
    config = configured('steps=1', f'init={tmp_path / "init.safetensors"}')
    train([bag], config, tmp_path / 'out')
    history = read_log(tmp_path / 'out' / LOG_NAME)
    (told,) = history.warnings
    assert told.step == 0 and 'odometry teaches it metres' in told.text
    assert history.validation['photometric + consistency'].steps.tolist() == [1]


def test_focal_lengths_found_at_the_start_are_told_and_learned_from(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, 'find_focal_factors', lambda *_: [0.9])
    config = configured('steps=1', 'init=default', 'fit_focal_length=true')
    train([bag], config, tmp_path)
    history = read_log(tmp_path / LOG_NAME)
    (told,) = [w for w in history.warnings if 'calibrate the camera' in w.text]
    assert told.step == 0 and 'a focal length 0.90 times that of its CameraInfo' in told.text
    # A step moves it by the learning rate
    assert history.training['focal_factors.room'].values == pytest.approx(0.9, abs=0.01)
    assert load_weights(tmp_path / WEIGHTS_NAME).info.notes['focal_factors']['room'] != 1


PARTLY_LOOKED_AT = Findings((Distrusted(0, 0, 0, 1 << 62),), ('all of it is wrong',))


def ask_once(module: Any, name: str, monkeypatch: pytest.MonkeyPatch, answer: Any = None) -> None:
    """Let a scheduler end the process just when this function is called first; it then answers."""
    original, calls = getattr(module, name), []

    def asked(*arguments: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
            if answer is not None:
                return answer
        return original(*arguments)

    monkeypatch.setattr(module, name, asked)


@pytest.mark.parametrize(
    ('more', 'stops'),
    [
        ([], [('validate', 2), ('hold_against_images', 3)]),  # which is due after three steps
        (['init=default'], [('hold_against_images', 0), ('validate', 0)]),
        (['init=default', 'validation.share=0'], [('hold_against_images', 0)]),
    ],
)
def test_asked_to_end_while_all_is_judged_it_does_not_wait_for_that(
    bag: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    stops: list[tuple[str, int]],
) -> None:
    monkeypatch.setattr(run_module, 'ODOMETRY_CHECKS', (0.75,))
    monkeypatch.setattr(run_module, 'STEPS_BEFORE_CHECK', 2)
    config = configured('steps=4', 'save_every_steps=100', *more)
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    train([bag], config, whole)
    for at, steps in stops:
        with monkeypatch.context() as patch:
            answer = PARTLY_LOOKED_AT if at == 'hold_against_images' else None
            ask_once(run_module, at, patch, answer)
            outcome = train([bag], config, cut, resume=True)
        assert not outcome.finished and outcome.steps == steps
        assert (cut / STATE_NAME).exists() == (steps > 0)
        # What was cut off has said nothing
        assert ('validation' in (cut / LOG_NAME).read_text()) == (steps == 3)
    assert train([bag], config, cut, resume=True).finished
    assert (cut / LOG_NAME).read_text() == (whole / LOG_NAME).read_text()
    assert same_weights(cut, whole) and same_state(cut, whole)


def test_asked_to_end_while_the_report_is_made_it_ends_and_makes_it_later(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured('steps=2')
    with monkeypatch.context() as patch:
        ask_once(finish_module, 'examine', patch)
        ask_once(train_module, '_tell', patch)  # schedulers tell more than once
        outcome = train([bag], config, tmp_path)
    assert not outcome.finished and outcome.steps == 2
    assert not (tmp_path / 'report.html').exists()
    assert train([bag], config, tmp_path, resume=True).finished
    assert (tmp_path / 'report.html').exists()


def command(bag: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        '-m',
        'tc_depth_training.cli',
        'train',
        str(bag),
        '--out',
        str(out),
        *more,
    ]


def start(bag: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / 'training')])
    environment = {**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(
        command(bag, out, *more),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, to be told together
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300  # of a busy machine
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_three_times_and_resumed_it_ends_with_the_same_weights(
    bag: Path, tmp_path: Path
) -> None:
    chance = random.Random(5)
    asked = ('steps=24', 'validation.every_steps=6')
    train([bag], configured(*asked), tmp_path / 'whole')
    killed = tmp_path / 'killed'
    for target in (4, 10, 16):
        process = start(bag, killed, '--resume', *settings(*asked))
        log = killed / LOG_NAME
        wait_for(lambda n=target, f=log: f.exists() and f.read_text().count('total') >= n, process)
        time.sleep(chance.random() * 0.3)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    # Nothing is said about the configuration: it is the run's own
    last = start(bag, killed, '--resume')
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert same_state(killed, tmp_path / 'whole') and same_weights(killed, tmp_path / 'whole')
    assert steps_of(killed) == list(range(1, 25))
    assert not list(killed.glob('.*.tmp'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'times', 'workers'), [(signal.SIGINT, 1, 0), (signal.SIGTERM, 2, 1)]
)
def test_asked_to_end_it_saves_and_exits_with_0(
    bag: Path, tmp_path: Path, number: int, times: int, workers: int
) -> None:
    """As a terminal or a scheduler asks: the whole group of processes, and maybe twice."""
    endless = ('steps=100000', 'save_every_steps=100000', 'validation.every_steps=100000')
    process = start(bag, tmp_path, *settings(*endless, f'data.workers={workers}'))
    wait_for(lambda: (tmp_path / LOG_NAME).exists() and len(steps_of(tmp_path)) >= 3, process)
    for _ in range(times):
        os.killpg(process.pid, number)
        time.sleep(0.02)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and '--resume' in said, errors
    state = run_state.RunState.load(tmp_path)
    assert state.steps == steps_of(tmp_path)[-1] >= 3
    assert load_weights(tmp_path / WEIGHTS_NAME)


@pytest.mark.slow
def test_asked_to_end_while_bags_are_read_it_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (view,) = render_recording(frames=1, height=240, width=320)
    stamps = range(view.stamp_ns, view.stamp_ns + 30_000_000_000, 100_000_000)
    write_bag(tmp_path / 'long', (replace(view, stamp_ns=stamp) for stamp in stamps))
    process = start(tmp_path / 'long', tmp_path / 'out', *settings('steps=8'))
    cache = tmp_path / 'cache' / 'tc_depth'
    wait_for(lambda: any(cache.glob('.*.partial')), process)
    process.terminate()
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and 'before the first step' in said, errors
    assert not any(path.is_dir() for path in cache.iterdir())


# What it refuses


def test_a_folder_with_a_run_is_not_overwritten(
    bag: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (undisturbed / WEIGHTS_NAME).read_bytes()
    assert main(['train', str(bag), '--out', str(undisturbed), *settings('steps=8')]) == 2
    assert '--resume' in capsys.readouterr().err
    assert (undisturbed / WEIGHTS_NAME).read_bytes() == before


def test_a_run_is_not_resumed_with_other_settings(
    bag: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ['train', str(bag), '--out', str(undisturbed), '--resume']
    assert main([*where, *settings('steps=8', 'batch_size=4', 'seed=3')]) == 2
    said = capsys.readouterr().err
    assert 'batch_size' in said and 'seed' in said and 'steps' not in said.split('(')[1]


def test_a_resumed_run_is_asked_for_the_changes_alone(
    bag: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    shutil.copytree(undisturbed, out)
    where = ['train', str(bag), '--out', str(out), '--resume']
    assert main([*where, '--set', 'data.cache=ram', '--set', 'data.workers=1']) == 0
    free = ('data.cache=ram', 'data.workers=1')
    assert load_config(out / CONFIG_NAME) == configured('steps=8', *free)
    capsys.readouterr()
    assert main([*where, '--set', 'data.workers=0', '--set', 'steps=9', '--init', 'default']) == 2
    assert "(init was '', is 'default'; steps was 8, is 9)" in capsys.readouterr().err
    assert load_config(out / CONFIG_NAME) == configured('steps=8', *free)


def test_a_run_is_not_resumed_with_other_bags(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / 'room', render_recording(frames=20, height=120, width=160))
    where = ['train', str(tmp_path / 'room'), '--out', str(undisturbed), '--resume']
    assert main([*where, *settings('steps=8')]) == 2
    assert 'other data' in capsys.readouterr().err


@pytest.mark.parametrize('content', [b'', b'no state', b'PK\x03\x04'])
def test_a_damaged_state_is_refused_by_name(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / STATE_NAME).write_bytes(content)
    arguments = ['train', str(bag), '--out', str(tmp_path), '--resume', *settings('steps=8')]
    assert main(arguments) == 2
    assert STATE_NAME in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_known_before_the_bags_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').touch()
    out = tmp_path / 'file' / 'run'
    assert main(['train', 'no_bag', '--out', str(out), *settings('steps=8')]) == 1
    said = capsys.readouterr().err
    assert f'cannot write to {out}' in said and 'no_bag' not in said


@pytest.mark.parametrize('size', [4_000, 17_000_000])  # within the log; within the state
def test_a_full_disk_ends_a_run_with_one_error_and_loses_nothing(
    bag: Path,
    tmp_path: Path,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    original = Run.learn

    def learn(run: Run, batch: Batch) -> TakenStep:
        taken = original(run, batch)
        if taken.number == 4:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        return taken

    arguments = ['train', str(bag), '--out', str(tmp_path), *settings('steps=8')]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(Run, 'learn', learn)
        assert main(arguments) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert f'cannot write to {tmp_path}' in said and '--resume' in said
    assert 'Traceback' not in said and not list(tmp_path.glob('.*.tmp'))
    assert run_state.RunState.load(tmp_path).steps == 3
    assert main([*arguments, '--resume']) == 0
    assert same_weights(tmp_path, undisturbed)


def test_a_gradient_that_is_no_number_stops_the_run_and_spoils_nothing(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.step

    def step(learner: Learner, number: int, *rest: Any) -> Any:
        if number == 3:
            weight = learner.model.network.decoder.disparity[0].weight
            weight.register_hook(lambda gradient: gradient * torch.inf)
        return original(learner, number, *rest)

    monkeypatch.setattr(Learner, 'step', step)
    arguments = ['train', str(bag), '--out', str(tmp_path), *settings('steps=8')]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    weights = tmp_path / WEIGHTS_NAME
    assert 'the gradient is' in said and f'--init {weights} and another --out' in said
    # Which can be done
    monkeypatch.setattr(Learner, 'step', original)
    slower = settings('steps=1', 'learning_rate=1e-5')
    command = ['train', str(bag), '--out', str(tmp_path / 'new'), '--init', str(weights), *slower]
    assert main(command) == 0
    state = run_state.RunState.load(tmp_path)
    assert state.steps == 2
    assert all(x.isfinite().all() for x in state.learner['model'].values())


def test_float16_leaves_out_some_steps_and_not_all(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, 'MOST_LEFT_OUT', 1)
    original, at = Learner.step, [0]

    def overflowing(gradient: torch.Tensor) -> torch.Tensor:
        return gradient if at[-1] in (1, 3) else gradient * torch.inf

    def step(learner: Learner, number: int, *rest: Any) -> Any:
        if number == 1:
            learner.model.network.decoder.disparity[0].weight.register_hook(overflowing)
        at.append(number)
        return original(learner, number, *rest)

    monkeypatch.setattr(Learner, 'step', step)
    config = configured('steps=6', 'precision=float16', 'validation.every_steps=100')
    with pytest.raises(TrainingError, match='gradient is (nan|inf) at step 5: lower'):
        train([bag], config, tmp_path)
    state = run_state.RunState.load(tmp_path)
    assert state.steps == 4 and state.learner['scaler']['scale'] == 2.0 ** (16 - 2)
    assert all(x.isfinite().all() for x in state.learner['model'].values())


def test_an_error_of_reading_is_not_told_as_one_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path.parent / 'cache' / 'depth.f2').read_bytes()
    with pytest.raises(TrainingError, match='cannot write to .*free space'), writing(tmp_path):
        (tmp_path / 'no_folder' / 'last.pt').write_bytes(b'')
    with pytest.raises(TrainingError, match='cannot write to'), writing(tmp_path):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_two_runs_do_not_share_a_folder(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_folder(tmp_path):
        assert main(['train', str(bag), '--out', str(tmp_path), *settings('steps=8')]) == 2
    assert 'another run is at work' in capsys.readouterr().err


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    others = tmp_path / f'.{STATE_NAME}.123.tmp'
    others.touch()
    monkeypatch.setattr(run_folder.fcntl, 'flock', failing_with(number))
    with held_folder(tmp_path):
        said = capsys.readouterr().out
    assert f'the file system of {tmp_path} has no locks ([Errno {number}]' in said
    assert others.exists()  # it may be at work


def test_a_folder_whose_lock_fails_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder.fcntl, 'flock', failing_with(errno.EIO))
    with pytest.raises(TrainingError, match='cannot be locked .*: choose'), held_folder(tmp_path):
        pass


def failing_with(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_weights_without_a_state_are_not_overwritten(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / WEIGHTS_NAME).write_bytes(b'dear')
    assert main(['train', str(bag), '--out', str(tmp_path), *settings('steps=8')]) == 2
    assert WEIGHTS_NAME in capsys.readouterr().err
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == b'dear'


def test_what_a_killed_process_left_is_removed(bag: Path, tmp_path: Path) -> None:
    left = tmp_path / f'.{STATE_NAME}.123.tmp'
    left.touch()
    with held_folder(tmp_path):
        assert not left.exists()


def test_a_bag_is_known_whatever_its_name(bag: Path, tmp_path: Path) -> None:
    config = configured('steps=2')
    train([bag], config, tmp_path / 'out')
    copy = shutil.copytree(bag, tmp_path / 'moved')
    assert train([copy], config, tmp_path / 'out', resume=True).finished


def test_a_run_that_saved_nothing_begins_anew_by_its_settings_and_says_so(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(configured('steps=1', 'batch_size=3'), tmp_path / CONFIG_NAME)
    assert main(['train', str(bag), '--out', str(tmp_path), '--resume']) == 0
    assert f'it begins anew by {tmp_path / CONFIG_NAME}' in capsys.readouterr().out
    assert load_config(tmp_path / CONFIG_NAME).batch_size == 3
    assert main(['train', str(bag), '--out', str(tmp_path), '--resume']) == 0
    assert 'begins anew' not in capsys.readouterr().out


def test_asked_while_it_waits_it_raises_when_it_waits_no_more_and_only_then() -> None:
    with Interruption() as interruption:
        interruption.wait_for_steps()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            interruption.wait_no_more()
        signal.raise_signal(signal.SIGTERM)  # schedulers tell more than once


def test_odometry_to_learn_from_must_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = tmp_path / 'poor'
    write_bag(poor, render_recording(frames=24, height=120, width=160), odometry=False)
    arguments = ['train', str(poor), '--out', str(tmp_path / 'out')]
    assert main([*arguments, *settings('steps=2', 'pose=both')]) == 1
    assert 'no window has odometry' in capsys.readouterr().err


def test_a_batch_larger_than_the_bags_is_refused_with_what_to_lower(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['train', str(bag), '--out', str(tmp_path), *settings('batch_size=5000')]) == 1
    assert '16 windows, fewer than one batch of 5000: lower batch_size' in capsys.readouterr().err
    none = settings('data.time_steps_s=[2.0]', 'steps=1')
    assert main(['train', str(bag), '--out', str(tmp_path), *none]) == 1
    assert '0 windows, fewer than one batch of 2: run tc-depth inspect' in capsys.readouterr().err


@pytest.mark.parametrize('precision', ['bfloat16', 'float16'])
def test_networks_can_compute_in_half_precision(
    bag: Path, tmp_path: Path, undisturbed: Path, precision: str
) -> None:
    config = configured('steps=1', f'precision={precision}')
    train([bag], config, tmp_path)
    half, full = (
        read_log(folder / LOG_NAME).training['photometric'].values[0]
        for folder in (tmp_path, undisturbed)
    )
    assert half != full and half == pytest.approx(full, rel=0.05)
    assert train([bag], config, tmp_path, resume=True).steps == 1


def test_other_windows_to_judge_by_are_another_score(bag: Path) -> None:
    """Weights found best by windows that turn out spoiled must not keep others from being kept."""
    config = configured('steps=4')
    data = load_training_data([bag], config, quiet=True)
    run = Run(config, data, starting_model(config), Processes(0, 1, torch.device('cpu')))
    assert run.validate() is not None and run.best.score < 10
    first, second = (int(stamp) for stamp in data.held_out.stamps_ns(1)[:2])
    scored = run.best
    for stretches, kept in (
        ((), True),
        ((Distrusted(0, 0, first, first),), False),
        ((Distrusted(0, 0, second, second),), False),  # as many, but others
        ((Distrusted(0, 0, second, second),), True),
    ):
        run.best = scored
        run._distrust(stretches)
        assert (run.best == scored) == kept
    assert len(run.held_out) == len(data.held_out) - 1


def test_a_bag_without_odometry_is_refused_before_another_is_read(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = tmp_path / 'poor'
    write_bag(poor, render_recording(frames=4, height=120, width=160), odometry=False)
    arguments = [
        'train',
        str(bag),
        str(poor),
        '--out',
        str(tmp_path / 'out'),
        *settings('steps=8'),
    ]
    assert main(arguments) == 1
    assert 'poor has no odom topic' in capsys.readouterr().err


def test_bags_of_different_cameras_are_learned_from_together(bag: Path, tmp_path: Path) -> None:
    wide = tmp_path / 'wide'
    write_bag(wide, render_recording(frames=24, height=90, width=160), camera='/front')
    train([bag, wide], configured('steps=4'), tmp_path / 'out')
    info = read_weights_info(tmp_path / 'out' / WEIGHTS_NAME)
    assert info.training_data == 'room, wide'


WRONG_ODOMETRY: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    # x ahead, y left, z up, in place of a camera's
    'axes': lambda poses: (
        poses @ np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    ),
    'frozen': lambda poses: np.repeat(poses[:1], len(poses), axis=0),
    'reversed': lambda poses: poses[::-1],
    'mostly frozen': lambda poses: np.concatenate(
        [np.repeat(poses[14:15], 14, axis=0), poses[14:]]
    ),
}


def bag_with(odometry: str, path: Path) -> Path:
    views = render_recording(frames=24, height=120, width=160)
    poses = WRONG_ODOMETRY[odometry](np.stack([view.world_T_camera for view in views]))
    pairs = zip(views, poses, strict=True)
    write_bag(path, [replace(view, world_T_camera=pose) for view, pose in pairs])
    return path


@pytest.mark.parametrize('wrong', ['axes', 'frozen', 'reversed'])
def test_odometry_that_fits_nowhere_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    bag, out = bag_with(wrong, tmp_path / 'bag'), tmp_path / 'out'
    more = settings('steps=4', 'pose=both', 'data.height=96', 'data.width=128')
    assert main(['train', str(bag), '--out', str(out), '--init', 'default', *more]) == 1
    told = capsys.readouterr().err
    assert 'odometry fits the images nowhere (/odom of bag does not fit' in told
    for remedy in ('frame', 'x right, y down, z forward', 'clock', 'pose: learned'):
        assert remedy in told
    assert not (out / WEIGHTS_NAME).exists()


def test_what_is_right_of_mostly_wrong_odometry_is_learned_from(tmp_path: Path) -> None:
    bag, out = bag_with('mostly frozen', tmp_path / 'bag'), tmp_path / 'out'
    more = ['steps=1', 'pose=both', 'init=default', 'data.height=96', 'data.width=128']
    train([bag], configured(*more), out)
    ((_, _, start_ns, end_ns),) = run_state.RunState.load(out).distrusted
    stamps = [view.stamp_ns for view in render_recording(frames=24, height=8, width=8)]
    # To the first window, though it was not among the bad; windows are 6 frames long
    assert start_ns <= stamps[4] and stamps[10] <= end_ns <= stamps[16]
    info = read_weights_info(out / WEIGHTS_NAME)
    share = info.notes['odometry_share']
    assert info.metric and 0.2 < share < 0.7
    assert info.scale_source.endswith(f'training of {100 * share:.2g} % of the windows')
    for told in ('report.html', 'README.md'):
        assert info.scale_source in (out / told).read_text()


@pytest.mark.parametrize('found', ['at the start', 'after the best weights'])
def test_too_little_odometry_does_not_make_weights_metric(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    """The scale is then fitted at the end, as for learned poses: to the bag's measured depth."""

    def found_late(run: Run, out: Path, stopped: str) -> None:
        assert read_weights_info(out / WEIGHTS_NAME).scale_source.startswith('odometry')
        run._distrust(bad.distrusted)
        finish(run, out, stopped)

    config = configured('steps=1', 'pose=both', 'init=default', 'validation.share=0.1')
    stamps = load_training_data([bag], config, quiet=True).learned.stamps_ns(1)
    bad = Findings((Distrusted(0, 0, int(stamps[0]), int(stamps[-2])),), ('it is bad',))
    now = bad if found == 'at the start' else Findings((), ())
    monkeypatch.setattr('tc_depth_training.run.hold_against_images', lambda *_: now)
    if now is not bad:
        monkeypatch.setattr('tc_depth_training.train.finish', found_late)
    monkeypatch.setattr('tc_depth_training.scale_fit.MAX_SPREAD', np.inf)
    train([bag], config, tmp_path)
    info = read_weights_info(tmp_path / WEIGHTS_NAME)
    assert info.notes['odometry_share'] == pytest.approx(1 / len(stamps), abs=1e-4)
    assert info.metric and info.scale_source.startswith('depth of ') and info.scale != 1


def test_weights_say_how_much_odometry_told_their_unit() -> None:
    info = read_weights_info(DEFAULT_WEIGHTS)
    known = with_odometry(info, 'both', 1.0)
    assert known.metric and known.scale_source == 'odometry, which gave the motion in training'
    for share, told in ((0.423, 'of 42 % '), (0.9971, 'of 99.7 % '), (0.9999, 'of 99.9 % ')):
        assert told in with_odometry(info, 'both', share).scale_source
    unknown = with_odometry(known, 'both', 0.1)
    assert not unknown.metric and unknown.notes['odometry_share'] == 0.1
    assert 'unknown factor: odometry, which gave the motion in training of 10 %' in (
        scale_sentence(unknown)
    )
    assert with_odometry(known, 'odometry', 0.1).metric  # from nothing else was learned
    assert with_odometry(info, 'learned', 1.0) == info


def test_why_no_scale_could_be_fitted_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = tmp_path / 'bag', tmp_path / 'out'
    write_bag(bag, render_recording(frames=6, height=120, width=160), depth=False)
    train([bag], configured('steps=1', 'pose=learned'), out)
    assert not read_weights_info(out / WEIGHTS_NAME).metric
    why = 'the scale is not known: odometry of /odom: '
    assert f'warning: {why}' in capsys.readouterr().out
    assert why in (out / 'report.html').read_text()


def test_a_stretch_of_odometry_is_left_out(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = load_training_data([bag], configured('steps=4'), quiet=True).all_windows()
    stamps = np.unique(windows.stamps_ns(1))
    bad = Findings((Distrusted(0, 0, int(stamps[0]), int(stamps[3])),), ('it is bad',))
    monkeypatch.setattr('tc_depth_training.run.hold_against_images', lambda *_: bad)
    arguments = ['train', str(bag), '--init', 'default', *settings('steps=4', 'pose=both')]
    assert main([*arguments, '--out', str(tmp_path)]) == 0
    state = run_state.RunState.load(tmp_path)
    assert state.distrusted == ((0, 0, int(stamps[0]), int(stamps[3])),)
    assert 'it is bad' in (tmp_path / 'report.html').read_text()
