"""
The node: images in, depth and cloud out.

One image's way: :mod:`tc_depth_ros.ros.inputs` (executor) hands it, with its CameraInfo, to the
worker, whose thread decodes it (:mod:`tc_depth_ros.frames`), estimates its depth
(:mod:`tc_depth_ros.pipeline`) and publishes (:mod:`tc_depth_ros.ros.outputs`).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.pipeline import DepthPipeline, Estimate, PipelineConfig
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_ros.ros.diagnostics import Condition, diagnostics
from tc_depth_ros.ros.facts import facts_of, warnings_of
from tc_depth_ros.ros.inputs import Arrival, Inputs, Listener
from tc_depth_ros.ros.messages import odometry_pose
from tc_depth_ros.ros.mounting import Mounting
from tc_depth_ros.ros.outputs import OutputConfig, Outputs
from tc_depth_ros.ros.parameters import NodeConfig, declare, dynamic_names, read
from tc_depth_ros.ros.tally import SUPERSEDED, UNWANTED, Tally
from tc_depth_ros.ros.worker import LatestWorker
from tc_depth_ros.temporal.consistency import Consistency

# Inputs match every publisher, outputs every subscriber (REP 2003 and RViz's defaults)
INPUT_RELIABILITY = ReliabilityPolicy.BEST_EFFORT
OUTPUT_RELIABILITY = ReliabilityPolicy.RELIABLE
QUEUE_DEPTH = 5
DIAGNOSTICS_PERIOD_S = 1.0
LOG_PERIOD_S = 5.0  # of an error that repeats
PATIENCE_S = 10.0  # with the frame at work when the node is to end
UNUSABLE = 'unusable'  # cause of a frame that cannot be decoded
STICKY_ERROR = 'CUDA error'  # as PyTorch begins what a process does not recover from
ServiceCallback = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Loaded:
    """What came of loading weights."""

    weights: str  # as the parameter has it
    outcome: DepthPipeline | Exception


class TCDepthNode(LifecycleNode):
    """
    Depth and a coloured cloud from one moving camera.

    Subscribes ``image`` or ``image/compressed``, ``camera_info``, ``odom``. Publishes
    ``~/depth/image``, ``~/depth/camera_info``, ``~/points``, ``~/confidence``, ``~/odometry``,
    ``~/depth/color``, ``/diagnostics``. Serves ``~/reset``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__('tc_depth', **arguments)
        for config_class in (NodeConfig, PipelineConfig, OutputConfig):
            declare(self, config_class)
        self.broken = False  # for good: the process must be started again
        self._tally = Tally()
        self._fault = 'not configured: set it up with the lifecycle service, or autostart'
        self._rejection = ''  # of the last frame that could not be used
        self._pipeline: DepthPipeline | None = None
        self._at_work = threading.Lock()  # held while a frame is in the pipeline
        self._worker: LatestWorker[Arrival] | None = None
        self._last: Estimate | None = None
        self._jump: Consistency | None = None  # of the scale, since the last report
        self._image_topic = ''
        self._mounting = Mounting(self)
        self._mounted: tuple[str, str] | None = None  # frames whose transform is known
        self._loaded: Loaded | None = None  # weights that wait to take over
        # Images and reports go on while a service waits for new weights to load
        self._unblocked = ReentrantCallbackGroup()
        self._wake = self.create_guard_condition(lambda: None, self._unblocked)
        self._health = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # By the machine's own clock: also where nobody publishes /clock
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._report, self._unblocked, steady)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.add_on_set_parameters_callback(self._on_parameters)
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refuse_what_fails(service.callback)
            elif service.srv_type in (SetParameters, SetParametersAtomically):
                service.callback = self._load_before(service.callback)
        backward = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jumps = self.get_clock().create_jump_callback(
            backward, post_callback=self._on_clock_jump
        )

    @property
    def autostart(self) -> bool:
        """Whether to configure and activate without being told."""
        return bool(self.get_parameter('autostart').value)

    # ---- lifecycle -------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights, warm up, and advertise the outputs."""
        try:
            pipeline = self._load(read(self, NodeConfig), read(self, PipelineConfig))
            outputs = Outputs(
                read(self, OutputConfig), self._advertise, self.destroy_lifecycle_publisher
            )
        except ValueError as error:  # WeightsError, and parameters that do not go together
            return self._refuse(str(error))
        except Exception:  # the device's fault, or ours; rclpy would not even log it
            return self._refuse(traceback.format_exc())
        self._pipeline, self._outputs = pipeline, outputs
        self._fault = 'not active'
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        super().on_activate(state)  # publishers first: what an early frame gives must go out
        try:
            self._start()
        except Exception as error:  # overrides of QoS that mean nothing, say
            if self._worker is not None:
                self._worker.stop()
                self._worker = None
            super().on_deactivate(state)
            self._fault = f'not activated: {error}'
            self.get_logger().error(self._fault)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _start(self) -> None:
        config = read(self, NodeConfig)
        compressed = config.image_transport == 'compressed'
        topic = self.resolve_topic_name('image/compressed' if compressed else 'image')
        self._decoder = FrameDecoder(
            rectify=config.rectify == 'always'
            or (config.rectify == 'auto' and not is_rectified(topic))
        )
        self._image_topic, self._mounted = topic, None
        self._fault = self._rejection = ''
        self._tally.begin()
        self._worker = LatestWorker(self._process, lambda _: self._tally.dropped(SUPERSEDED))
        follows_odometry = read(self, PipelineConfig).scale.source == 'odometry'
        listener = Listener(
            self._tally.received,
            self._worker.put,
            self._tally.dropped,
            self._complain,
            self._on_odometry if follows_odometry else None,
        )
        self._inputs = Inputs(
            self._subscribe, self.destroy_subscription, config.image_transport, listener
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame at work, forget the stream."""
        if not self._stop():
            self._fault = 'not deactivated: the frame at work does not end; start the node again'
            self.get_logger().error(self._fault)
            return TransitionCallbackReturn.FAILURE
        self._fault = 'not active'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and withdraw the outputs."""
        self._pipeline = self._last = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._outputs.close()
        self._fault = 'not configured'
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker, from whatever state; one that does not end is left behind."""
        if self._stop():
            self._pipeline = None
        else:
            self.broken = True
        self._fault = 'shut down: start it again'
        return TransitionCallbackReturn.SUCCESS

    # ---- an image's way --------------------------------------------------------------------

    def _process(self, arrival: Arrival) -> None:
        """Decode, estimate, publish; in the worker's thread."""
        try:
            with self._at_work:
                if self._pipeline is None or not self._outputs.wanted():
                    self._tally.dropped(UNWANTED)
                    return
                frame = self._decode(arrival)
                estimate = self._pipeline.push(
                    frame, wants_confidence=self._outputs.wants_confidence()
                )
            if estimate is not None:
                self._outputs.publish(estimate)
        except FrameRejected as rejection:
            self._tally.dropped(rejection.cause)
            self._rejection = str(rejection)
            if rejection.cause == UNUSABLE:  # and so will be the next, unless something changes
                self._complain(str(rejection))
            self.get_logger().warning(
                f'dropped a frame: {rejection}', throttle_duration_sec=LOG_PERIOD_S
            )
        except torch.cuda.OutOfMemoryError as error:
            self._tally.dropped('out of memory')
            self._complain(
                f'no memory left on the device, also when tried again: {error}. Give it a '
                'smaller network, or fewer neighbours'
            )
        except Exception as error:  # a fault of ours: say all of it, and live on
            self._tally.dropped('failed')
            if self.context.ok():  # else it is only that ROS went down while a frame was at work
                self._complain(f'prediction failed:\n{traceback.format_exc()}')
            if str(error).startswith(STICKY_ERROR):
                self.broken = True
                rclpy.try_shutdown(context=self.context)
        else:
            self._complain('')
            self._rejection = ''
            if estimate is None:
                self._tally.dropped('first of a centred window')
            else:
                self._last = estimate
                if estimate.scale_jumped:
                    self._jump = estimate.consistency
                self._tally.published(time.monotonic() - arrival.arrived_s)

    def _decode(self, arrival: Arrival) -> Frame:
        try:
            return self._decoder.decode(arrival.image, arrival.camera_info)
        except ValueError as error:
            raise FrameRejected(UNUSABLE, str(error)) from error

    def _on_odometry(self, message: Odometry) -> None:
        pipeline, last = self._pipeline, self._last
        if pipeline is None:
            return
        try:
            pose = odometry_pose(message)
        except ValueError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=LOG_PERIOD_S)
            return
        if last is not None:
            self._mount(message.child_frame_id, last.frame.frame_id)
        pipeline.add_odometry(pose)

    def _mount(self, child: str, camera: str) -> None:
        """Tell the pipeline how the camera stands on what the odometry is of, once it is known."""
        if self._mounted == (child, camera):
            return
        found = self._mounting.find(child, camera)
        if found is None:
            return
        with self._at_work:  # other weights may be about to take over
            if self._pipeline is not None:
                self._pipeline.mount(found)
                self._mounted = (child, camera)

    # ---- at run time -----------------------------------------------------------------------

    def _on_reset(self, request: Any, response: Any) -> Any:
        """Forget the past, the scale and the way that the camera came."""
        response.success = self._forget()
        response.message = 'the next frame is a first frame' if response.success else self._fault
        return response

    def _on_clock_jump(self, jump: TimeJump) -> None:
        self._forget()

    def _forget(self) -> bool:
        """Forget the past; False where there is none, or the frame at work does not end."""
        if not self._at_work.acquire(timeout=PATIENCE_S):
            return False
        try:
            if self._pipeline is not None:
                self._pipeline.reset()
            return self._pipeline is not None
        finally:
            self._at_work.release()

    def _load_before(self, set_parameters: ServiceCallback) -> ServiceCallback:
        """Load new weights in a thread of its own before parameters are set to them."""

        async def loading(request: Any, response: Any) -> Any:
            weights = [p.value.string_value for p in request.parameters if p.name == 'weights']
            if weights and self._pipeline is not None:
                self._loaded = await self._load_beside(weights[-1])
            return set_parameters(request, response)

        return loading

    def _load_beside(self, weights: str) -> Future:
        future = Future(executor=self.executor)

        def load() -> None:
            config = read(self, NodeConfig, {'weights': weights})
            try:
                loaded = Loaded(weights, self._load(config, read(self, PipelineConfig)))
            except Exception as error:  # raised where the parameters are set
                loaded = Loaded(weights, error)
            future.set_result(loaded)
            self._wake.trigger()  # or the executor would not look at the future until an image

        threading.Thread(target=load, name='tc_depth_loader', daemon=True).start()
        return future

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Take over what may change at run time, all of it or nothing; new weights swap in."""
        changes = {p.name: p.value for p in parameters if p.name in DYNAMIC}
        if not changes or self._pipeline is None:
            return SetParametersResult(successful=True)
        try:
            output_config = read(self, OutputConfig, changes)
            pipeline_config = read(self, PipelineConfig, changes)
            new = None
            if 'weights' in changes:
                new = self._take_loaded(read(self, NodeConfig, changes), pipeline_config)
        except Exception as error:  # whatever it is, the old weights stay at work
            known = isinstance(error, ValueError)
            reason = str(error) if known else traceback.format_exc()
            self.get_logger().error(f'parameters refused: {reason}')
            return SetParametersResult(successful=False, reason=str(error))
        with self._at_work:
            if new is not None:
                new.succeed(self._pipeline)
                self._pipeline = new
            self._pipeline.configure(pipeline_config)
            self._outputs.config = output_config
        return SetParametersResult(successful=True)

    def _take_loaded(self, config: NodeConfig, pipeline_config: PipelineConfig) -> DepthPipeline:
        """Take the pipeline that a service has loaded, or load one now; raises as _load does."""
        loaded, self._loaded = self._loaded, None
        if loaded is None or loaded.weights != config.weights:
            return self._load(config, pipeline_config)
        if isinstance(loaded.outcome, Exception):
            raise loaded.outcome
        return loaded.outcome

    # ---- the rest --------------------------------------------------------------------------

    def _load(self, config: NodeConfig, pipeline_config: PipelineConfig) -> DepthPipeline:
        """Load weights and warm up; raises ValueError, or what the device raises."""
        weights = Path(config.weights) if config.weights else DEFAULT_WEIGHTS
        predictor = DepthPredictor.from_weights(
            weights, config.device, pipeline_config.predictor, config.precision
        )
        pipeline = DepthPipeline(predictor, pipeline_config)
        pipeline.warm_up()
        precision = predictor.precision
        if precision.note:
            self.get_logger().warning(precision.note)
        metric = 'metric' if predictor.info.metric else 'of unknown scale'
        self.get_logger().info(
            f'loaded {weights.name} on {predictor.device} in {precision.name}; depth is {metric}'
        )
        return pipeline

    def _subscribe(
        self, message_type: type[Any], topic: str, callback: Callable[[Any], None]
    ) -> Any:
        return self.create_subscription(
            message_type,
            topic,
            callback,
            # One each: an override of one topic is written into the profile that it is given
            QoSProfile(depth=QUEUE_DEPTH, reliability=INPUT_RELIABILITY),
            callback_group=self._unblocked,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _advertise(self, message_type: type[Any], topic: str) -> Any:
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

    def _stop(self) -> bool:
        """Stop listening and working; False where the frame at work did not end in time."""
        if self._worker is None:
            return True
        self._inputs.close()
        ended = self._worker.stop(PATIENCE_S)
        self._worker = None
        return ended and (self._pipeline is None or self._forget())

    def _complain(self, fault: str) -> None:
        """Note what keeps depth from being published; '' is nothing any more."""
        self._fault = fault
        if fault:
            self.get_logger().error(fault, throttle_duration_sec=LOG_PERIOD_S)

    def _report(self) -> None:
        worker, pipeline, last = self._worker, self._pipeline, self._last
        jump, self._jump = self._jump, None
        condition = Condition(
            self._fault,
            self._rejection,
            self._tally.snapshot(),
            self._image_topic,
            float(self.get_parameter('image_timeout_s').value),
            worker.at_work_s if worker is not None else 0.0,
            warnings_of(last, jump),
        )
        name = self.get_fully_qualified_name().lstrip('/')
        stamp = self.get_clock().now().to_msg()
        self._health.publish(diagnostics(name, stamp, condition, facts_of(pipeline, last)))


DYNAMIC = {
    name
    for config_class in (NodeConfig, PipelineConfig, OutputConfig)
    for name in dynamic_names(config_class)
}


def main() -> int:
    """Run the node until it is told to stop."""
    # ROS ends the spinning on Ctrl-C as on SIGTERM. Python would raise besides, anywhere: within
    # rclpy's C++, which makes another error of it
    signal.signal(signal.SIGINT, lambda *_: None)
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


if __name__ == '__main__':
    sys.exit(main())
