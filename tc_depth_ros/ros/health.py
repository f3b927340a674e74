"""How the node is: noted by whoever finds out, and told in the log and in diagnostics."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.pipeline import DepthPipeline, Estimate
from tc_depth_ros.ros.diagnostics import Condition, diagnostics
from tc_depth_ros.ros.facts import facts_of, warnings_of
from tc_depth_ros.ros.tally import UNUSABLE, Tally
from tc_depth_ros.temporal.consistency import Consistency

LOG_PERIOD_S = 5.0  # of an error that repeats


class Health:
    """What is known of how the node is; takes notes from any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._output = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.tally = Tally()
        # What keeps depth from being published, and the remedy; '': nothing
        self.fault = 'not configured: set it up with the lifecycle service, or autostart'
        self.last: Estimate | None = None
        self._rejection = ''  # of the last frame that could not be used
        self._jump: Consistency | None = None  # of the scale, since the last report
        self._image_topic = ''

    def begin(self, image_topic: str) -> None:
        """Note that all is well so far, and images are listened to from now on."""
        self._image_topic = image_topic
        self.fault = self._rejection = ''
        self.tally.begin()

    def complain(self, fault: str) -> None:
        """Note what keeps depth from being published; '' is nothing any more."""
        self.fault = fault
        if fault:
            self._node.get_logger().error(fault, throttle_duration_sec=LOG_PERIOD_S)

    def rejected(self, rejection: FrameRejected) -> None:
        """Note a frame that could not be used."""
        self.tally.dropped(rejection.cause)
        self._rejection = str(rejection)
        if rejection.cause == UNUSABLE:  # and so will be the next, unless something changes
            self.complain(str(rejection))
        self._node.get_logger().warning(
            f'dropped a frame: {rejection}', throttle_duration_sec=LOG_PERIOD_S
        )

    def done(self, estimate: Estimate | None, arrived_s: float) -> None:
        """
        Note a frame that went all its way.

        :param estimate: None: it has no depth, being the first of a centred window
        :param arrived_s: monotonic
        """
        self.complain('')
        self._rejection = ''
        if estimate is None:
            self.tally.dropped('first of a centred window')
            return
        self.last = estimate
        if estimate.scale_jumped:
            self._jump = estimate.consistency
        self.tally.published(time.monotonic() - arrived_s)

    def report(self, pipeline: DepthPipeline | None, at_work_s: float) -> None:
        """
        Publish diagnostics.

        :param at_work_s: for how long the frame at work has been; 0 if there is none
        """
        last = self.last
        jump, self._jump = self._jump, None
        condition = Condition(
            self.fault,
            self._rejection,
            self.tally.snapshot(),
            self._image_topic,
            float(self._node.get_parameter('image_timeout_s').value),
            at_work_s,
            warnings_of(last, jump),
        )
        name = self._node.get_fully_qualified_name().lstrip('/')
        stamp = self._node.get_clock().now().to_msg()
        self._output.publish(diagnostics(name, stamp, condition, facts_of(pipeline, last)))
