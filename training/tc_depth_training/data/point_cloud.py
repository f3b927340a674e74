"""PointCloud2 to points, and points to the depth image that a camera would see of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = {7: 'f4', 8: 'f8'}  # PointField's FLOAT32, FLOAT64


def decode_points(message: Any) -> NDArray[np.float64]:
    """
    Take x, y, z out of a sensor_msgs/PointCloud2-shaped object.

    :return: finite points in m, in the frame of the message, (N, 3)
    :raises ValueError: x, y, z are not there as floats, or the data is truncated
    """
    if message.width * message.height == 0:
        return np.empty((0, 3))
    fields = {field.name: field for field in message.fields}
    if not {'x', 'y', 'z'} <= fields.keys() or any(
        fields[n].datatype not in FLOATS for n in 'xyz'
    ):
        raise ValueError(
            f'point cloud has the fields {", ".join(fields) or "none"}; needed are x, y, z as '
            'FLOAT32 or FLOAT64'
        )
    order = '>' if message.is_bigendian else '<'
    point = np.dtype(
        {
            'names': ['x', 'y', 'z'],
            'formats': [order + FLOATS[fields[name].datatype] for name in 'xyz'],
            'offsets': [fields[name].offset for name in 'xyz'],
            'itemsize': message.point_step,
        }
    )
    data = np.frombuffer(message.data, dtype=np.uint8)
    used = message.width * message.point_step
    if message.row_step < used or data.size < message.height * message.row_step:
        raise ValueError(
            f'point cloud is truncated: {data.size} bytes with row_step {message.row_step} cannot '
            f'hold {message.width}x{message.height} points of {message.point_step} bytes'
        )
    rows = data[: message.height * message.row_step].reshape(message.height, message.row_step)
    points = np.ascontiguousarray(rows[:, :used]).view(point).ravel()
    xyz = np.stack([points[name].astype(np.float64) for name in 'xyz'], axis=1)
    return xyz[np.isfinite(xyz).all(axis=1)]


def depth_of_points(
    points: NDArray[np.float64],
    camera_T_points: NDArray[np.float64],
    K: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """
    Draw points into a camera's image, the nearest on top.

    :param points: in m, (N, 3)
    :param camera_T_points: to the camera's optical frame, (4, 4)
    :param K: intrinsics in pixels, (3, 3)
    :param size: (height, width)
    :return: z in m, NaN where no point falls, (H, W)
    """
    height, width = size
    seen = points @ camera_T_points[:3, :3].T + camera_T_points[:3, 3]
    seen = seen[seen[:, 2] > 0.01]
    pixels = seen @ K.T
    u, v = np.round(pixels[:, :2] / pixels[:, 2:]).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    order = np.argsort(-seen[inside, 2], kind='stable')
    depth = np.full(size, np.nan, dtype=np.float32)
    depth[v[inside][order].astype(int), u[inside][order].astype(int)] = seen[inside, 2][order]
    return depth
