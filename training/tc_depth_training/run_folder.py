"""The folder of a run: what is in it, and whether a run may begin or go on there."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from tc_depth_training.config import ConfigError, TrainingConfig, differences, flat_settings
from tc_depth_training.guards import TrainingError
from tc_depth_training.run_state import STATE_NAME, RunState

WEIGHTS_NAME = 'weights.safetensors'
CONFIG_NAME = 'config.yaml'
LOG_NAME = 'log.jsonl'
LOCK_NAME = '.lock'
# May differ between the parts of a run: they say where and how, not what is learned
FREE_SETTINGS = ('data.cache', 'data.cache_dir', 'data.workers', 'data.start_method', 'device')
FREE_SECTIONS = ('watch.',)
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # as of Lustre, and some NFS


@contextmanager
def held_folder(out: Path) -> Iterator[None]:
    """
    Make a run's folder and keep it from other runs, until the end or the death of the process.

    Where its file system has no locks, that is said, and nothing keeps it.

    :raises TrainingError: nothing can be written there
    :raises ConfigError: another run is at work there
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK_NAME).open('a')
    with lock:
        if _lock(lock, out):  # else it may be another's that is at work
            for left in out.glob('.*.tmp'):  # by a process that was killed while it wrote
                left.unlink()
        yield


def find_state(out: Path, config: TrainingConfig, resume: bool) -> RunState | None:
    """
    Look for a run in a folder.

    :return: the state to go on from; None: the run begins
    :raises ConfigError: there is a run that is not to be resumed, or one of other settings
    """
    if not resume:
        for name in (STATE_NAME, WEIGHTS_NAME):
            if (out / name).exists():
                raise ConfigError(
                    f'{out} has a {name} already: go on with that run by --resume, or choose '
                    'another --out'
                )
    if not (out / STATE_NAME).exists():
        return None
    state = RunState.load(out)
    try:
        begun_with = TrainingConfig.model_validate_json(state.config)
    except ValidationError as error:
        raise ConfigError(
            f'{out / STATE_NAME} is of another version ({error.error_count()} settings are not '
            'known): begin anew with another --out'
        ) from error
    before, now = flat_settings(begun_with), flat_settings(config)
    changed = [
        f'{key} was {before[key]!r}, is {now[key]!r}'
        for key in differences(begun_with, config)
        if key not in FREE_SETTINGS and not key.startswith(FREE_SECTIONS)
    ]
    if changed:
        raise ConfigError(
            f'the run in {out} was begun with other settings ({"; ".join(changed)}): resume '
            'without these (the rest of its settings need not be given again), or choose another '
            '--out'
        )
    return state


def _lock(file: IO[str], out: Path) -> bool:
    """Whether the file system has locks; raises where another process has this one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f'another run is at work in {out}: wait for it, or choose another --out'
        ) from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise TrainingError(
                f'{out / LOCK_NAME} cannot be locked ({error}): choose another --out'
            ) from error
        print(
            f'warning: the file system of {out} has no locks ({error}), so nothing keeps a second '
            'run out of it: start none there',
            flush=True,
        )
        return False
    return True


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Name the remedy where a run's folder cannot be written; other errors are not its own."""
    try:
        yield
    except OSError as error:
        elsewhere = error.filename is not None and out not in Path(error.filename).parents
        if elsewhere and Path(error.filename) != out:
            raise
        raise TrainingError(
            f'cannot write to {out} ({error}): free space there or make it writable, and go on '
            'with --resume, or choose another --out'
        ) from error
