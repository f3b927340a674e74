"""Carry pixels between two views: backproject, transform, project, sample; warp is all four."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Points nearer to the camera plane than this, or behind it, have no pixel.
MIN_PROJECTED_Z = 1e-4


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Homogeneous pixel coordinates (u, v, 1) of every pixel, (3, H, W), typed as ``like``."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing='ij',
    )
    return torch.stack([u, v, torch.ones_like(u)])


def pixel_rays(height: int, width: int, K: Tensor) -> Tensor:
    """
    Rays ``K^-1 [u, v, 1]`` with z = 1.

    :param K: intrinsics in pixels of an H x W image, upper triangular, (B, 3, 3)
    :return: rays in the optical frame, (B, 3, H, W)
    """
    u, v, ones = pixel_grid(height, width, K)
    # From the last row up: a general inverse has no ONNX, and makes the CPU wait for the GPU
    entry = K[..., None, None]
    y = (v - entry[:, 1, 2]) / entry[:, 1, 1]
    x = (u - entry[:, 0, 2] - entry[:, 0, 1] * y) / entry[:, 0, 0]
    return torch.stack([x, y, ones.expand_as(x)], dim=1)


def backproject(depth: Tensor, K: Tensor) -> Tensor:
    """
    Lift every pixel to the 3-D point it shows.

    :param depth: z in metres, (B, 1, H, W)
    :param K: intrinsics in pixels of this image size, (B, 3, 3)
    :return: points in the camera's optical frame in metres, (B, 3, H, W)
    """
    height, width = depth.shape[-2:]
    return depth * pixel_rays(height, width, K)


def transform_points(a_T_b: Tensor, points_b: Tensor) -> Tensor:
    """Take points (B, 3, H, W) from frame b to frame a; a_T_b is (B, 4, 4)."""
    points_a = a_T_b[:, :3, :3] @ points_b.flatten(2) + a_T_b[:, :3, 3:]
    return points_a.view_as(points_b)


def project(points: Tensor, K: Tensor) -> Tensor:
    """
    Pixels at which points appear.

    Points at or behind the camera plane are projected as if they were just before it: far
    outside any image, on their own side, with a finite gradient. Ask ``points[:, 2]``.

    :param points: in the camera's optical frame, (B, 3, H, W)
    :param K: intrinsics in pixels of the image looked up, (B, 3, 3)
    :return: (u, v) in pixels, (B, 2, H, W)
    """
    on_plane = points[:, :2] / points[:, 2:].clamp(min=MIN_PROJECTED_Z)  # z = 1
    pixels = K[:, :2, :2] @ on_plane.flatten(2) + K[:, :2, 2:]
    return pixels.view_as(on_plane)


def in_view(pixels: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    """
    Mask of lookups that fall inside an H x W image, in front of its camera; 1 = inside.

    :param pixels: (u, v) in pixels, (B, 2, H', W')
    :param z: depth of the looked-up points in that camera, (B, 1, H', W')
    :return: (B, 1, H', W') in {0, 1}
    """
    u, v = pixels[:, :1], pixels[:, 1:]
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1) & (z > MIN_PROJECTED_Z)
    return inside.to(pixels.dtype)


def sample(image: Tensor, pixels: Tensor, padding: str = 'border') -> Tensor:
    """
    Read an image at fractional pixels, bilinearly.

    :param image: (B, C, H, W)
    :param pixels: (u, v) in pixels of ``image``, (B, 2, H', W')
    :param padding: 'border' repeats the edge outside the image, 'zeros' reads 0 there
    :return: (B, C, H', W')
    """
    height, width = image.shape[-2:]
    # A side of one pixel has no extent to normalise by; every lookup then reads that pixel.
    extent = pixels.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = 2 * pixels.permute(0, 2, 3, 1) / extent - 1
    return F.grid_sample(image, grid, mode='bilinear', padding_mode=padding, align_corners=True)


def lookup(target_depth: Tensor, K: Tensor, source_T_target: Tensor) -> tuple[Tensor, Tensor]:
    """
    Where the target's pixels appear in the source view, and how deep they lie there.

    ``pi(K T_{0->s} D_0 K^-1 p)`` of the paper; both views share K.

    :param target_depth: z of the target's pixels, (B, 1, H, W)
    :return: (u, v) in the source (B, 2, H, W), and z in the source's frame (B, 1, H, W)
    """
    source_points = transform_points(source_T_target, backproject(target_depth, K))
    return project(source_points, K), source_points[:, 2:]


def warp(
    source: Tensor,
    target_depth: Tensor,
    K: Tensor,
    source_T_target: Tensor,
    padding: str = 'border',
) -> Tensor:
    """
    Rebuild the target view out of the source image.

    :param source: the source's image (or any map of it), (B, C, H, W)
    :param target_depth: z of the target's pixels, (B, 1, H, W)
    :param K: intrinsics of both views in pixels of this size, (B, 3, 3)
    :param source_T_target: takes points of the target to the source, (B, 4, 4)
    :return: the source as seen from the target, (B, C, H, W)
    """
    pixels, _ = lookup(target_depth, K, source_T_target)
    return sample(source, pixels, padding)
