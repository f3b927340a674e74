"""Batch normalisation over the windows of all processes; torch's own needs CUDA."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from tc_depth_training.processes import world_size

Module = TypeVar('Module', bound=nn.Module)


class _SumOverProcesses(torch.autograd.Function):
    """``y = sum_r x_r``; every process's y depends on x, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose statistics in training are of all processes' batches; on the CPU too."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same; all processes must call together while training."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        # Two passes: the mean of squares less the square of the mean would lose digits
        sums = torch.cat([exact.sum(dim=(0, 2, 3)), exact.new_tensor([x.numel() / x.shape[1]])])
        sums = _sum_over_processes(sums)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = exact - mean[:, None, None]
        variance = _sum_over_processes((centred * centred).sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale[:, None, None]
        if self.affine:
            normalised = normalised + self.bias[:, None, None]
        answer: Tensor = normalised.to(x.dtype)
        return answer

    def _remember(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics as nn.BatchNorm2d does."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(unbiased_variance, momentum)  # type: ignore[union-attr]


def synchronise_batch_norm(module: Module, device: torch.device) -> Module:
    """
    Let all batch normalisation of a module see all processes' windows; one process needs nothing.

    Names and values of its parameters and buffers stay as they are.

    :param device: that the module is on, and trains on
    """
    if world_size() == 1:
        return module
    if device.type == 'cuda':
        converted: Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = SyncedBatchNorm2d  # as torch's lazy modules become what they are
    return module
