"""All that a run needs to go on as if it had never stopped: ``last.pt``."""

from __future__ import annotations

import io
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tc_depth_ros.network.checkpoint import WeightsInfo
from tc_depth_training import __version__
from tc_depth_training.config import ConfigError
from tc_depth_training.files import write_atomically

STATE_NAME = 'last.pt'
FORMAT = 2


@dataclass(frozen=True)
class Best:
    """The best weights so far."""

    step: int | None = None  # after how many steps; None: there are none yet
    score: float = float('inf')
    name: str = ''  # of the score; '': nothing is held out, the last are the best
    worse_since: int = 0  # validations that were not better


@dataclass(frozen=True)
class RunState:
    """A run between two steps."""

    steps: int  # done
    learner: dict[str, Any]  # of Learner.state_dict
    best: Best
    judged_after: int | None  # steps, when the weights were judged last; None: never yet
    distrusted: tuple[tuple[int, int, int, int], ...]  # odometry, see odometry_trust.Distrusted
    start: WeightsInfo | None  # of the weights that it began with, which may be gone by now
    data: tuple[str, ...]  # what each recording's frames are known by
    config: str  # JSON
    duration_s: float

    def save(self, folder: Path) -> None:
        """Write to a run's folder; a crash on the way leaves the state before it."""
        buffer = io.BytesIO()
        start = self.start.to_json() if self.start else ''
        stored = {**vars(self), 'best': asdict(self.best), 'start': start}
        torch.save({'format': FORMAT, 'version': __version__, **stored}, buffer)
        write_atomically(folder / STATE_NAME, buffer.getbuffer())

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Read the state of a run's folder; raises ConfigError where it cannot be used."""
        path = folder / STATE_NAME
        try:
            # Only tensors and plain values: nothing of the file is run
            stored = torch.load(path, map_location='cpu', weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ConfigError(
                f'{path} cannot be read ({error}): begin anew with another --out'
            ) from error
        try:
            if stored.pop('format') != FORMAT:
                raise ValueError(f'format {FORMAT} is expected')
            stored.pop('version')
            start = WeightsInfo.from_json(stored['start']) if stored['start'] else None
            return cls(**{**stored, 'best': Best(**stored['best']), 'start': start})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(
                f'{path} is of another version ({error}): begin anew with another --out'
            ) from error
