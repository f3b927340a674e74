"""
See the node work: play a recording into it over DDS, and look at what comes out.

Node, player and recorder are processes of their own, as on a robot.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tc_depth_ros.network.checkpoint import read_weights_info
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.data.bag import Bag, CameraTopics
from tc_depth_training.data.topics import ODOMETRY, STATIC_TRANSFORMS, TRANSFORMS
from tc_depth_training.synthetic import iterate_recording

SUMMARY = 'summary.json'  # as the recorder names it
RATE_HZ = 10.0  # of the images, whatever rate they were recorded at
START_S, IDLE_S, STOP_S = 90.0, 4.0, 20.0
PROFILE = Path(__file__).parents[2] / 'config' / 'fastdds_shm.xml'  # of the source tree
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')


class DemoError(RuntimeError):
    """A process of the demo failed; its output says why."""


def run_demo(
    bag: Path | None,
    out: Path,
    rate_hz: float = RATE_HZ,
    weights: str = '',
    image_topic: str = '',
    camera_info_topic: str = '',
) -> None:
    """
    Play a bag (None: a synthetic one, rendered now) into the node; write pictures of the result.

    :param rate_hz: images a second
    :param image_topic: empty is the only one, and so for its CameraInfo
    :raises BagError: the bag has no camera
    :raises WeightsError: the weights cannot be used
    :raises DemoError: a process failed, or no depth came
    """
    if weights:
        read_weights_info(Path(weights))  # rather than wait for a node that cannot start
    out.mkdir(parents=True, exist_ok=True)
    (out / SUMMARY).unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    with tempfile.TemporaryDirectory() as scratch:
        if bag is None:
            bag = Path(scratch) / 'synthetic'
            print('rendering a synthetic recording …', flush=True)
            write_bag(bag, iterate_recording())
        with Bag(bag) as opened:
            camera = opened.find_camera(image_topic, camera_info_topic)
            motion = _Motion.find(opened)
            count = next(t.count for t in opened.topics() if t.name == camera.image)
            timed = count > 1 and opened.duration_s > 0
            recorded_hz = (count - 1) / opened.duration_s if timed else rate_hz
        print(f'playing {count} images of {bag.name} at {rate_hz:g} Hz', flush=True)
        _run_processes(bag, camera, motion, out, rate_hz / recorded_hz, weights)
    print(_report(out, count))


@dataclass(frozen=True)
class _Motion:
    """Topics by which weights that match find the camera's motion."""

    odometry: str  # '': none, or several
    transforms: tuple[str, ...]

    @classmethod
    def find(cls, bag: Bag) -> _Motion:
        """Find those of a bag."""
        topics = bag.topics()
        odometry = [topic.name for topic in topics if topic.type == ODOMETRY]
        named = {topic.name for topic in topics}
        return cls(
            odometry[0] if len(odometry) == 1 else '',
            tuple(name for name in (TRANSFORMS, STATIC_TRANSFORMS) if name in named),
        )


def _run_processes(
    bag: Path, camera: CameraTopics, motion: _Motion, out: Path, rate: float, weights: str
) -> None:
    compressed = camera.image.endswith('/compressed')
    image = camera.image.removesuffix('/compressed')
    transport = 'compressed' if compressed else 'raw'
    remaps = ['-r', f'image:={image}', '-r', f'image/compressed:={image}/compressed']
    node = ['node', '--ros-args', *remaps, '-r', f'camera_info:={camera.camera_info}']
    node += ['-p', f'image_transport:={transport}']
    node += ['-p', f'weights:={weights}'] if weights else []
    node += ['-r', f'odom:={motion.odometry}'] if motion.odometry else []
    outputs = ['-r', 'depth:=/tc_depth/depth/image', '-r', 'points:=/tc_depth/points']
    flags = ['--compressed'] if compressed else []
    recorder = ['recorder', '--out', str(out), '--idle', str(IDLE_S), *flags]
    recorder += ['--ros-args', *remaps, *outputs]
    topics = [camera.image, camera.camera_info, *motion.transforms]
    topics += [motion.odometry] if motion.odometry else []
    player = ['bag_player', str(bag), '--rate', str(rate), '--topics', *topics]
    # Node and recorder take the images, the node alone the CameraInfo
    player += ['--wait-for', f'{camera.image}=2', f'{camera.camera_info}=1']
    player += ['--timeout', str(START_S), '--delay', '1.0']
    with ExitStack() as stack:
        stack.enter_context(_process(node))
        recording = stack.enter_context(_process(recorder))
        if subprocess.run(_command(player), env=_environment(), check=False).returncode:
            raise DemoError('the bag player failed: see its message above')
        try:
            recording.wait(timeout=IDLE_S + STOP_S)
        except subprocess.TimeoutExpired:
            recording.send_signal(signal.SIGINT)
            recording.wait(timeout=STOP_S)


@contextmanager
def _process(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that ends with the block, gently where it listens."""
    process = subprocess.Popen(_command(arguments), env=_environment())
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(arguments: Sequence[str]) -> list[str]:
    module, *rest = arguments
    return [sys.executable, '-m', f'tc_depth_ros.ros.{module}', *rest]


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    # A domain of its own: a robot's topics and the demo's must not mix
    environment.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    environment.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    # A user who has named a profile for the one ROS means no other for the other
    if PROFILE.exists() and not any(map(environment.get, PROFILE_VARIABLES)):
        environment |= dict.fromkeys(PROFILE_VARIABLES, str(PROFILE))
    return environment


def _report(out: Path, played: int) -> str:
    path = out / SUMMARY
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    node = summary.get('node', {})
    dropped = {k.removeprefix('dropped: '): v for k, v in node.items() if k.startswith('dropped')}
    if not summary.get('depths'):
        reason = node.get('message', 'the node said nothing')
        raise DemoError(f'no depth came out of the node: {reason}; dropped: {dropped or "none"}')
    lines = [
        f'images    {played} played, {node.get("frames received", "?")} reached the node',
        f'depth     {summary["depths"]} images at {summary["rate_hz"]:.1f} Hz, '
        f'{summary["clouds"]} clouds',
        f'dropped   {dropped or "none"}',
        f'latency   {summary["latency_median_ms"]:.0f} ms median, '
        f'{summary["latency_max_ms"]:.0f} ms at most, from image to depth',
        f'pictures  {out / "contact_sheet.png"}, {out / "cloud.png"}, {out / "cloud.ply"}',
    ]
    return '\n'.join(lines)
