"""How long a run is, and how its learning rate falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tc_depth_training.config import TrainingConfig

FINAL_RATE = 0.02  # of the learning rate, at the end of the cosine


@dataclass(frozen=True)
class Schedule:
    """The run in steps, counted from 0."""

    config: TrainingConfig
    epoch_steps: int  # in which every window is seen once

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        # The configuration holds one of the two
        return self.config.steps or (self.config.epochs or 0) * self.epoch_steps

    def epoch(self, step: int) -> int:
        """Epoch that a step belongs to, counted from 0."""
        return step // self.epoch_steps

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of its epoch, or of the run."""
        return (step + 1) % self.epoch_steps == 0 or self.is_last(step)

    def is_last(self, step: int) -> bool:
        """Whether a step is the last of the run."""
        return step + 1 == self.steps

    def is_due(self, step: int, every_steps: int) -> bool:
        """Whether what is done every so many steps, and at the end, is done after a step."""
        return (step + 1) % every_steps == 0 or self.is_last(step)

    def rate(self, step: int) -> float:
        """Learning rate of a step over the one configured: warm-up, then cosine or steps down."""
        warm_up = self.config.warm_up_steps
        if step < warm_up:
            return (step + 1) / warm_up
        if self.config.schedule == 'step':
            passed = sum(self.epoch(step) >= m for m in self.config.milestones)
            return float(self.config.gamma**passed)
        rest = (step - warm_up) / max(1, self.steps - warm_up)
        return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
