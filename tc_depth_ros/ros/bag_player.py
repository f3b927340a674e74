"""
Play a bag into ROS where rosbag2 is not there; needs the ``rosbags`` package.

Messages go out as they were recorded, byte for byte, with their header stamps. Publishers are
reliable, which every subscriber can match.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

LATCHED = ('/tf_static', '/robot_description')  # to be seen by those who come later
CLOCK_PERIOD_S = 0.01


class Message(NamedTuple):
    """One recorded message."""

    time_ns: int  # when it was recorded
    topic: str
    type: str
    cdr: bytes


@contextmanager
def open_bag(path: Path, topics: Sequence[str] = ()) -> Iterator[tuple[Any, list[Any]]]:
    """
    Open a ROS 2 bag; gives the reader and its connections.

    :param topics: only these; empty is all
    :raises ValueError: not a bag, a ROS 1 bag, or a topic that it does not have
    """
    from rosbags.highlevel import AnyReader, AnyReaderError

    try:
        reader = AnyReader([path])
        reader.open()
    except (AnyReaderError, OSError) as error:
        raise ValueError(f'{path} is not a bag that can be read: {error}') from error
    with closing(reader):
        if not reader.is2:
            raise ValueError(f'{path} is a ROS 1 bag: convert it with rosbags-convert')
        missing = set(topics) - set(reader.topics)
        if missing:
            raise ValueError(
                f'{path} has no {", ".join(sorted(missing))}; there are: '
                f'{", ".join(sorted(reader.topics))}'
            )
        yield reader, [c for c in reader.connections if not topics or c.topic in topics]


def read_messages(path: Path, topics: Sequence[str] = ()) -> Iterator[Message]:
    """Read a bag in the order recorded; parameters and errors as for :func:`open_bag`."""
    with open_bag(path, topics) as (reader, connections):
        for connection, time_ns, cdr in reader.messages(connections):
            yield Message(time_ns, connection.topic, connection.msgtype, bytes(cdr))


class BagPlayer(Node):
    """Publishes the messages of a bag in real time or at a scaled rate."""

    def __init__(self, clock: bool) -> None:
        super().__init__('tc_depth_bag_player')
        # Not _publishers and _clock: rclpy's Node has those
        self._outputs: dict[str, Any] = {}
        self._clock_output = self.create_publisher(Clock, '/clock', 10) if clock else None

    def advertise(self, topic: str, type_name: str) -> None:
        """Create the publisher of a topic; types that are not installed are left out."""
        if topic in self._outputs:
            return
        message_type = _message_type(type_name)
        if message_type is None:
            self.get_logger().warning(f'leaving out {topic}: {type_name} is not installed')
            self._outputs[topic] = None
            return
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        if topic in LATCHED:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self._outputs[topic] = self.create_publisher(message_type, topic, qos)

    def wait_for_subscribers(self, wanted: dict[str, int], timeout_s: float) -> bool:
        """Wait until each topic has as many subscribers; False if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and rclpy.ok():
            counts = {topic: self._outputs[topic].get_subscription_count() for topic in wanted}
            if all(counts[topic] >= count for topic, count in wanted.items()):
                return True
            time.sleep(0.05)
        return False

    def play(self, messages: Iterator[Message], rate: float) -> int:
        """Publish each message at its time; returns how many."""
        started, first_ns, count = time.monotonic(), None, 0
        for message in messages:
            if not rclpy.ok():
                break
            first_ns = message.time_ns if first_ns is None else first_ns
            due = started + (message.time_ns - first_ns) * 1e-9 / rate
            self._wait_until(due, message.time_ns, rate)
            output = self._outputs.get(message.topic)
            if output is not None:
                output.publish(message.cdr)
                count += 1
        return count

    def finish(self, timeout_s: float) -> None:
        """Wait until every subscriber has every message."""
        for output in filter(None, self._outputs.values()):
            output.wait_for_all_acked(Duration(seconds=timeout_s))

    def _wait_until(self, due: float, time_ns: int, rate: float) -> None:
        """Sleep until a message is due, ticking the clock on the way."""
        while rclpy.ok():
            left = due - time.monotonic()
            if self._clock_output is not None:
                now_ns = time_ns - round(max(left, 0.0) * rate * 1e9)
                seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
                stamp = Time(sec=seconds, nanosec=nanoseconds)
                self._clock_output.publish(Clock(clock=stamp))
            if left <= 0:
                return
            time.sleep(min(left, CLOCK_PERIOD_S))


def _message_type(type_name: str) -> Any | None:
    package, _, name = type_name.split('/')
    try:
        return getattr(import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        return None


def _topic_and_count(text: str) -> tuple[str, int]:
    topic, _, count = text.rpartition('=')
    if not topic or not count.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form TOPIC=COUNT")
    return topic, int(count)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='tc_depth_bag_player', description=__doc__)
    parser.add_argument('bag', type=Path)
    parser.add_argument('--rate', type=float, default=1.0, help='times real time')
    parser.add_argument('--topics', nargs='*', default=[], help='only these')
    parser.add_argument('--clock', action='store_true', help='publish /clock')
    parser.add_argument('--loop', action='store_true', help='start over at the end')
    parser.add_argument(
        '--wait-for',
        nargs='*',
        default=[],
        type=_topic_and_count,
        metavar='TOPIC=COUNT',
        help='start once each topic has so many subscribers',
    )
    parser.add_argument('--timeout', type=float, default=60.0, help='of that wait, s')
    parser.add_argument('--delay', type=float, default=0.0, help='after that wait, s')
    arguments = parser.parse_args(rclpy.utilities.remove_ros_args(argv)[1:])
    if not arguments.rate > 0:
        parser.error(f'--rate is {arguments.rate}; it must be positive')
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Play a bag; exit status 1 if it cannot be read or nobody listens."""
    argv = list(sys.argv if argv is None else argv)
    arguments = _arguments(argv)
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.ALL)
    player = BagPlayer(arguments.clock)
    try:
        with open_bag(arguments.bag, arguments.topics) as (_, connections):
            for connection in connections:
                player.advertise(connection.topic, connection.msgtype)
        if not player.wait_for_subscribers(dict(arguments.wait_for), arguments.timeout):
            wanted = ' '.join(f'{topic}={count}' for topic, count in arguments.wait_for)
            raise ValueError(f'too few subscribers: {wanted} not met in time')
        time.sleep(arguments.delay)
        while rclpy.ok():
            count = player.play(read_messages(arguments.bag, arguments.topics), arguments.rate)
            if not arguments.loop:
                break
        player.finish(timeout_s=5.0)
        player.get_logger().info(f'played {count} messages')
    except ValueError as error:
        player.get_logger().error(str(error))
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
