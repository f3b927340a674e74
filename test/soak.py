"""
Let the node run for long on a bag that loops and a camera that fails; ``make soak``.

The node is a process of its own. A seed chooses what goes wrong and when. At the end every frame
must be accounted for, and memory must not have grown since the warm-up; exit status 1 where that
is not so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from ros_harness import (
    LARGE_MESSAGES,
    OUTPUTS,
    Client,
    Process,
    node_command,
    queue_of,
    ros_world,
    running,
    serialised_stamp_ns,
)
from soak_faults import FAULTS, Recording, Shot, Tick, load_recording
from soak_report import MemorySample, SoakConfig, SoakReport

from tc_depth_ros.frames.frame import stamp_ns
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.synthetic import iterate_recording

LISTENED = ('depth/image', 'depth/camera_info', 'points', 'confidence', 'depth/color')
SAMPLE_PERIOD_S = 1.0
CLEAN_S = 2.0  # without faults at the end, so that nothing waits
SETTLING_S = 3.0  # for what is still on its way then
START_S = 90
QUEUE = 100  # of the node, in images


class Camera:
    """Sends images and counts what comes of them, which it does not deserialise."""

    def __init__(self, client: Client) -> None:
        self.sent = 0
        self.heard: Counter[str] = Counter()
        self.latencies_ms: list[float] = []
        self._client = client
        self._sent_s: dict[int, float] = {}  # by stamp, of the latest loop
        for output in LISTENED:
            topic, callback = f'/tc_depth/{output}', partial(self._note, output)
            client.ros.create_subscription(OUTPUTS[output], topic, callback, 50, raw=True)

    def send(self, shot: Shot) -> None:
        """Publish an image and its CameraInfo, or what there is of them."""
        self._client.send(shot.image, shot.info)
        if shot.image is not None:
            self.sent += 1
            self._sent_s[stamp_ns(shot.image.header)] = time.monotonic()

    def meet(self, shot: Shot) -> None:
        """Send until an image has all its outputs; count from there on."""
        for _ in range(START_S):
            self.heard.clear()
            self.send(shot)
            self._client.spin_for(1.0)
            if all(self.heard[output] for output in LISTENED):
                self._client.spin_for(SETTLING_S)
                break
        else:
            raise AssertionError(f'no depth within {START_S} s: {self._client.health[-1:]}')
        self.sent = 0
        self.heard.clear()
        self.latencies_ms.clear()

    def _note(self, output: str, message: bytes) -> None:
        self.heard[output] += 1
        sent_s = self._sent_s.get(serialised_stamp_ns(message))
        if output == 'depth/image' and sent_s is not None:
            self.latencies_ms.append(1e3 * (time.monotonic() - sent_s))


class MemoryWatch:
    """Samples a process's memory now and then."""

    def __init__(self, process: Process) -> None:
        self.samples: list[MemorySample] = []
        self._process = process
        self._started_s = time.monotonic()

    def look(self) -> None:
        """Take a sample if it is time."""
        now_s = time.monotonic() - self._started_s
        if not self.samples or now_s - self.samples[-1].time_s >= SAMPLE_PERIOD_S:
            self.samples.append(MemorySample(now_s, self._process.memory.resident_mb))


def ticks(recording: Recording, config: SoakConfig, begun: Counter[str]) -> Iterator[Tick]:
    """Go through the recording over and over, with faults; counts those that have begun."""
    random, index = Random(config.seed), 0
    total = round(config.duration_s * config.rate_hz)
    clean = total - round(CLEAN_S * config.rate_hz)
    while index < total:
        taken: list[Tick] = [(recording.frame(index),)]
        if index < clean and random.random() < config.fault_share:
            fault = random.choice(FAULTS)
            taken = fault(recording, index, random)
            begun[fault.__name__] += 1
        yield from taken
        index += len(taken)


def soak(
    recording: Recording, config: SoakConfig, folder: Path, weights: str = '', device: str = 'cpu'
) -> SoakReport:
    """
    Run node and camera in the :func:`ros_world` around.

    :param folder: for the node's output
    :param weights: empty is the embedded network
    :raises AssertionError: the node does not begin to work, or does not come to rest
    """
    transport = 'compressed' if recording.compressed else 'raw'
    topic = '/image/compressed' if recording.compressed else '/image'
    parameters: dict[str, Any] = {'device': device, 'image_transport': transport}
    parameters |= queue_of(topic, QUEUE)
    parameters |= {'weights': weights} if weights else {}
    command = node_command(parameters)
    with ExitStack() as stack:
        node = stack.enter_context(running(command, folder / 'node.txt', LARGE_MESSAGES))
        client = stack.enter_context(closing(Client(compressed=recording.compressed)))
        camera = Camera(client)
        camera.meet(recording.frame(0))
        return _run(recording, config, node, client, camera)


def _run(
    recording: Recording, config: SoakConfig, node: Process, client: Client, camera: Camera
) -> SoakReport:
    before = client.settled()
    client.health.clear()
    faults, watch, period_s = Counter[str](), MemoryWatch(node), 1 / config.rate_hz
    started_s = due_s = time.monotonic()
    for tick in ticks(recording, config, faults):
        client.spin_for(max(due_s - time.monotonic(), 1e-3))
        due_s = max(due_s + period_s, time.monotonic())  # a camera that is late does not hurry
        if not node.alive:
            break
        watch.look()
        for shot in tick:
            camera.send(shot)
    elapsed_s = time.monotonic() - started_s
    if node.alive:
        client.spin_for(SETTLING_S)
        client.settled()
        client.spin_for(SETTLING_S)
    return SoakReport(
        config,
        elapsed_s,
        camera.sent,
        dict(faults),
        tuple(health.since(before) for health in (before, *client.health)),
        {output: camera.heard[output] for output in LISTENED},
        tuple(camera.latencies_ms),
        tuple(watch.samples),
        node.alive,
        node.output,
    )


def main() -> int:
    """Soak, print the table; exit status 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--bag', type=Path, help='default: a synthetic recording')
    parser.add_argument('--image', default='', help='topic, if the bag has several cameras')
    parser.add_argument(
        '--seconds',
        type=float,
        default=SoakConfig.duration_s,
        help='below 180 the memory of images of 640x480 may not have settled by the warm-up',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--weights', default='', help='default: the embedded network')
    parser.add_argument('--device', default='auto')
    arguments = parser.parse_args()
    config = SoakConfig.lasting(arguments.seconds, arguments.seed)
    with tempfile.TemporaryDirectory() as scratch, ros_world(Path(scratch)):
        os.environ.update(LARGE_MESSAGES)  # of this process too
        bag = arguments.bag
        if bag is None:
            bag = Path(scratch) / 'synthetic'
            print('rendering a synthetic recording …', flush=True)
            write_bag(bag, iterate_recording())
        recording = load_recording(bag, arguments.image)
        print(f'{bag.name} at {config.rate_hz:g} Hz for {config.duration_s:.0f} s', flush=True)
        report = soak(recording, config, Path(scratch), arguments.weights, arguments.device)
    if report.alive:
        print(report.table())
    for problem in report.problems():
        print(f'FAILED: {problem}')
    return 1 if report.problems() else 0


if __name__ == '__main__':
    sys.exit(main())
