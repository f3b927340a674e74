"""What rclpy's lifecycle node lacks: it refuses wrong transitions, starts by itself, ends well."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

ServiceCallback = Callable[[Any, Any], Any]


class StandaloneNode(LifecycleNode):
    """A lifecycle node that :func:`run` gives a process of its own."""

    autostart = False  # whether to configure and activate without being told
    broken = False  # for good: the process must be started again

    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__(name, **arguments)
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refuse_what_fails(service.callback)

    def _refuse_what_fails(self, change_state: ServiceCallback) -> ServiceCallback:
        """Answer a transition that cannot be made with no; rclpy alone would end the process."""

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except _rclpy.RCLError as error:
                self.get_logger().error(f'lifecycle transition refused: {error}')
                response.success = False
                return response

        return guarded


def run(make_node: Callable[[], StandaloneNode]) -> int:
    """
    Run a node until it is told to stop.

    :return: the exit status; 1: a parameter is of the wrong kind, or the node is broken
    """
    # ROS ends the spinning on Ctrl-C as on SIGTERM. Python would raise besides, anywhere: within
    # rclpy's C++, which makes another error of it
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init()
    try:
        node = make_node()
    except ParameterException as error:
        print(f'tc_depth: {error}; a DOUBLE is written with a point, as 10.0', file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        rclpy.spin(node)
    except ExternalShutdownException:
        pass
    except _rclpy.RCLError:
        if node.context.ok():  # else ROS went down between two waits, which rclpy does not expect
            raise
    finally:
        # Ctrl-C comes twice under ros2 launch: from the terminal, and from launch
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        node.on_shutdown(LifecycleState('finalizing', 0))
        node.destroy_node()
        rclpy.try_shutdown()
    return 1 if node.broken else 0
