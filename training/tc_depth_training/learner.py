"""What a run teaches: networks, their optimiser and their running mean; one step of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.config import TrainingConfig
from tc_depth_training.data.windows import Batch
from tc_depth_training.ema import average_weights
from tc_depth_training.guards import check_finite
from tc_depth_training.losses.objective import Objective, ObjectiveMaps
from tc_depth_training.processes import Processes, mean_over_processes
from tc_depth_training.step import TrainingModel
from tc_depth_training.synced_batch_norm import synchronise_batch_norm

MOST_LEFT_OUT = 24  # steps in a row, of float16: the scale begins at 2^16 and is halved by each


@dataclass(frozen=True)
class Learned:
    """What there is to see of a step."""

    maps: ObjectiveMaps
    values: dict[str, float]  # of losses and figures by name, mean over the processes


class Learner:
    """Everything that a step changes."""

    def __init__(self, model: TrainingModel, config: TrainingConfig, processes: Processes) -> None:
        """
        Begin with a model, which moves to the process's device.

        :param model: with fresh or trained weights, the same in all processes
        """
        self._config = config
        device = processes.device
        model = model.to(device).train()
        self.averaged = model
        self._average = None
        if config.ema_decay is not None:
            self._average = average_weights(model, config.ema_decay)
            self.averaged = self._average.module  # type: ignore[assignment]  # of the same class
        self.model = synchronise_batch_norm(model, device)
        self._forward: torch.nn.Module = self.model
        if processes.count > 1:
            devices = [device] if device.type == 'cuda' else None
            # Buffers are BatchNorm's, which is synchronised already
            self._forward = DistributedDataParallel(
                self.model, device_ids=devices, broadcast_buffers=False
            )
        self._optimizer = torch.optim.Adam(parameter_groups(self.model, config.learning_rate))
        self._parts = independent_parts(self.model)
        # Only float16 has gradients that vanish
        scaled = self.model.network_dtype == torch.float16
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._left_out = 0  # steps in a row, by the scaler

    def step(
        self,
        number: int,
        rate: float,
        batch: Batch,
        shown: Tensor,
        target: int,
        single_frame: bool,
        teacher_depth: Tensor | None,
    ) -> Learned:
        """
        Learn from a batch.

        :param number: of the step, counted from 1
        :param rate: of learning, over the one configured
        :raises TrainingError: loss or gradient is no number, in whichever process; nothing is
            learned then
        """
        for group in self._optimizer.param_groups:
            group['lr'] = rate * group['full_rate']
        losses: Objective = self._forward(batch, shown, target, single_frame, teacher_depth)
        names, scalars = zip(*losses.values().items(), strict=True)
        means = mean_over_processes(torch.stack([x.detach() for x in scalars])).tolist()
        values = dict(zip(names, means, strict=True))
        check_finite('loss', values['total'], number)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(losses.total).backward()
        self._scaler.unscale_(self._optimizer)
        limit = math.inf if self._config.gradient_norm is None else self._config.gradient_norm
        norms = torch.stack([clip_grad_norm_(part, limit) for part in self._parts if part])
        values['gradient_norm'] = float(norms.norm())  # of all, before clipping
        self._check_gradient(values['gradient_norm'], number)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return Learned(losses.maps, values)

    def _check_gradient(self, norm: float, number: int) -> None:
        """Stop where it is no number; in float16, where smaller scales do not mend that."""
        self._left_out = 0 if math.isfinite(norm) else self._left_out + 1
        if self._left_out > (MOST_LEFT_OUT if self._scaler.is_enabled() else 0):
            check_finite('gradient', norm, number)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        return {
            'model': self.model.state_dict(),
            'average': None if self._average is None else self._average.state_dict(),
            'optimizer': self._optimizer.state_dict(),
            'scaler': self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.model.load_state_dict(state['model'])
        if self._average is not None:
            self._average.load_state_dict(state['average'])
        self._optimizer.load_state_dict(state['optimizer'])
        self._scaler.load_state_dict(state['scaler'])


def parameter_groups(model: TrainingModel, learning_rate: float) -> list[dict[str, Any]]:
    """All parameters at one rate, but the focal factor, a single number, ten times as fast."""
    focal = [] if model.focal_factor is None else list(model.focal_factor.parameters())
    ids = {id(parameter) for parameter in focal}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return [
        {'params': others, 'full_rate': learning_rate},
        {'params': focal, 'full_rate': 10 * learning_rate},
    ]


def independent_parts(model: TrainingModel) -> list[list[torch.nn.Parameter]]:
    """
    Split the parameters into those whose gradients are clipped together.

    The coarse depth head learns apart, and so do the matching and a pose network from odometry:
    large gradients of theirs must not slow the others.
    """
    network = model.network
    coarse: list[torch.nn.Parameter] = []
    matching: list[torch.nn.Parameter] = []
    if isinstance(network, TCDepth):
        coarse = list(network.coarse_depth.parameters())
        matching = [] if network.matcher is None else list(network.matcher.parameters())
    taught = model.pose == 'both' and model.pose_net is not None
    pose = list(model.pose_net.parameters()) if taught and model.pose_net else []
    ids = {id(parameter) for parameter in (*coarse, *matching, *pose)}
    return [coarse, matching, pose, [p for p in model.parameters() if id(p) not in ids]]
