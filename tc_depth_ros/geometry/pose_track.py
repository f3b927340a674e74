"""The pose between two poses of a track."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.geometry.quaternion import pose_matrix, slerp


def pose_at(
    stamp_ns: int,
    stamps_ns: Sequence[int] | NDArray[np.int64],
    positions: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    quaternions: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    max_gap_s: float,
) -> NDArray[np.float64] | None:
    """
    Interpolate a track: positions linearly, rotations along the arc.

    :param stamps_ns: when the poses are, increasing, (N,)
    :param positions: in m, (N, 3)
    :param quaternions: x y z w, (N, 4)
    :return: (4, 4); None outside the track, or where its poses are more than max_gap_s apart
    """
    after = bisect_left(stamps_ns, stamp_ns)
    if after < len(stamps_ns) and stamps_ns[after] == stamp_ns:
        return pose_matrix(positions[after], quaternions[after])
    if after == 0 or after == len(stamps_ns):
        return None
    before = after - 1
    gap_ns = int(stamps_ns[after] - stamps_ns[before])
    if gap_ns * 1e-9 > max_gap_s:
        return None
    fraction = float(stamp_ns - stamps_ns[before]) / gap_ns
    position = (1 - fraction) * positions[before] + fraction * positions[after]
    return pose_matrix(position, slerp(quaternions[before], quaternions[after], fraction))
