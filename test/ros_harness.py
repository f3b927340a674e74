"""
ROS for tests: a world that nobody else is in, processes that end, a client that never waits long.

Every wait polls until what it waits for is there, or fails with what it had seen until then.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from tc_depth_ros.frames.frame import stamp_ns
from tc_depth_ros.network.checkpoint import WeightsInfo, save_weights
from tc_depth_ros.network.config import TCDepthConfig
from tc_depth_ros.network.tc_depth import TCDepth

ROOT = Path(__file__).parents[1]
FRAME_ID = 'front_optical_frame'
PERIOD_NS = 100_000_000  # of the cameras here
FIRST_STAMP_NS = 1_700_000_000_123_456_789  # no double holds it
SLICE_S = 0.02
PATIENCE_S = 25.0  # with a machine that has other things to do
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
LARGE_MESSAGES = dict.fromkeys(PROFILE_VARIABLES, str(ROOT / 'config' / 'fastdds_shm.xml'))
# Topic of the node -> type
OUTPUTS = {
    'depth/image': Image,
    'depth/camera_info': CameraInfo,
    'points': PointCloud2,
    'confidence': Image,
    'depth/color': Image,
}


# ---- a world of its own --------------------------------------------------------------------


@contextmanager
def ros_world(folder: Path) -> Iterator[None]:
    """Within the block this process and its children meet nobody else, and log into a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(_free_domain()))
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_LOG_DIR', str(folder / 'log'))
        patch.setenv('OMP_NUM_THREADS', '1')
        patch.setenv('PYTHONUNBUFFERED', '1')
        patch.setenv('PYTHONPATH', f'{ROOT / "training"}', prepend=os.pathsep)
        patch.setenv('PYTHONPATH', f'{ROOT}', prepend=os.pathsep)
        for name in ('ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS', *PROFILE_VARIABLES):
            patch.delenv(name, raising=False)
        yield


