"""
A camera and a listener to the node, as a process: one that Fast DDS's profile reaches.

    python large_camera.py WIDTH HEIGHT RATE_HZ COUNT

Shows raw images at a rate; prints as JSON the stamps that were shown, and those of the node's
depth and cloud. What comes is only counted: to deserialise clouds of megabytes costs more than to
make them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import OUTPUTS, Camera, Client, serialised_stamp_ns

LISTENED = ('depth/image', 'points')
PATIENCE_S = 60.0
IDLE_S = 3.0  # without a message: then nothing more will come


def count_outputs(client: Client) -> dict[str, list[int]]:
    """Subscribe the node's outputs; their stamps, which grow as messages come."""
    heard: dict[str, list[int]] = {output: [] for output in LISTENED}
    qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)

    def note(output: str, message: bytes) -> None:
        heard[output].append(serialised_stamp_ns(message))

    for output in LISTENED:
        topic, callback = f'/tc_depth/{output}', partial(note, output)
        client.ros.create_subscription(OUTPUTS[output], topic, callback, qos, raw=True)
    return heard


def show_at(client: Client, rate_hz: float, count: int, camera: Camera) -> list[int]:
    """Show images at a rate and take what comes in between; the stamps shown."""
    image, info = camera.raw(camera.picture()), camera.info()
    started, shown = time.monotonic(), []
    for index in range(count):
        client.spin_for(started + index / rate_hz - time.monotonic())
        shown.append(client.show(image, info))
    return shown


def until_quiet(client: Client, total: Callable[[], int]) -> None:
    """Take what comes until nothing has come for a while."""
    before = -1
    while total() > before:
        before = total()
        client.spin_for(IDLE_S)


def main() -> None:
    width, height, count = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    camera = Camera(width, height)
    with closing(Client()) as client:
        heard = count_outputs(client)

        def total() -> int:
            return sum(map(len, heard.values()))

        # One image whose outputs have all come: then each has found the other
        client.show_until(
            lambda: all(heard.values()),
            'first outputs',
            camera.raw(camera.picture()),
            camera.info(),
        )
        until_quiet(client, total)
        shown = show_at(client, float(sys.argv[3]), count, camera)
        until_quiet(client, total)
        health = client.settled()
    print(json.dumps({'shown': shown, 'heard': heard, 'node': health.values}))


if __name__ == '__main__':
    main()
