"""
DepthPipeline: a frame in; depth in metres, its confidence, and the camera's motion out.

    frame -> motion (temporal) -> pose (localisation) -> predictor
          -> consistency, confidence (temporal) -> scale -> estimate

Without ROS, so that it can be tested and read without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.window import Continuity
from tc_depth_ros.localisation import LocalisationConfig, Localiser, Location
from tc_depth_ros.predictor import (
    DepthPredictor,
    Prediction,
    PredictorConfig,
    PreparedFrame,
    warm_up_frames,
)
from tc_depth_ros.scale.estimator import Scale, ScaleConfig, ScaleEstimator, ScaleState
from tc_depth_ros.scale.observation import ObservedFrame, PredictedMotion
from tc_depth_ros.scale.odometry_buffer import OdometryPose
from tc_depth_ros.settings import group, setting
from tc_depth_ros.temporal.consistency import Consistency, scale_jump
from tc_depth_ros.temporal.motion import Motion
from tc_depth_ros.temporal.pose_chain import ChainedPose, PoseChain
from tc_depth_ros.temporal.tracker import (
    TemporalConfig,
    TemporalEstimate,
    TemporalTracker,
    motion_source,
)
from tc_depth_ros.temporal.view import View

NOWHERE = Location(None, 'none')


@dataclass(frozen=True)
class PipelineConfig:
    """How to come from frames to depth that can be relied on."""

    min_confidence: float = setting(
        0.0,
        'depth of less confidence is invalid (NaN), in image and cloud; 0 keeps all',
        0.0,
        1.0,
        dynamic=True,
    )
    predictor: PredictorConfig = group(PredictorConfig)
    temporal: TemporalConfig = group(TemporalConfig, 'temporal')
    scale: ScaleConfig = group(ScaleConfig, 'scale')
    localisation: LocalisationConfig = group(LocalisationConfig, 'matching')


@dataclass(frozen=True)
class Estimate:
    """All that is known of one frame."""

    frame: Frame  # whose depth it is
    depth: NDArray[np.float32]  # (H, W) of the frame; z in m, NaN invalid, +Inf beyond max_range
    confidence: NDArray[np.float32] | None  # (H, W) in [0, 1]; None: nobody asked
    pose: ChainedPose | None  # None: the motion is not known
    consistency: Consistency | None  # with the frame before; None: there is none, or no motion
    scale_jumped: bool  # against the frame before, by more than the settings allow
    scale: Scale  # of this depth
    frames_used: int  # distinct frames that were attended to; 1 = single-frame mode
    keyframes_used: int  # matched with; 0 = none, but it may be fused with the frame before
    location: Location  # by which it was matched, if it was
    continuity: Continuity  # 'continued', or why the past was forgotten
    view: View  # the same frame at the network's size; see Prediction


class DepthPipeline:
    """From a stream of frames, and odometry where there is some, to estimates; one per camera."""

    def __init__(self, predictor: DepthPredictor, config: PipelineConfig | None = None) -> None:
        self._config = config or PipelineConfig()
        self.predictor = predictor
        source = motion_source(self._config.temporal, predictor.pose_net, predictor.info.scale)
        self._temporal = TemporalTracker(source, self._config.temporal)
        self._scale = ScaleEstimator(self._config.scale, predictor.info.metric)
        self._localiser = Localiser(self._config.localisation)
        self._chain = PoseChain()
        self._child_T_camera: NDArray[np.float64] | None = None
        self._earlier_ns: int | None = None  # of the frame before, within the window
        self._newest_ns: int | None = None  # of any frame
        self._scale_known = False
        self._guess_ratio = 1.0  # of the frame before; see Prediction

    def reset(self) -> None:
        """Forget the past, the scale and the way that the camera came."""
        self.predictor.reset()
        self._temporal.reset()
        self._scale.reset()
        self._localiser.reset()
        self._chain.reset()
        self._earlier_ns = self._newest_ns = None

    def warm_up(self) -> None:
        """Make the first real frame as fast as the others."""
        for frame in warm_up_frames():
            self.push(frame, wants_confidence=True)
        self.reset()

    def succeed(self, old: DepthPipeline) -> None:
        """Go on where another pipeline was: the odometry does not start again."""
        self._chain = old._chain
        self._localiser = old._localiser
        self._localiser.lose()
        if old._child_T_camera is not None:
            self.mount(old._child_T_camera)

    def configure(self, config: PipelineConfig) -> None:
        """Take over the settings that may change while frames come in."""
        self._config = config
        self.predictor.config = config.predictor

    def mount(self, child_T_camera: NDArray[np.float64] | None) -> None:
        """Say how the camera stands on the odometry's child frame, (4, 4); None: not known."""
        self._child_T_camera = child_T_camera
        self._scale.mount(child_T_camera)
        self._localiser.odometry.mount(child_T_camera)

    @property
    def wants_odometry(self) -> bool:
        """Whether the robot's odometry is of use, for the scale or for matching."""
        matches = self.predictor.matches and self._config.localisation.odometry != 'none'
        return matches or self._config.scale.source == 'odometry'

    def add_odometry(self, pose: OdometryPose) -> None:
        """Take a pose of the robot's odometry; from any thread."""
        self._scale.add_odometry(pose)
        self._localiser.odometry.add(pose)

    def push(self, frame: Frame, *, wants_confidence: bool) -> Estimate | None:
        """
        Take the next frame.

        :return: the estimate of this frame; with output 'centre' of the one before it, and None
            for the first
        :raises FrameRejected: the frame cannot be used; see DepthPredictor.push
        :raises RuntimeError: the network failed
        """
        needs_confidence = wants_confidence or self._config.min_confidence > 0
        # The factor of the frames before: that of this one is known only once it is predicted
        scale = self._scale.current(frame.stamp_ns)
        prepared = self.predictor.prepare(frame)
        target = self.predictor.target(prepared)
        motion, location = None, NOWHERE
        try:
            if target is not None:
                motion, location = self._locate(target, scale)
            prediction = self.predictor.predict(prepared, scale.factor, location.pose)
            if prediction is None:
                if target is not None:  # memory ran out, and the past with it
                    self._lose()
                return None
            self._guess_ratio = prediction.guess_ratio
            self._begin_metric(scale)
            temporal = self._compare(prediction, motion, needs_confidence)
            pose = self._follow(prediction, temporal, scale.factor)
        except Exception:
            self._lose()  # what is compared with this frame next would be compared with another
            raise
        confidence = _full_size(temporal.confidence, prediction.frame)
        depth = prediction.depth
        if confidence is not None and self._config.min_confidence > 0:
            depth[confidence < self._config.min_confidence] = np.nan
        return Estimate(
            prediction.frame,
            depth,
            confidence,
            pose,
            temporal.consistency,
            temporal.consistency is not None
            and scale_jump(temporal.consistency, self._config.temporal.max_scale_step),
            scale,
            prediction.frames_used,
            prediction.keyframes_used,
            location,
            prediction.continuity,
            prediction.view,
        )

    def _locate(self, target: PreparedFrame, scale: Scale) -> tuple[Motion | None, Location]:
        """Find how the camera came to a frame, and where it is now."""
        if target.continuity != 'continued':
            self._begin(target)
        motion = self._temporal.motion_to(target)
        if not self.predictor.matches:
            return motion, NOWHERE
        factor = scale.factor if scale.metric else None
        # In the single frame's unit: matched depth follows the motion that it is matched by, so a
        # motion in its unit would confirm itself, and a wrong one would never be found out
        own = None if motion is None else motion.in_units_of(1 / self._guess_ratio)
        location = self._localiser.locate(target.frame.stamp_ns, own, factor, self._guess_ratio)
        return motion, _with_step(location, motion)

    def _begin(self, target: PreparedFrame) -> None:
        """Begin a new window: what was before it is not this camera's, or too long ago."""
        stamp_ns, newest_ns = target.frame.stamp_ns, self._newest_ns
        self._lose()
        if newest_ns is not None and stamp_ns <= newest_ns:  # the clock jumped
            self._scale.reset()
            self._chain.reset()

    def _lose(self) -> None:
        """Compare nothing with the frames before, and know no more how the camera came here."""
        self._temporal.reset()
        self._earlier_ns = None
        self._guess_ratio = 1.0
        self._localiser.lose()
        self._chain.lose()

    def _begin_metric(self, scale: Scale) -> None:
        """Begin the odometry anew where its unit becomes known: it must not mix two."""
        known = scale.state in (ScaleState.TRACKING, ScaleState.STALE)
        if known and not self._scale_known:
            self._chain.reset()
        self._scale_known = known

    def _compare(
        self, prediction: Prediction, motion: Motion | None, wants_confidence: bool
    ) -> TemporalEstimate:
        """Compare a frame with those before; one with pixels that are no numbers begins anew."""
        if prediction.view.depth.isfinite().all():
            return self._temporal.compare(
                prediction.view, motion, wants_confidence=wants_confidence
            )
        self._temporal.reset()
        nothing = np.zeros(prediction.view.size, dtype=np.float32)
        return TemporalEstimate(None, None, nothing if wants_confidence else None)

    def _follow(
        self, prediction: Prediction, temporal: TemporalEstimate, factor: float
    ) -> ChainedPose | None:
        """Tell the scale and the odometry of the motion since the frame before."""
        view, earlier_ns = prediction.view, self._earlier_ns
        self._earlier_ns = self._newest_ns = view.stamp_ns
        motion = None
        if temporal.motion is not None and earlier_ns is not None:
            motion = PredictedMotion(
                earlier_ns, temporal.motion.later_T_earlier, temporal.motion.covariance
            )
        K = view.K[0].double().cpu().numpy()
        self._scale.observe(ObservedFrame(view.stamp_ns, view.depth[0, 0], K, motion))
        if temporal.motion is None or earlier_ns is None:
            if earlier_ns is not None:
                self._chain.lose()
            return None
        step_s = (view.stamp_ns - earlier_ns) * 1e-9
        return self._chain.add(temporal.motion, step_s, factor)


def _with_step(location: Location, motion: Motion | None) -> Location:
    """Take the motion since the frame before from the images, if odometry does not give it."""
    pose = location.pose
    if pose is None or pose.last_T_this is not None or motion is None:
        return location
    last_T_this = np.asarray(np.linalg.inv(motion.later_T_earlier), np.float64)
    return replace(location, pose=replace(pose, last_T_this=last_T_this))


def _full_size(confidence: NDArray[np.float32] | None, frame: Frame) -> NDArray[np.float32] | None:
    """Confidence (H, W) of a frame; 0 where the rectified image shows nothing."""
    if confidence is None:
        return None
    full = cv2.resize(confidence, frame.size[::-1], interpolation=cv2.INTER_LINEAR)
    if frame.seen is not None:
        full[~frame.seen] = 0
    return np.asarray(full, dtype=np.float32)