def _free_domain() -> int:
    """Find a domain whose first participant's port (7410 + 250 domain) nobody has."""
    start = os.getpid()
    for domain in ((start + step) % 100 + 1 for step in range(100)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError('all ROS domains from 1 to 100 are in use')


# ---- processes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Of a process, in MB of 10^6 bytes."""

    resident_mb: float  # VmRSS: pages of libraries count for every process that maps them
    proportional_mb: float  # Pss: a page that n processes share counts 1/n


def memory_of(pid: int) -> Memory:
    """Read the memory of a process from Linux."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:]
    kib = {line.split(':')[0]: int(line.split()[1]) for line in lines}
    return Memory(1.024e-3 * kib['Rss'], 1.024e-3 * kib['Pss'])


class Process:
    """A child in a process group of its own, and all it has said."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open('wb') as file:
            self._child = subprocess.Popen(
                [sys.executable, *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def memory(self) -> Memory:
        """What it holds now."""
        return memory_of(self._child.pid)

    @property
    def output(self) -> str:
        """Everything from stdout and stderr."""
        return self._log.read_text(errors='replace')

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Exit status, which must come in time."""
        return self._child.wait(timeout_s)

    def stop(self, sign: signal.Signals = signal.SIGINT, timeout_s: float = 30.0) -> int:
        """Ask it to end; the exit status, negative where it had to be killed."""
        if self.alive:
            self._child.send_signal(sign)
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            return self._child.wait()


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run Python with a command line; the process ends with the block."""
    process = Process(command, log, environment or {})
    try:
        yield process
    finally:
        process.stop()


def node_command(
    parameters: Mapping[str, Any], remaps: Mapping[str, str] | None = None, *extra: str
) -> list[str]:
    """Command line of the node, for :func:`running`."""
    command = ['-m', 'tc_depth_ros.ros.node', '--ros-args', *extra]
    for name, value in parameters.items():
        command += ['-p', f'{name}:={value}']
    for name, value in (remaps or {}).items():
        command += ['-r', f'{name}:={value}']
    return command


def queue_of(topic: str, depth: int) -> dict[str, int]:
    """
    Parameter that gives the node's subscription of an image topic a longer queue.

    A process that a busy machine lets stand for a second loses at 10 Hz what its queue of 5 does
    not hold, and no test is about that.
    """
    return {f'qos_overrides.{topic}.subscription.depth': depth}


# ---- what the node eats --------------------------------------------------------------------


def write_weights(path: Path, seed: int = 0) -> None:
    """Write a tiny network with random weights: milliseconds per frame."""
    torch.manual_seed(seed)
    config = TCDepthConfig(
        encoder='efficientnet_lite0',
        channels=32,
        coarse_channels=16,
        coarse_bins=16,
        key_channels=16,
        decoder_channels=(8, 8, 8, 8),
    )
    info = WeightsInfo(network=config, input_height=48, input_width=64, metric=False)
    save_weights(path, TCDepth(config), info)


@dataclass(frozen=True)
class Camera:
    """A camera that is not there: what it would see and say."""

    width: int = 160
    height: int = 120
    frame_id: str = FRAME_ID

    @property
    def K(self) -> NDArray[np.float64]:
        """Intrinsics whose numbers all differ, so that none can be mistaken for another."""
        fx, fy = 0.9 * self.width, 0.95 * self.width
        cx, cy = 0.47 * self.width, 0.56 * self.height
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def picture(self, index: int = 0) -> NDArray[np.uint8]:
        """RGB (H, W, 3): gradients that move with the index, without symmetry."""
        v, u = np.indices((self.height, self.width))
        red = 255 * u / self.width
        green = 127 * (1 + np.sin(v / 9 + u / 23 + index / 3))
        blue = 255 * ((u // 16 + v // 12 + index) % 2)
        return np.stack([red, green, blue], axis=-1).astype(np.uint8)

    def raw(self, rgb: NDArray[np.uint8], encoding: str = 'bgr8', padding: int = 0) -> Image:
        """RGB (H, W, 3) as a raw image, its rows lengthened by some bytes."""
        channels = rgb[..., ::-1] if encoding == 'bgr8' else rgb
        rows = np.ascontiguousarray(channels).reshape(len(rgb), -1)
        rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
        message = Image(height=len(rgb), width=rgb.shape[1], encoding=encoding)
        message.step = rows.shape[1]
        message.data = array('B', rows.tobytes())
        return message

    def info(self) -> CameraInfo:
        """A fresh CameraInfo message."""
        projection = np.hstack([self.K, np.zeros((3, 1))])
        return CameraInfo(
            height=self.height, width=self.width, k=self.K.ravel(), p=projection.ravel()
        )


def serialised_stamp_ns(message: bytes) -> int:
    """Stamp of a message that begins with a header and was not deserialised, in ns."""
    seconds, nanoseconds = struct.unpack_from('<iI', message, 4)  # after the encapsulation
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


@dataclass(frozen=True)
class Health:
    """One /diagnostics message of the node."""

    stamp_ns: int
    level: bytes
    message: str
    values: dict[str, str]

    @property
    def is_error(self) -> bool:
        """Whether the node says that it cannot work."""
        return self.level == DiagnosticStatus.ERROR

    @property
    def is_warning(self) -> bool:
        """Whether the node works, but not as it should."""
        return self.level == DiagnosticStatus.WARN

    @property
    def is_ok(self) -> bool:
        """Whether the node says that all is well."""
        return self.level == DiagnosticStatus.OK

    def count(self, name: str) -> int:
        """A count; 0 where there is none."""
        return int(self.values.get(name, '0'))

    @property
    def dropped(self) -> dict[str, int]:
        """Counts of dropped frames by cause."""
        start = 'dropped: '
        return {k.removeprefix(start): int(v) for k, v in self.values.items() if start in k}

    def since(self, earlier: Health) -> Health:
        """Counts minus those of an earlier message."""
        counts = [k for k in self.values if k.startswith(('frames', 'dropped'))]
        changed = {k: str(self.count(k) - earlier.count(k)) for k in counts}
        return replace(self, values=self.values | changed)


# ---- the client ----------------------------------------------------------------------------


class Client:
    """A camera's driver and a listener to the node in one, in this process and thread."""

    def __init__(self, node: str = 'tc_depth', prefix: str = '', compressed: bool = False) -> None:
        self._name = node
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.ros = rclpy.create_node('client', context=self._context)
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.ros)
        kind, topic = (CompressedImage, 'image/compressed') if compressed else (Image, 'image')
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._image_output = self.ros.create_publisher(kind, prefix + topic, qos)
        self._info_output = self.ros.create_publisher(CameraInfo, f'{prefix}camera_info', qos)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self._listening: dict[str, Any] = {}
        self.health: list[Health] = []
        self.ros.create_subscription(DiagnosticArray, '/diagnostics', self._on_health, 20)
        self.stamp_ns = FIRST_STAMP_NS

    def close(self) -> None:
        """Leave ROS."""
        self.executor.shutdown()
        self.ros.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _on_health(self, message: DiagnosticArray) -> None:
        status = message.status[0]
        if status.name == self._name:
            values = {v.key: v.value for v in status.values}
            stamp = stamp_ns(message.header)
            self.health.append(Health(stamp, status.level, status.message, values))

    # ---- waiting ----

    def spin_for(self, duration_s: float) -> None:
        """Take what comes for a while."""
        deadline = time.monotonic() + duration_s
        # Always the same timeout: with another, rclpy begins again at coroutines that still wait
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=SLICE_S)

    def until(self, done: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Take what comes until something is so; its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := done()):
            if time.monotonic() > deadline:
                last = self.health[-1] if self.health else 'nothing from it'
                raise AssertionError(f'not within {timeout_s:g} s: {what}; the node says {last}')
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def until_healthy(self, fits: Callable[[Health], Any], what: str) -> Health:
        """Wait for a diagnostics message from now on that fits."""
        found: Health = self.until(self._new_health(fits), what)
        return found

    def _new_health(self, fits: Callable[[Health], Any]) -> Callable[[], Health | None]:
        now_ns = time.time_ns()  # what was said before may only be heard now

        def find() -> Health | None:
            return next((h for h in self.health if h.stamp_ns > now_ns and fits(h)), None)

        return find

    def settled(self) -> Health:
        """Diagnostics once no frame is under way."""
        return self.until_healthy(lambda h: h.count('frames waiting') == 0, 'no frame waits')

    # ---- services ----

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service; its response."""
        client = self.ros.create_client(service_type, name)
        try:
            self.until(client.service_is_ready, f'{name} is there')
            future = client.call_async(request)
            self.until(future.done, f'{name} answers')
            return future.result()
        finally:
            self.ros.destroy_client(client)

    def state(self) -> str:
        """Lifecycle state of the node."""
        response = self.call(GetState, f'/{self._name}/get_state', GetState.Request())
        return str(response.current_state.label)

    def change_state(self, transition: int) -> bool:
        """Ask for a lifecycle transition; whether it was made."""
        request = ChangeState.Request()
        request.transition.id = transition
        name = f'/{self._name}/change_state'
        return bool(self.call(ChangeState, name, request).success)

    # ---- topics ----

    def listen(self, *outputs: str) -> None:
        """Subscribe these outputs of the node and no others."""
        for output in set(self._listening) - set(outputs):
            self.ros.destroy_subscription(self._listening.pop(output))
        for output in set(outputs) - set(self._listening):
            self._listening[output] = self.ros.create_subscription(
                OUTPUTS[output], f'/{self._name}/{output}', self.heard[output].append, 50
            )

    def met(self) -> bool:
        """Whether every output listened to has its publisher."""
        return all(heard.get_publisher_count() for heard in self._listening.values())

    def forget(self) -> None:
        """Forget the outputs heard so far."""
        for messages in self.heard.values():
            messages.clear()

    def of(self, stamp: int) -> dict[str, Any] | None:
        """All outputs listened to that bear a stamp, once there is one of each."""
        found = {
            output: next((m for m in self.heard[output] if stamp_ns(m.header) == stamp), None)
            for output in self._listening
        }
        return found if all(found.values()) else None

    def show(self, image: Any, info: CameraInfo | None, stamp: int | None = None) -> int:
        """Publish an image and its CameraInfo, by default a period later; their stamp."""
        if stamp is None:
            self.stamp_ns += PERIOD_NS
            stamp = self.stamp_ns
        for message, output in ((info, self._info_output), (image, self._image_output)):
            if message is not None:
                seconds, nanoseconds = divmod(stamp, 1_000_000_000)
                message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
                message.header.frame_id = message.header.frame_id or FRAME_ID
                output.publish(message)
        return stamp

    def send(self, image: Any, info: CameraInfo | None) -> None:
        """Publish what is given as it is, its own stamps on it."""
        for message, output in ((info, self._info_output), (image, self._image_output)):
            if message is not None:
                output.publish(message)

    def show_until(
        self, done: Callable[[], Any], what: str, image: Any, info: CameraInfo | None
    ) -> Any:
        """Show the same at 10 Hz until something is so; its value."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := done()):
            self.show(image, info)
            self.spin_for(0.1)
            if time.monotonic() > deadline:
                return self.until(done, what, timeout_s=0.0)
        return value

    def show_until_healthy(
        self, fits: Callable[[Health], Any], what: str, image: Any, info: CameraInfo | None
    ) -> Health:
        """Show the same at 10 Hz until a diagnostics message from now on fits."""
        found: Health = self.show_until(self._new_health(fits), what, image, info)
        return found

    def ask(self, image: Any, info: CameraInfo | None, stamp: int | None = None) -> dict[str, Any]:
        """Show one image and wait for all its outputs; leaves nothing heard behind."""
        stamp = self.show(image, info, stamp)
        answer: dict[str, Any] = self.until(lambda: self.of(stamp), f'outputs of {stamp} ns')
        self.forget()
        return answer

    def meet(self, image: Any, info: CameraInfo) -> None:
        """Show images until one has all its outputs: then each has found the other."""
        for _ in range(int(PATIENCE_S)):
            stamp = self.show(image, info)
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                self.executor.spin_once(timeout_sec=0.05)
                if self.of(stamp):
                    self.forget()
                    return
        heard = {output: len(self.heard[output]) for output in self._listening}
        self.until(lambda: False, f'outputs of an image, heard were {heard}', timeout_s=0.0)
