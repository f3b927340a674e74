"""One run: what a step is, what is done every so many steps, and what outlives them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.network.checkpoint import WeightsInfo, save_weights
from tc_depth_training.config import ConfigError, TrainingConfig
from tc_depth_training.data.augmentation import augment, draw
from tc_depth_training.data.loader import EpochSampler, open_loader
from tc_depth_training.data.windows import FRAMES, Batch
from tc_depth_training.focal_search import find_focal_factors
from tc_depth_training.guards import TrainingError
from tc_depth_training.learner import Learner
from tc_depth_training.losses.objective import ObjectiveMaps
from tc_depth_training.odometry_trust import (
    Distrusted,
    hold_against_images,
    trusted_windows,
)
from tc_depth_training.processes import Processes
from tc_depth_training.provenance import focal_factors, weights_info
from tc_depth_training.run_folder import WEIGHTS_NAME
from tc_depth_training.run_state import Best, RunState
from tc_depth_training.schedule import Schedule
from tc_depth_training.step import FocalFactor, TrainingModel
from tc_depth_training.teacher import Teacher
from tc_depth_training.training_data import TrainingData
from tc_depth_training.validation import Score, validate

ASKED = 'it was asked to end'
ODOMETRY_CHECKS = (0.2, 0.5)  # of the run, when the odometry is held against the images
STEPS_BEFORE_CHECK = 100  # in which the network learns enough depth for that
# Windows looked at, in shares of all that are learned from, again and again, in the whole run
SHARE_CHECKED, LEAST_CHECKED = 0.05, 200


@dataclass(frozen=True)
class TakenStep:
    """What there is to see of a step."""

    number: int  # counted from 1
    maps: ObjectiveMaps
    values: Mapping[str, float]  # of the losses and figures, mean over the processes
    rate: float  # of learning
    batch: Batch  # as the losses saw it
    target: int  # the frame that was rebuilt


class Run:
    """A run between two of its steps; the same, step by step, in each of its processes."""

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        model: TrainingModel,
        processes: Processes,
        teacher: Teacher | None = None,
        start: WeightsInfo | None = None,
    ) -> None:
        """
        Begin a run.

        :param model: as it starts, the same in all processes
        :param start: what the weights that it began with say of themselves
        """
        self.config, self.data, self.processes = config, data, processes
        if config.fit_focal_length:
            model.focal_factor = FocalFactor(len(data.recordings))
        self.learner = Learner(model, config, processes)
        self.schedule = Schedule(config, len(data.learned) // config.batch_size)
        self.steps_done = 0
        self.best = Best()
        self._judged_after: int | None = None  # steps
        self.start = start
        self._teacher = teacher
        self.held_out = data.held_out  # of that, what no distrusted odometry spoils
        self._judged_windows = np.ones(len(data.held_out), dtype=np.bool_)
        self._distrust(())
        self._started = time.monotonic()

    def go_on_from(self, state: RunState) -> None:
        """
        Go on where a run was cut off.

        :raises ConfigError: it had other data
        """
        if state.data != self.data.keys:
            names = ', '.join(recording.name for recording in self.data.recordings)
            raise ConfigError(
                f'the run was begun with other data (contents {", ".join(state.data)}; now '
                f'{", ".join(self.data.keys)} of {names}): give the same bags, or choose another '
                '--out'
            )
        self.learner.load_state_dict(state.learner)
        self._distrust(tuple(Distrusted(*stretch) for stretch in state.distrusted))
        self.steps_done, self.best = state.steps, state.best
        self._judged_after = state.judged_after
        self._started -= state.duration_s

    @property
    def is_begun(self) -> bool:
        """Whether anything was learned or judged."""
        return self.steps_done > 0 or self.best.step is not None

    @property
    def doubt_of_start(self) -> str:
        """
        Why the weights of the start are not to be compared with what comes of them; '' is nothing.

        Scores of images scaled one by one do not see the unit.
        """
        start, taught_metres = self.start, self.config.pose != 'learned'
        if start is None or not taught_metres or (start.metric and start.scale == 1):
            return ''
        unit = f'{start.scale:.3g} m' if start.metric else 'unknown'
        return (
            f'the unit of {self.config.init} is {unit}: odometry teaches it metres in the course '
            'of the run, so the start is not judged, and the scale of a short run is not to be '
            'trusted'
        )

    @property
    def owes_judgement(self) -> bool:
        """Whether the weights are to be judged before the next step: the start, or cut off."""
        if self.steps_done == 0:
            begins_trained = self.start is not None and not self.doubt_of_start
            return begins_trained and self._judged_after is None
        due = self.is_due(self.config.validation.every_steps)
        return due and self._judged_after != self.steps_done

    @property
    def with_odometry(self) -> NDArray[np.bool_]:
        """Which windows that are learned from have odometry that is trusted, (windows,)."""
        trusted: NDArray[np.bool_] = self._trusted.numpy()
        return self.data.learned.posed & trusted

    @property
    def duration_s(self) -> float:
        """Time spent, of all parts of the run."""
        return time.monotonic() - self._started

    def batches(self) -> Iterator[Batch]:
        """This process's part of each batch that is left, epoch after epoch."""
        data, processes = self.config.data, self.processes
        sampler = EpochSampler(
            len(self.data.learned),
            self.config.batch_size,
            self.config.seed,
            processes.rank,
            processes.count,
        )
        loader = open_loader(
            self.data.learned, sampler, data.workers, data.start_method, processes.device
        )
        while self.steps_done < self.schedule.steps:
            sampler.set_epoch(*divmod(self.steps_done, self.schedule.epoch_steps))
            for batch in loader:
                yield batch
                if self.steps_done == self.schedule.steps:
                    return

    def learn(self, batch: Batch) -> TakenStep:
        """Take one step; all chance in it comes from the seed and the step's number."""
        config, step = self.config, self.steps_done
        torch.manual_seed(config.seed + step)
        chance = np.random.default_rng((config.seed, step))
        target = FRAMES // 2 if config.target == 'centre' else int(chance.integers(FRAMES))
        single_frame = bool(chance.random() < config.single_frame_share)
        epoch, rate = self.schedule.epoch(step), self.schedule.rate(step)
        draws = draw(batch.window, FRAMES, config.seed, epoch)
        batch = replace(batch, posed=batch.posed & self._trusted[batch.window])
        batch, shown = augment(batch.to(self.processes.device), config.colour, draws)
        taught = self._ask_teacher(epoch, batch, target)
        learned = self.learner.step(step + 1, rate, batch, shown, target, single_frame, taught)
        self.steps_done += 1
        rate *= config.learning_rate
        return TakenStep(step + 1, learned.maps, learned.values, rate, batch, target)

    @property
    def epoch(self) -> int:
        """That the last step belongs to, counted from 0."""
        return self.schedule.epoch(self.steps_done - 1)

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step was the last of its epoch, or of the run."""
        return self.schedule.ends_epoch(self.steps_done - 1)

    def is_due(self, every_steps: int) -> bool:
        """Whether what is done every so many steps, and at the end, is done now."""
        return self.schedule.is_due(self.steps_done - 1, every_steps)

    def find_focal_lengths(self) -> tuple[str, ...]:
        """Begin with the focal lengths that fit the images; says which are not those given."""
        averaged, model = self.learner.averaged, self.learner.model
        factors = find_focal_factors(averaged, self.data.learned, self.processes)
        model.train()  # without a running mean it was asked itself
        if self.processes.asked_to_end():
            return ()
        for begun in (averaged, model):
            assert begun.focal_factor is not None
            begun.focal_factor.begin_at(factors)
        return tuple(
            f'the images of {recording.name} fit a focal length {factor:.2f} times that of its '
            'CameraInfo, and are learned from with that: calibrate the camera'
            for recording, factor in zip(self.data.recordings, factors, strict=True)
            if factor != 1
        )

    def odometry_check_is_due(self) -> bool:
        """Whether the odometry is to be held against the images before the next step."""
        steps = self.schedule.steps
        checks = [round(share * steps) for share in ODOMETRY_CHECKS]
        due = self.steps_done in [n for n in checks if n >= STEPS_BEFORE_CHECK]
        return due and self.config.pose != 'learned'

    def check_odometry(self) -> tuple[str, ...]:
        """
        Trust no longer where odometry does not fit the images; says where that is.

        :raises TrainingError: it fits nowhere
        """
        model = self.learner.averaged
        visits = self.schedule.steps * self.config.batch_size
        most = max(LEAST_CHECKED, round(SHARE_CHECKED * visits))
        windows = self.data.all_windows()  # what the weights are judged by must be right too
        findings = hold_against_images(model, windows, most, self.processes)
        self.learner.model.train()  # without a running mean it was asked itself
        if self.processes.asked_to_end():  # before all was looked at
            return ()
        self._distrust(findings.distrusted)
        if not self.with_odometry.any():
            raise TrainingError(
                f'odometry fits the images nowhere ({"; ".join(findings.told)}): check its frame '
                'and axes (of a camera: x right, y down, z forward) and its clock, or train with '
                'pose: learned'
            )
        return findings.told

    def _distrust(self, stretches: tuple[Distrusted, ...]) -> None:
        self._distrusted = stretches
        self._trusted = torch.from_numpy(trusted_windows(self.data.learned, stretches))
        judged = trusted_windows(self.data.held_out, stretches)
        if not np.array_equal(judged, self._judged_windows):
            # A score by other windows is not to be compared with this one
            self.best = replace(self.best, score=math.inf)
        self._judged_windows, self.held_out = judged, self.data.held_out.only(judged)

    def validate(self) -> Score | None:
        """Score the weights as they are now; None: nothing is held out, or there is no time."""
        score = validate(
            self.learner.averaged,
            self.held_out,
            self.config.validation.max_windows,
            self.config.loss.geometric_weight,
            self.processes,
        )
        self.learner.model.train()  # without a running mean it was judged itself
        if score is None and len(self.held_out):  # it was asked to end
            return None
        self._judged_after = self.steps_done
        if score is None:
            self.best = Best(self.steps_done)
        elif score.name != self.best.name or score.value < self.best.score:
            self.best = Best(self.steps_done, score.value, score.name)
        else:
            self.best = replace(self.best, worse_since=self.best.worse_since + 1)
        return score

    def reason_to_stop(self) -> str:
        """Why to end before the last step, in words; '' is to go on."""
        if self.processes.asked_to_end():
            return ASKED
        patience = self.config.validation.patience
        if patience is not None and self.best.worse_since >= patience:
            return f'no better weights in {patience} validations'
        return ''

    def save_weights(self, file: Path) -> None:
        """Write the weights as they are now: their running mean, if there is one."""
        model = self.learner.averaged
        share = float(self.with_odometry.mean())
        info = weights_info(self.config, model, self.data.recordings, self.steps_done, share)
        save_weights(file, model.network, info, model.pose_net)

    def save(self, out: Path) -> None:
        """Write all that is needed to go on; and weights, where there are none yet."""
        if self.best.step is None:
            self.save_weights(out / WEIGHTS_NAME)
        RunState(
            self.steps_done,
            self.learner.state_dict(),
            self.best,
            self._judged_after,
            tuple(astuple(stretch) for stretch in self._distrusted),
            self.start,
            self.data.keys,
            self.config.model_dump_json(),
            self.duration_s,
        ).save(out)

    def focal_factors(self) -> dict[str, dict[str, float]]:
        """What the log says of focal lengths, where they are sought."""
        return focal_factors(self.learner.averaged, self.data.recordings)

    def _ask_teacher(self, epoch: int, batch: Batch, target: int) -> Tensor | None:
        """Depth of the target as the teacher of this epoch sees it; None: it is not heard."""
        if self._teacher is None or epoch >= self.config.teacher_epochs:
            return None
        self._teacher.begin_epoch(epoch)
        return self._teacher.depth(batch.images, batch.K, target)
