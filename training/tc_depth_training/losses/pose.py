"""What a pose network learns from the bag's odometry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tc_depth_training.processes import shared_count

# Motions below these are not told from standing still: differences count in full there
LEAST_TRANSLATION_M = 0.01
LEAST_ROTATION = 0.01  # rad


def pose_loss(learned: Sequence[Tensor], known: Sequence[Tensor], posed: Tensor) -> Tensor:
    """
    Relative error of translation and of rotation, over the windows whose motion is known.

    ``|t - t'| / (|t'| + 1 cm) + angle(R, R') / (angle(R') + 0.01 rad)``, averaged over the
    sources; t' and R' are the odometry's. A network that says "no motion" loses nearly 1 by each
    part, whether the robot is slow or fast; where it stands still the gradient stays finite.

    :param learned: per source, ``source_T_target`` of the network, (B, 4, 4)
    :param known: the same of the odometry, in m
    :param posed: 1 = known, (B,)
    :return: scalar
    """
    errors = [_relative_errors(a, b) for a, b in zip(learned, known, strict=True)]
    weight = posed.to(errors[0].dtype)
    error = torch.stack(errors).mean(dim=0)
    return (weight * error).sum() / shared_count(weight.sum()).clamp(min=1e-7)


def _relative_errors(learned: Tensor, known: Tensor) -> Tensor:
    """Of each window, (B,)."""
    length: Tensor = torch.linalg.vector_norm(known[:, :3, 3], dim=1)
    apart: Tensor = torch.linalg.vector_norm(learned[:, :3, 3] - known[:, :3, 3], dim=1)
    still = torch.eye(3, dtype=known.dtype, device=known.device)
    turn = _angle(known[:, :3, :3], still)
    turned = _angle(learned[:, :3, :3], known[:, :3, :3])
    return apart / (length + LEAST_TRANSLATION_M) + turned / (turn + LEAST_ROTATION)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """
    Angle between rotations in rad, as ``|A - B| / sqrt(2)`` (Frobenius), (B,).

    That is ``2 sin(angle / 2)``: the angle to 1 % up to 28 degrees. Its gradient is finite
    everywhere, which an arc cosine's is not.
    """
    distance: Tensor = torch.linalg.vector_norm(a - b, dim=(1, 2))
    return distance / math.sqrt(2)
