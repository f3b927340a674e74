"""Which measured depth belongs to which frame, and what shape and size it has to have."""

from __future__ import annotations

import numpy as np
import pytest

from tc_depth_training.data.bag import BagError
from tc_depth_training.data.measured_depth import check_shape, match_stamps, resize_depth


def matched(frames_ms: list[int], measured_ms: list[int]) -> list[int]:
    stamps = (1_700_000_000_000 + np.array(x, dtype=np.int64) for x in (frames_ms, measured_ms))
    return match_stamps(*(1_000_000 * stamps_ms for stamps_ms in stamps)).tolist()


@pytest.mark.parametrize(
    ('frames_ms', 'measured_ms', 'belongs_to'),
    [
        pytest.param([0, 100, 200], [-20, 80, 180], [0, 1, 2], id='offset'),
        pytest.param([0, 100], [-30, 5, 40, 70, 105, 140], [-1, 0, -1, -1, 1, -1], id='faster'),
        pytest.param([0, 100, 200, 300], [20, 290], [0, 3], id='slower'),
        pytest.param([0, 100, 200], [205, 3, 98, 201], [-1, 0, 1, 2], id='in any order'),
        pytest.param([0, 30, 31, 60, 90], [30, 60], [1, 3], id='one to one frame of two'),
        pytest.param([0, 100, 200], [90, 110], [1, -1], id='the first of equally near ones'),
        pytest.param([0, 20, 40], [30], [1], id='the earlier of equally near frames'),
        pytest.param([0, 20, 40], [-10, 51], [0, -1], id='half a period'),
        pytest.param([0, 1000], [50, 949], [0, -1], id='50 ms'),
        pytest.param([0], [-51, 50], [-1, 0], id='one frame'),
        pytest.param([0, 20, 40], [], [], id='nothing'),
    ],
)
def test_each_frame_has_the_nearest_depth_and_each_depth_one_frame_at_most(
    frames_ms, measured_ms, belongs_to
) -> None:
    assert matched(frames_ms, measured_ms) == belongs_to


def test_depth_of_another_shape_is_refused_and_of_another_size_not() -> None:
    check_shape('/depth', (48, 64), (480, 640))
    check_shape('/depth', (480, 848), (270, 480))  # 0.6 % off: a sensor's nearest whole size
    with pytest.raises(BagError, match='/depth is 65x48, but the image is 640x480.*--depth none'):
        check_shape('/depth', (48, 65), (480, 640))


def test_no_depth_is_made_up_at_an_edge() -> None:
    depth = np.repeat([[1.0, 9.0]], 4, axis=0).repeat(6, axis=1).astype(np.float32)
    assert set(np.unique(resize_depth(depth, (3, 5)))) == {1, 9}
    assert resize_depth(depth, (4, 12)) is depth
