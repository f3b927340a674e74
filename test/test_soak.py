"""The soak, for one minute, on the tiny network; ``make soak`` is the long one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticStatus
from ros_harness import Health, ros_world, write_weights
from soak import soak, ticks
from soak_faults import FAULTS, Recording, load_recording
from soak_report import MemorySample, SoakConfig, SoakReport

from tc_depth_training.bag_writer import write_bag
from tc_depth_training.synthetic import render_recording

pytestmark = pytest.mark.ros

MINUTE = SoakConfig.lasting(60)


@pytest.fixture(scope='module', autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp('soak')
    write_weights(folder / 'tiny.safetensors')
    with ros_world(folder):
        yield folder


def record(folder: Path, compressed: bool) -> Recording:
    """Two seconds, which become many loops."""
    bag = folder / f'bag_{compressed}'
    write_bag(bag, render_recording(20, 120, 160), compressed=compressed)
    return load_recording(bag)


@pytest.mark.slow
def test_the_node_survives_a_minute_of_faults(world: Path) -> None:
    recording = record(world, compressed=True)
    report = soak(recording, MINUTE, world, str(world / 'tiny.safetensors'))
    if report.alive:
        print(report.table())
    assert report.problems() == []
    assert len(report.faults) >= len(FAULTS) / 2  # else the seed was a mild one
    assert sum(report.dropped.values()) > 0


@pytest.mark.parametrize('compressed', [True, False])
def test_every_fault_comes_and_a_seed_repeats_them(tmp_path: Path, compressed: bool) -> None:
    recording = record(tmp_path, compressed)
    config = replace(MINUTE, duration_s=1200.0)
    first, second, other = Counter[str](), Counter[str](), Counter[str]()
    played = [len(tick) for tick in ticks(recording, config, first)]
    assert played == [len(tick) for tick in ticks(recording, config, second)]
    assert set(first) == {fault.__name__ for fault in FAULTS}
    assert 0 in played and 2 in played  # dropped, duplicated
    assert len(played) == pytest.approx(config.duration_s * config.rate_hz, abs=20)
    assert played != [len(tick) for tick in ticks(recording, replace(config, seed=1), other)]


# ---- the judgement -------------------------------------------------------------------------


def health(**counts: int) -> Health:
    """What a node says; ``dropped_late`` is the count of that cause."""
    values = {
        k.replace('_', ': ' if k.startswith('dropped') else ' '): v for k, v in counts.items()
    }
    return Health(0, DiagnosticStatus.OK, '', {k: str(v) for k, v in values.items()})


GOOD = SoakReport(
    MINUTE,
    60.0,
    600,
    {'dropped': 3},
    (health(frames_received=600, frames_published=590, dropped_late=10, frames_waiting=0),),
    {'depth/image': 590},
    (20.0,),
    tuple(MemorySample(float(second), 300.0) for second in range(60)),
    True,
    '',
)


def growing(from_s: float, by: float) -> tuple[MemorySample, ...]:
    """Memory that grows at a time by a share."""
    return tuple(
        MemorySample(m.time_s, m.resident_mb * (1 + by * (m.time_s > from_s))) for m in GOOD.memory
    )


def test_a_good_report_has_no_problem() -> None:
    assert GOOD.problems() == []
    assert 'dropped: late' in GOOD.table() and '300.0 after 20 s' in GOOD.table()
    # Before the warm-up has ended memory may grow, and a single sample says nothing
    assert replace(GOOD, memory=growing(15, 0.5)).problems() == []
    assert replace(GOOD, memory=growing(58, 0.5)).problems() == []
    assert replace(GOOD, heard={'depth/image': 588}).problems() == []


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'alive': False}, 'died'),
        ({'output': 'Traceback (most recent call last)'}, 'a fault of its own'),
        ({'memory': growing(40, 0.021)}, 'memory grew by 2.1%'),
        ({'heard': {'depth/image': 500}}, '590 published, heard were'),
        ({'heard': {'depth/image': 591}}, '590 published, heard were'),
        ({'sent': 599}, '599 sent, 600 received'),
        ({'sent': 700}, '700 sent, 600 received'),
        ({'reports': (health(frames_received=600, frames_published=599),)}, 'accounted'),
        (  # one counted twice, and the node's own sum follows
            {'reports': (health(frames_received=600, frames_published=601, frames_waiting=-1),)},
            'accounted',
        ),
        (  # frames that are neither here nor there
            {'reports': (health(frames_received=600, frames_published=500, frames_waiting=100),)},
            'accounted',
        ),
        (
            {'reports': (health(frames_received=600, frames_published=599, frames_waiting=1),)},
            'wait at the end',
        ),
    ],
)
def test_a_bad_report_says_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    problems = replace(GOOD, **changes).problems()
    assert any(words in problem for problem in problems), problems
