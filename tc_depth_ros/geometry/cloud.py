"""Depth and colour to an organised cloud, as numpy arrays ready for a message."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def organised_cloud(
    depth: NDArray[np.float32], image: NDArray[np.uint8], K: NDArray[np.float64], stride: int = 1
) -> NDArray[np.float32]:
    """
    Lift pixels: ``x = (u - cx) z / fx``, ``y = (v - cy) z / fy``.

    :param depth: z in m; NaN or Inf where there is no point, (H, W)
    :param image: RGB of the same size, (H, W, 3)
    :param K: intrinsics in pixels of this size, (3, 3)
    :param stride: every how many rows and columns there is a point
    :return: x, y, z in m and rgb, (H / stride, W / stride, 4), rounded up; NaN in x, y, z where
        there is no point. rgb holds the bits of ``r << 16 | g << 8 | b``, as PCL and RViz read it.
    """
    height, width = depth.shape
    # x over z depends on the column alone, y over z on the row
    x_slope = ((np.arange(0, width, stride) - K[0, 2]) / K[0, 0]).astype(np.float32)
    y_slope = ((np.arange(0, height, stride) - K[1, 2]) / K[1, 1]).astype(np.float32)
    some = depth[::stride, ::stride]
    z = np.where(np.isfinite(some), some, np.float32(np.nan))
    cloud = np.empty((*z.shape, 4), dtype=np.float32)
    np.multiply(z, x_slope, out=cloud[..., 0])
    np.multiply(z, y_slope[:, None], out=cloud[..., 1])
    cloud[..., 2] = z
    # A little-endian uint32 of r << 16 | g << 8 | b is the bytes b, g, r, 0
    rgb = cloud[..., 3:].view(np.uint8)
    rgb[..., 0:3] = image[::stride, ::stride, ::-1]
    rgb[..., 3] = 0
    return cloud
