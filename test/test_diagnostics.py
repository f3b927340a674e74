"""What the node says of its health, sentence by sentence, without a clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from builtin_interfaces.msg import Time

from tc_depth_ros.ros.diagnostics import ERROR, LATEST, OK, WARN, Condition, assess, diagnostics
from tc_depth_ros.ros.tally import SUPERSEDED, UNWANTED, TallySnapshot

WELL = TallySnapshot(
    received=20,
    published=18,
    dropped={'late': 1},
    rate_hz=10.0,
    latency_median_s=0.05,
    latency_max_s=0.08,
    has_images=True,
    silence_s=0.1,
    image_period_s=0.1,
    outcomes=('',) * 12,
)


def condition(fault: str = '', at_work_s: float = 0.0, **tally: Any) -> Condition:
    """A node that is well but for what is named; images within 5 s."""
    return Condition(fault, 'too dark', replace(WELL, **tally), '/image', 5.0, at_work_s, ())


def test_all_is_well() -> None:
    assert assess(condition()) == (OK, 'publishing depth')
    assert assess(condition(published=0)) == (OK, 'ready')


@pytest.mark.parametrize(
    ('period_s', 'silence_s', 'level'),
    [
        (0.1, 1.9, OK),  # five periods, but not yet 0.4 of the timeout
        (0.1, 2.1, WARN),
        (0.1, 4.9, WARN),
        (0.1, 5.1, ERROR),
        (0.8, 3.9, OK),  # a slow camera: less than five periods
        (0.8, 4.1, WARN),
        (2.0, 4.9, OK),  # slower still: the timeout comes first
        (2.0, 5.1, ERROR),
    ],
)
def test_silence(period_s: float, silence_s: float, level: bytes) -> None:
    found, sentence = assess(condition(image_period_s=period_s, silence_s=silence_s))
    assert found == level
    assert (f'no image on /image for {silence_s:.1f} s' in sentence) == (level != OK)
    assert (f'where one came every {period_s:.2f} s' in sentence) == (level == WARN)


def test_before_the_first_image() -> None:
    assert assess(condition(has_images=False)) == (WARN, 'no image yet on /image')
    assert assess(condition(has_images=False, silence_s=6.0))[0] == ERROR


def test_images_that_come_to_nothing() -> None:
    dropped = ('late',) * LATEST
    assert assess(condition(outcomes=dropped)) == (ERROR, 'every image is dropped: too dark')
    assert assess(condition(outcomes=('', *dropped[1:])))[0] == OK
    assert assess(condition(outcomes=(UNWANTED,) * LATEST)) == (OK, 'idle: nobody subscribes')


def test_overload_is_more_than_half_superseded() -> None:
    half = ('', SUPERSEDED) * 6
    assert assess(condition(outcomes=half))[0] == OK
    level, sentence = assess(condition(outcomes=(*half, SUPERSEDED)))
    assert level == WARN and 'overloaded: 54 % of the images' in sentence


def test_the_worst_comes_first() -> None:
    silent: dict[str, Any] = {'silence_s': 6.0, 'at_work_s': 6.0}
    assert assess(condition('no weights', **silent)) == (ERROR, 'no weights')
    assert 'one frame has been at work for 6 s' in assess(condition(**silent))[1]
    doubted = replace(condition(silence_s=3.0), warnings=('scale is old', 'no CameraInfo'))
    assert 'no image on' in assess(doubted)[1]
    doubted = replace(condition(), warnings=('scale is old', 'no CameraInfo'))
    assert assess(doubted) == (WARN, 'scale is old; no CameraInfo')


def test_the_message_carries_all_numbers() -> None:
    stamp = Time(sec=3, nanosec=4)
    message = diagnostics('tc_depth', stamp, condition(), {'mode': 'multi-frame'})
    (status,) = message.status
    assert message.header.stamp == stamp
    assert (status.name, status.level, status.message) == ('tc_depth', OK, 'publishing depth')
    assert {v.key: v.value for v in status.values} == {
        'mode': 'multi-frame',
        'frames received': '20',
        'frames published': '18',
        'frames waiting': '1',
        'rate (Hz)': '10.00',
        'latency median (ms)': '50.0',
        'latency max (ms)': '80.0',
        'dropped: late': '1',
    }
