"""
The node: images in, depth and cloud out.

One image's way: ``_on_image`` (executor thread) hands it to the worker, whose thread decodes it
(:mod:`tc_depth_ros.frames.decoder`), predicts (:mod:`tc_depth_ros.predictor`) and publishes
(:mod:`tc_depth_ros.ros.messages`).
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.geometry.cloud import organised_cloud
from tc_depth_ros.pictures import DepthRangeFollower, colour_depth
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor, Prediction, PredictorConfig
from tc_depth_ros.ros import messages
from tc_depth_ros.ros.diagnostics import diagnostics
from tc_depth_ros.ros.parameters import NodeConfig, declare, read
from tc_depth_ros.ros.tally import Tally
from tc_depth_ros.ros.worker import LatestWorker

# Inputs match every publisher, outputs every subscriber (REP 2003 and RViz's defaults)
INPUT_RELIABILITY = ReliabilityPolicy.BEST_EFFORT
OUTPUT_RELIABILITY = ReliabilityPolicy.RELIABLE
QUEUE_DEPTH = 5
DIAGNOSTICS_PERIOD_S = 1.0
LOG_PERIOD_S = 5.0  # of an error that repeats
ServiceCallback = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Arrival:
    """An image that came in, with the intrinsics it goes with."""

    image: Image | CompressedImage
    camera_info: CameraInfo
    arrived_s: float  # monotonic


class TCDepthNode(LifecycleNode):
    """
    Depth and a coloured cloud from one moving camera.

    Subscribes ``image`` or ``image/compressed``, ``camera_info``. Publishes ``~/depth/image``,
    ``~/depth/camera_info``, ``~/points``, ``~/depth/color``, ``/diagnostics``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__('tc_depth', **arguments)
        declare(self, NodeConfig)
        declare(self, PredictorConfig)
        self._tally = Tally()
        self._fault = 'not configured: set it up with the lifecycle service, or autostart'
        self._predictor: DepthPredictor | None = None
        self._worker: LatestWorker[Arrival] | None = None
        self._camera_info: CameraInfo | None = None
        self._early: Image | CompressedImage | None = None  # an image before any CameraInfo
        self._last: Prediction | None = None
        self._colours = DepthRangeFollower()
        self._health = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._report)
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refuse_what_fails(service.callback)

    @property
    def autostart(self) -> bool:
        """Whether to configure and activate without being told."""
        return bool(self.get_parameter('autostart').value)

    # ---- lifecycle -------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights, warm up, and advertise the outputs."""
        try:
            config = read(self, NodeConfig)
            predictor_config = read(self, PredictorConfig)
            weights = Path(config.weights) if config.weights else DEFAULT_WEIGHTS
            predictor = DepthPredictor.from_weights(weights, config.device, predictor_config)
            predictor.warm_up()
        except ValueError as error:  # WeightsError, and parameters that do not go together
            return self._refuse(str(error))
        except Exception:  # the device's fault, or ours; rclpy would not even log it
            return self._refuse(traceback.format_exc())
        self._predictor = predictor
        self._depth = self._output(Image, '~/depth/image')
        self._depth_info = self._output(CameraInfo, '~/depth/camera_info')
        self._points = self._output(PointCloud2, '~/points')
        self._depth_colour = self._output(Image, '~/depth/color')
        self._fault = 'not active'
        metric = 'metric' if predictor.info.metric else 'of unknown scale'
        self.get_logger().info(f'loaded {weights.name} on {predictor.device}; depth is {metric}')
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        self._worker = LatestWorker(self._process, lambda _: self._tally.dropped('superseded'))
        compressed = read(self, NodeConfig).image_transport == 'compressed'
        self._image_input = self._input(
            CompressedImage if compressed else Image,
            'image/compressed' if compressed else 'image',
            self._on_image,
        )
        self._decoder = FrameDecoder(rectify=not is_rectified(self._image_input.topic_name))
        self._camera_info_input = self._input(CameraInfo, 'camera_info', self._on_camera_info)
        self._fault = ''
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame at work, forget the stream."""
        self._stop()
        self._fault = 'not active'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and withdraw the outputs."""
        self._predictor = None
        for output in (self._depth, self._depth_info, self._points, self._depth_colour):
            self.destroy_publisher(output)
        self._fault = 'not configured'
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker, from whatever state."""
        self._stop()
        return TransitionCallbackReturn.SUCCESS

    # ---- an image's way --------------------------------------------------------------------

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message
        early, self._early = self._early, None
        if early is not None:
            self._fault = ''  # it can only have been the missing CameraInfo
            self._submit(early)

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._tally.received()
        if self._camera_info is not None:
            self._submit(message)
            return
        if self._early is not None:
            self._tally.dropped('no camera_info')
            topic = self._camera_info_input.topic_name
            self._complain(
                f'images arrive, but no CameraInfo on {topic}: publish it, or remap camera_info'
            )
        self._early = message

    def _submit(self, image: Image | CompressedImage) -> None:
        if self._worker is not None and self._camera_info is not None:
            self._worker.put(Arrival(image, self._camera_info, time.monotonic()))

    def _process(self, arrival: Arrival) -> None:
        """Decode, predict, publish; in the worker's thread."""
        try:
            if self._predictor is None or not self._wanted():
                self._tally.dropped('nobody subscribes')
                return
            frame = self._decoder.decode(arrival.image, arrival.camera_info)
            prediction = self._predictor.push(frame)
            if prediction is not None:
                self._publish(prediction)
        except FrameRejected as rejection:
            self._tally.dropped(rejection.cause)
            self.get_logger().warning(
                f'dropped a frame: {rejection}', throttle_duration_sec=LOG_PERIOD_S
            )
        except ValueError as error:
            self._tally.dropped('unusable')
            self._complain(str(error))
        except Exception:  # a fault of ours: say all of it, and live on
            self._tally.dropped('failed')
            if self.context.ok():  # else it is only that ROS went down while a frame was at work
                self._complain(f'prediction failed:\n{traceback.format_exc()}')
        else:
            self._fault = ''
            if prediction is None:
                self._tally.dropped('first of a centred window')
            else:
                self._tally.published(time.monotonic() - arrival.arrived_s)

    def _wanted(self) -> bool:
        outputs = (self._depth, self._depth_info, self._points, self._depth_colour)
        return any(output.get_subscription_count() for output in outputs)

    def _publish(self, prediction: Prediction) -> None:
        """Publish what is subscribed to; the rest is not computed."""
        frame, depth = prediction.frame, prediction.depth
        if self._depth.get_subscription_count():
            self._depth.publish(messages.depth_image(depth, frame))
        if self._depth_info.get_subscription_count():
            self._depth_info.publish(messages.camera_info(frame))
        if self._points.get_subscription_count():
            cloud = organised_cloud(depth, frame.image, frame.K)
            self._points.publish(messages.organised_points(cloud, frame))
        if self._depth_colour.get_subscription_count():
            colours = colour_depth(depth, self._colours.update(depth))
            self._depth_colour.publish(messages.colour_image(colours, frame))
        self._last = prediction

    # ---- the rest --------------------------------------------------------------------------

    def _input(self, message_type: type[Any], topic: str, callback: Callable[[Any], None]) -> Any:
        return self.create_subscription(
            message_type,
            topic,
            callback,
            # One each: an override of one topic is written into the profile that it is given
            QoSProfile(depth=QUEUE_DEPTH, reliability=INPUT_RELIABILITY),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _output(self, message_type: type[Any], topic: str) -> Any:
        return self.create_lifecycle_publisher(
            message_type,
            topic,
            QoSProfile(depth=QUEUE_DEPTH, reliability=OUTPUT_RELIABILITY),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

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

    def _refuse(self, reason: str) -> TransitionCallbackReturn:
        self._fault = f'not configured: {reason}'
        self.get_logger().error(self._fault)
        return TransitionCallbackReturn.FAILURE

    def _stop(self) -> None:
        if self._worker is None:
            return
        self.destroy_subscription(self._image_input)
        self.destroy_subscription(self._camera_info_input)
        self._worker.stop()
        self._worker = None
        if self._early is not None:
            self._tally.dropped('no camera_info')
        self._camera_info = self._early = None
        if self._predictor is not None:
            self._predictor.reset()

    def _complain(self, fault: str) -> None:
        self._fault = fault
        self.get_logger().error(fault, throttle_duration_sec=LOG_PERIOD_S)

    def _report(self) -> None:
        facts = {}
        if self._predictor is not None:
            facts = {'device': self._predictor.device, 'metric': str(self._predictor.info.metric)}
        if self._last is not None:
            facts['frames used'] = str(self._last.frames_used)
        name = self.get_fully_qualified_name().lstrip('/')
        stamp = self.get_clock().now().to_msg()
        self._health.publish(diagnostics(name, stamp, self._fault, self._tally.snapshot(), facts))


def main() -> int:
    """Run the node until it is told to stop."""
    rclpy.init()
    try:
        node = TCDepthNode()
    except ParameterException as error:
        print(f'tc_depth: {error}; a DOUBLE is written with a point, as 10.0', file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Ctrl-C comes twice under ros2 launch: from the terminal, and from launch
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        node.on_shutdown(LifecycleState('finalizing', 0))
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
