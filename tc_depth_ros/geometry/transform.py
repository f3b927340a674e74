"""Rigid transforms as 4x4 matrices named ``a_T_b``: ``points_a = a_T_b @ points_b``."""

from __future__ import annotations

import torch
from torch import Tensor


def skew(vector: Tensor) -> Tensor:
    """Matrix of the cross product, ``skew(a) @ b == a x b``; (..., 3) -> (..., 3, 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, dim=-1).reshape(*vector.shape, 3)


def rotation_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """
    Rodrigues' formula, with finite gradients at the zero rotation.

    :param axis_angle: unit axis times angle in radians, (..., 3)
    :return: rotation matrix, (..., 3, 3)
    """
    squared_angle = (axis_angle * axis_angle).sum(-1, keepdim=True)[..., None]
    small = squared_angle < 1e-8
    angle = torch.where(small, torch.ones_like(squared_angle), squared_angle).sqrt()
    # Taylor series below 1e-4 rad, where sin(x)/x and (1-cos(x))/x^2 lose their digits
    a = torch.where(small, 1 - squared_angle / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared_angle / 24, (1 - angle.cos()) / (angle * angle))
    cross = skew(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + a * cross + b * (cross @ cross)


def transform_from_rotation(rotation: Tensor, translation: Tensor) -> Tensor:
    """Build a_T_b from a_R_b (..., 3, 3) and a_t_b (..., 3), the origin of b seen in a."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def transform_from_axis_angle(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """Build a_T_b (..., 4, 4) from an axis-angle rotation and a translation, each (..., 3)."""
    return transform_from_rotation(rotation_from_axis_angle(axis_angle), translation)


def invert_transform(a_T_b: Tensor) -> Tensor:
    """b_T_a of a rigid a_T_b, (..., 4, 4): the transposed rotation, never a general inverse."""
    b_R_a = a_T_b[..., :3, :3].transpose(-1, -2)
    b_t_a = -(b_R_a @ a_T_b[..., :3, 3:])[..., 0]
    return transform_from_rotation(b_R_a, b_t_a)
