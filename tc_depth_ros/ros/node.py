"""
The node: images in, depth and cloud out.

One image's way: :mod:`tc_depth_ros.ros.inputs` (executor) hands it, with its CameraInfo, to the
worker, whose thread decodes it (:mod:`tc_depth_ros.frames`), estimates its depth
(:mod:`tc_depth_ros.pipeline`) and publishes (:mod:`tc_depth_ros.ros.outputs`). What becomes of it
is noted in :mod:`tc_depth_ros.ros.health`.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

import rclpy
import torch
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.pipeline import DepthPipeline, PipelineConfig
from tc_depth_ros.ros.health import LOG_PERIOD_S, Health
from tc_depth_ros.ros.inputs import Arrival, Inputs, Listener
from tc_depth_ros.ros.lifecycle import StandaloneNode, run
from tc_depth_ros.ros.messages import odometry_pose
from tc_depth_ros.ros.mounting import Mounting
from tc_depth_ros.ros.outputs import OutputConfig, Outputs
from tc_depth_ros.ros.parameters import NodeConfig, declare, dynamic_names, read
from tc_depth_ros.ros.tally import SUPERSEDED, UNUSABLE, UNWANTED
from tc_depth_ros.ros.topics import advertise, subscribe
from tc_depth_ros.ros.weights_swap import WeightsSwap, load_pipeline
from tc_depth_ros.ros.worker import LatestWorker

DIAGNOSTICS_PERIOD_S = 1.0
PATIENCE_S = 10.0  # with the frame at work when the node is to end
STICKY_ERROR = 'CUDA error'  # as PyTorch begins what a process does not recover from
CONFIGS = (NodeConfig, PipelineConfig, OutputConfig)
DYNAMIC = {name for config_class in CONFIGS for name in dynamic_names(config_class)}


class TCDepthNode(StandaloneNode):
    """
    Depth and a coloured cloud from one moving camera.

    Subscribes ``image`` or ``image/compressed``, ``camera_info``, ``odom``. Publishes
    ``~/depth/image``, ``~/depth/camera_info``, ``~/points``, ``~/confidence``, ``~/odometry``,
    ``~/depth/color``, ``/diagnostics``. Serves ``~/reset``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__('tc_depth', **arguments)
        for config_class in CONFIGS:
            declare(self, config_class)
        self.autostart = bool(self.get_parameter('autostart').value)
        self._health = Health(self)
        self._pipeline: DepthPipeline | None = None
        self._at_work = threading.Lock()  # held while a frame is in the pipeline
        self._worker: LatestWorker[Arrival] | None = None
        self._mounting = Mounting(self)
        self._mounted: tuple[str, str] | None = None  # frames whose transform is known
        # Images and reports go on while a service waits for new weights to load
        self._unblocked = ReentrantCallbackGroup()
        self._swap = WeightsSwap(self, self._unblocked, lambda: self._pipeline is not None)
        # By the machine's own clock: also where nobody publishes /clock
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._report, self._unblocked, steady)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.add_on_set_parameters_callback(self._on_parameters)
        backward = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jumps = self.get_clock().create_jump_callback(
            backward, post_callback=self._on_clock_jump
        )

    # ---- lifecycle -------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights, warm up, and advertise the outputs."""
        try:
            pipeline = load_pipeline(self)
            outputs = Outputs(
                read(self, OutputConfig),
                partial(advertise, self),
                self.destroy_lifecycle_publisher,
            )
        except ValueError as error:  # WeightsError, and parameters that do not go together
            return self._refuse(f'not configured: {error}')
        except Exception:  # the device's fault, or ours; rclpy would not even log it
            return self._refuse(f'not configured: {traceback.format_exc()}')
        self._pipeline, self._outputs = pipeline, outputs
        self._health.fault = 'not active'
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
            return self._refuse(f'not activated: {error}')
        return TransitionCallbackReturn.SUCCESS

    def _start(self) -> None:
        config = read(self, NodeConfig)
        compressed = config.image_transport == 'compressed'
        topic = self.resolve_topic_name('image/compressed' if compressed else 'image')
        self._decoder = FrameDecoder(
            rectify=config.rectify == 'always'
            or (config.rectify == 'auto' and not is_rectified(topic))
        )
        self._mounted = None
        self._health.begin(topic)
        tally = self._health.tally
        self._worker = LatestWorker(self._process, lambda _: tally.dropped(SUPERSEDED))
        listener = Listener(
            tally.received,
            self._worker.put,
            tally.dropped,
            self._health.complain,
            self._on_odometry,
        )
        self._inputs = Inputs(
            partial(subscribe, self, self._unblocked),
            self.destroy_subscription,
            config.image_transport,
            listener,
        )
        if self._pipeline is not None:
            self._pipeline.mount(None)
            if self._pipeline.wants_odometry:
                self._inputs.follow_odometry()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, finish the frame at work, forget the stream."""
        if not self._stop():
            return self._refuse(
                'not deactivated: the frame at work does not end; start the node again'
            )
        self._health.fault = 'not active'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and withdraw the outputs."""
        self._pipeline = self._health.last = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._outputs.close()
        self._health.fault = 'not configured'
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker, from whatever state; one that does not end is left behind."""
        if self._stop():
            self._pipeline = None
        else:
            self.broken = True
        self._health.fault = 'shut down: start it again'
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> bool:
        """Stop listening and working; False where the frame at work did not end in time."""
        if self._worker is None:
            return True
        self._inputs.close()
        ended = self._worker.stop(PATIENCE_S)
        self._worker = None
        return ended and (self._pipeline is None or self._forget())

    def _refuse(self, fault: str) -> TransitionCallbackReturn:
        self._health.fault = fault
        self.get_logger().error(fault)
        return TransitionCallbackReturn.FAILURE

    # ---- an image's way --------------------------------------------------------------------

    def _process(self, arrival: Arrival) -> None:
        """Decode, estimate, publish; in the worker's thread."""
        try:
            with self._at_work:
                if self._pipeline is None or not self._outputs.wanted():
                    self._health.tally.dropped(UNWANTED)
                    return
                frame = self._decode(arrival)
                estimate = self._pipeline.push(
                    frame, wants_confidence=self._outputs.wants_confidence()
                )
            if estimate is not None:
                self._outputs.publish(estimate)
        except FrameRejected as rejection:
            self._health.rejected(rejection)
        except torch.cuda.OutOfMemoryError as error:
            self._health.tally.dropped('out of memory')
            self._health.complain(
                f'no memory left on the device, also when tried again: {error}. Give it a '
                'smaller network, or fewer neighbours'
            )
        except Exception as error:  # a fault of ours: say all of it, and live on
            self._health.tally.dropped('failed')
            if self.context.ok():  # else it is only that ROS went down while a frame was at work
                self._health.complain(f'prediction failed:\n{traceback.format_exc()}')
            if str(error).startswith(STICKY_ERROR):
                self.broken = True
                rclpy.try_shutdown(context=self.context)
        else:
            self._health.done(estimate, arrival.arrived_s)

    def _decode(self, arrival: Arrival) -> Frame:
        try:
            return self._decoder.decode(arrival.image, arrival.camera_info)
        except ValueError as error:
            raise FrameRejected(UNUSABLE, str(error)) from error

    # ---- the odometry's way -----------------------------------------------------------------

    def _on_odometry(self, message: Odometry) -> None:
        """Give the pipeline the robot's pose; in the executor's thread."""
        pipeline, last = self._pipeline, self._health.last
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
        if found is None and self._mounted is None:
            return
        with self._at_work:  # other weights may be about to take over
            if self._pipeline is not None:
                self._pipeline.mount(found)  # None: what is known is of another frame
                self._mounted = None if found is None else (child, camera)

    # ---- at run time -----------------------------------------------------------------------

    def _on_reset(self, request: Any, response: Any) -> Any:
        """Forget the past, the scale and the way that the camera came."""
        response.success = self._forget()
        response.message = (
            'the next frame is a first frame' if response.success else self._health.fault
        )
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

    def _report(self) -> None:
        worker, pipeline = self._worker, self._pipeline
        self._health.report(pipeline, worker.at_work_s if worker is not None else 0.0)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Take over what may change at run time, all of it or nothing; new weights swap in."""
        changes = {p.name: p.value for p in parameters if p.name in DYNAMIC}
        if not changes or self._pipeline is None:
            return SetParametersResult(successful=True)
        try:
            output_config = read(self, OutputConfig, changes)
            pipeline_config = read(self, PipelineConfig, changes)
            new = self._swap.take(changes) if 'weights' in changes else None
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
            if self._pipeline.wants_odometry and self._worker is not None:
                self._inputs.follow_odometry()  # new weights may match where the old did not
        return SetParametersResult(successful=True)


def main() -> int:
    """Run the node until it is told to stop."""
    return run(TCDepthNode)


if __name__ == '__main__':
    sys.exit(main())
