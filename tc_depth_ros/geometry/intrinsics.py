"""Intrinsics that follow their image: resized, padded, flipped, sampled on a coarser grid."""

from __future__ import annotations

from torch import Tensor


def resize_intrinsics(K: Tensor, scale_x: float | Tensor, scale_y: float | Tensor) -> Tensor:
    """
    Intrinsics of the image resized by (scale_x, scale_y).

    Pixel centres are integers, so the left edge of an image lies at -0.5 and
    ``c' = (c + 0.5) s - 0.5``.

    :param K: intrinsics in pixels of the original image, (..., 3, 3)
    :return: intrinsics in pixels of the resized image, (..., 3, 3)
    """
    resized = K.clone()
    resized[..., 0, :2] = K[..., 0, :2] * scale_x
    resized[..., 1, :2] = K[..., 1, :2] * scale_y
    resized[..., 0, 2] = (K[..., 0, 2] + 0.5) * scale_x - 0.5
    resized[..., 1, 2] = (K[..., 1, 2] + 0.5) * scale_y - 0.5
    return resized


def flip_intrinsics(K: Tensor, width: int) -> Tensor:
    """Intrinsics of the image mirrored left to right: column u becomes ``width - 1 - u``."""
    flipped = K.clone()
    flipped[..., 0, 2] = width - 1 - K[..., 0, 2]
    return flipped
