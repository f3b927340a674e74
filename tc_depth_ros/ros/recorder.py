"""
Listen to the node from a process of its own, and write down what came: pictures and numbers.

Writes ``contact_sheet.png`` (image | depth), ``cloud.ply``, ``cloud.png`` and ``summary.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from tc_depth_ros.frames.frame import decode_depth, decode_image, stamp_ns
from tc_depth_ros.pictures import (
    colour_depth,
    contact_sheet,
    depth_range,
    view_cloud,
    write_picture,
    write_ply,
)

SHEET_ROWS = 6
WAITING = 50  # images that wait for their depth
QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)


@dataclass
class Summary:
    """What came out of the node."""

    images: int = 0  # that the recorder saw
    depths: int = 0
    clouds: int = 0
    unmatched: int = 0  # depths whose stamp no image had
    rate_hz: float = 0.0  # of depth images
    latency_median_ms: float = 0.0  # from an image to its depth, both as received here
    latency_max_ms: float = 0.0
    node: dict[str, str] = field(default_factory=dict)  # its last diagnostics


class Recorder(Node):
    """Subscribes what the node takes and what it gives; keeps few of the messages."""

    def __init__(self, compressed: bool) -> None:
        super().__init__('tc_depth_recorder')
        self.last_arrival_s: float | None = None
        self._compressed = compressed
        self._waiting: dict[int, Image | CompressedImage] = {}  # the latest, by stamp
        self._image_arrivals: dict[int, float] = {}
        self._depth_arrivals: dict[int, float] = {}
        self._pairs: list[tuple[Image | CompressedImage, Image]] = []
        self._stride = 1  # every so manyth pair is kept
        self._clouds = 0
        self._cloud: PointCloud2 | None = None
        self._diagnostics: dict[str, str] = {}
        self._outputs = [
            self.create_subscription(Image, 'depth', self._on_depth, QOS),
            self.create_subscription(PointCloud2, 'points', self._on_cloud, QOS),
        ]
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, QOS)

    @property
    def meets_the_node(self) -> bool:
        """Whether the node's outputs will be heard."""
        return all(output.get_publisher_count() for output in self._outputs)

    def watch_images(self) -> None:
        """Subscribe to the images too: the sign for the player that it may begin."""
        kind, topic = (
            (CompressedImage, 'image/compressed') if self._compressed else (Image, 'image')
        )
        self.create_subscription(kind, topic, self._on_image, QOS)

    def _on_image(self, message: Image | CompressedImage) -> None:
        stamp = stamp_ns(message.header)
        self._image_arrivals[stamp] = self.last_arrival_s = time.monotonic()
        self._waiting[stamp] = message
        if len(self._waiting) > WAITING:
            del self._waiting[next(iter(self._waiting))]

    def _on_depth(self, message: Image) -> None:
        stamp = stamp_ns(message.header)
        number = len(self._depth_arrivals)
        self._depth_arrivals[stamp] = self.last_arrival_s = time.monotonic()
        image = self._waiting.pop(stamp, None)
        if image is None or number % self._stride:
            return
        self._pairs.append((image, message))
        # However long the recording, a few pairs from all over it
        if len(self._pairs) == 4 * SHEET_ROWS:
            self._pairs, self._stride = self._pairs[::2], 2 * self._stride

    def _on_cloud(self, message: PointCloud2) -> None:
        self._clouds += 1
        self._cloud = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        status = message.status[0]
        self._diagnostics = {v.key: v.value for v in status.values} | {'message': status.message}

    def summary(self) -> Summary:
        """Count what came, and how fast."""
        latencies = [
            1e3 * (arrival - self._image_arrivals[stamp])
            for stamp, arrival in self._depth_arrivals.items()
            if stamp in self._image_arrivals
        ]
        times = sorted(self._depth_arrivals.values())
        elapsed = times[-1] - times[0] if len(times) > 1 else 0.0
        return Summary(
            len(self._image_arrivals),
            len(self._depth_arrivals),
            self._clouds,
            len(self._depth_arrivals) - len(latencies),
            (len(times) - 1) / elapsed if elapsed else 0.0,
            float(np.median(latencies)) if latencies else 0.0,
            max(latencies, default=0.0),
            self._diagnostics,
        )

    def write(self, out: Path) -> None:
        """Write the pictures, the cloud and the summary into a folder."""
        out.mkdir(parents=True, exist_ok=True)
        if self._pairs:
            count = len(self._pairs)
            picked = np.linspace(0, count - 1, min(SHEET_ROWS, count)).round().astype(int)
            rows = [_row(*self._pairs[index]) for index in picked]
            write_picture(out / 'contact_sheet.png', contact_sheet(rows, ('image', 'depth')))
        if self._cloud is not None:
            cloud = _cloud_array(self._cloud)
            write_ply(out / 'cloud.ply', cloud)
            write_picture(out / 'cloud.png', view_cloud(cloud))
        (out / 'summary.json').write_text(json.dumps(asdict(self.summary()), indent=2) + '\n')


def _row(image: Image | CompressedImage, depth: Image) -> list[NDArray[np.uint8]]:
    values = decode_depth(depth)
    return [decode_image(image), colour_depth(values, depth_range(values))]


def _cloud_array(message: PointCloud2) -> NDArray[np.float32]:
    values: NDArray[Any] = np.frombuffer(message.data, dtype=np.float32)
    return values.reshape(message.height, message.width, message.point_step // 4)


def main(argv: Sequence[str] | None = None) -> int:
    """Record until told to stop, or until nothing has come for a while."""
    argv = list(sys.argv if argv is None else argv)
    parser = argparse.ArgumentParser(prog='tc_depth_recorder', description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--compressed', action='store_true', help='the images are compressed')
    parser.add_argument('--idle', type=float, default=3.0, help='stop after so long without, s')
    arguments = parser.parse_args(rclpy.utilities.remove_ros_args(argv)[1:])
    rclpy.init(args=argv)
    recorder = Recorder(arguments.compressed)
    try:
        while rclpy.ok() and not recorder.meets_the_node:
            rclpy.spin_once(recorder, timeout_sec=0.2)
        recorder.watch_images()
        while rclpy.ok():
            rclpy.spin_once(recorder, timeout_sec=0.2)
            last = recorder.last_arrival_s
            if last is not None and time.monotonic() - last > arguments.idle:
                break
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    recorder.write(arguments.out)
    recorder.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
