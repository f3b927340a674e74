"""The log of a run: one JSON object per line, whole lines only, through kills and full disks."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.files import write_atomically

DIGITS = 6  # significant, of every number


@dataclass(frozen=True)
class Curve:
    """One logged number over the steps that gave it."""

    steps: NDArray[np.int64]  # (N,), ascending
    values: NDArray[np.float64]  # (N,), NaN where it was no number


@dataclass(frozen=True)
class LoggedWarning:
    """Something that a person should look at."""

    step: int
    text: str


@dataclass(frozen=True)
class RunHistory:
    """A log, read back; a number within a group is named ``group.name``."""

    training: Mapping[str, Curve]  # of every step
    validation: Mapping[str, Curve]  # of the steps that were judged
    warnings: tuple[LoggedWarning, ...]


class RunLog:
    """
    Appends to the log of a run.

    Lines are of four kinds: numbers of a step, ``{"step": 7, "total": 0.1}``; numbers on held-out
    windows, ``{"step": 7, "validation": {"score": 0.1}}``; ``{"step": 7, "warning": "..."}``; and
    at the start what each recording gives, ``{"step": 0, "recordings": ["..."]}``.
    """

    def __init__(self, path: Path, from_step: int | None) -> None:
        """
        Open a log to go on from a step: what is said of later ones, and half a line, is dropped.

        :param from_step: the last step done, 0 where only the start was judged; None: a new run,
            of which nothing is said yet
        :raises OSError: it cannot be written
        """
        known = [] if from_step is None else _entries(path)
        kept = [entry.line for entry in known if entry.step <= (from_step or 0)]
        write_atomically(path, b''.join(kept))
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """
        Append a line and hand it to the system: it outlives the process.

        :param step: the step done, from 1 on; 0: before the first
        :param values: numbers, texts, lists of texts, or groups of these by name; numbers are
            rounded
        :raises OSError: the disk is full; the log then ends with the last whole line
        """
        line = json.dumps({'step': step, **_rounded(values)}, ensure_ascii=False) + '\n'
        self._append(line.encode())

    def validation(self, step: int, scores: Mapping[str, Any]) -> None:
        """Append what the weights of a step are worth on held-out windows."""
        self.write(step, {'validation': scores})

    def warn(self, step: int, text: str) -> None:
        """Append a warning."""
        self.write(step, {'warning': text})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> RunLog:
        """Use as a context: closed at its end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _append(self, line: bytes) -> None:
        end, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(line):  # a disk that fills up takes a part, then fails
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, end)
            raise OSError(
                error.errno, f'cannot append to it: {error.strerror}', str(self._path)
            ) from error


def read_log(path: Path) -> RunHistory:
    """Read a log, of a finished run or of one under way; a missing one is empty."""
    training: dict[str, list[tuple[int, float]]] = defaultdict(list)
    validation: dict[str, list[tuple[int, float]]] = defaultdict(list)
    warnings = []
    for entry in _entries(path):
        if 'warning' in entry.values:
            warnings.append(LoggedWarning(entry.step, str(entry.values['warning'])))
            continue
        judged = entry.values.get('validation')
        points = validation if isinstance(judged, dict) else training
        for name, value in _numbers(judged if isinstance(judged, dict) else entry.values):
            points[name].append((entry.step, value))
    return RunHistory(_curves(training), _curves(validation), tuple(warnings))


@dataclass(frozen=True)
class _Entry:
    step: int
    values: Mapping[str, Any]
    line: bytes  # with its end


def _entries(path: Path) -> Iterator[_Entry]:
    """Whole lines; a kill leaves half of one at the end, a power cut a stretch of zeros."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(line)
            step = values.pop('step')
        except (ValueError, AttributeError, KeyError):
            continue
        if line.endswith(b'\n') and isinstance(step, int):
            yield _Entry(step, values, line)


def _rounded(value: Any) -> Any:
    """Plain JSON: six digits are plenty, and what is no number is null."""
    if isinstance(value, Mapping):
        return {str(name): _rounded(one) for name, one in value.items()}
    if isinstance(value, float | np.floating):
        return float(f'{value:.{DIGITS}g}') if math.isfinite(value) else None
    return value


def _numbers(values: Mapping[str, Any], group: str = '') -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f'{group}{name}.')
        elif value is None or isinstance(value, int | float):
            yield group + name, math.nan if value is None else float(value)


def _curves(points: Mapping[str, list[tuple[int, float]]]) -> dict[str, Curve]:
    return {
        name: Curve(
            np.array([step for step, _ in pairs], dtype=np.int64),
            np.array([value for _, value in pairs], dtype=np.float64),
        )
        for name, pairs in points.items()
    }
