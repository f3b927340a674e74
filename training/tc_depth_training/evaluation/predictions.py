"""Depths and motions of a whole sequence, as weights predict them or as files hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.preprocessing import network_input, network_size
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.localisation import LocalisationConfig, MotionName
from tc_depth_ros.network.checkpoint import Weights
from tc_depth_ros.pipeline import DepthPipeline, Estimate, PipelineConfig
from tc_depth_ros.predictor import DepthPredictor, PredictorConfig
from tc_depth_ros.scale.odometry_buffer import OdometryPose
from tc_depth_ros.temporal.tracker import TemporalConfig
from tc_depth_training.bag_writer import quaternion_from_matrix
from tc_depth_training.data.bag import BagError
from tc_depth_training.evaluation.sequence import FrameSequence
from tc_depth_training.evaluation.shared_network import share

Depths = NDArray[np.float32]  # (N, H, W)


@dataclass(frozen=True)
class Predicted:
    """Depths of a sequence, and by whose motion they were matched with the past."""

    depths: Depths
    motions: Mapping[MotionName, int]  # frames by source; 'none' were not matched


@dataclass(frozen=True)
class Way:
    """One way to predict a sequence."""

    file: Path  # to keep the depths in
    alone: bool = False  # forget the past before every frame
    by_motion: bool = True  # match with the past, where the weights do


def predict(
    sequence: FrameSequence,
    weights: Weights,
    file: Path,
    *,
    alone: bool = False,
    by_motion: bool = True,
    poses: NDArray[np.float64] | None = None,
) -> Predicted:
    """Predict all frames in one way; see Way and predict_ways."""
    return predict_ways(sequence, weights, [Way(file, alone, by_motion)], poses=poses)[0]


def predict_ways(
    sequence: FrameSequence,
    weights: Weights,
    ways: Sequence[Way],
    *,
    poses: NDArray[np.float64] | None = None,
    watch: Callable[[int, Estimate], None] | None = None,
) -> list[Predicted]:
    """
    Predict all frames in order, as the node does, in several ways that share what they can.

    :param poses: odometry at each frame, world_T_camera (N, 4, 4), NaN where unknown; None: the
        sequence's own
    :param watch: is shown every estimate of the first way, with the index of its frame
    :return: z in the weights' unit, NaN where invalid, (N, H, W)
    """
    poses = sequence.world_T_camera if poses is None else poses
    shared = weights._replace(network=share(weights.network))
    streams = [_Stream(shared, way, sequence) for way in ways]
    for index in tqdm(range(len(sequence.images)), 'predicting', unit='frame'):
        frame = sequence.frame(index)
        pose = None
        if poses is not None and np.isfinite(poses[index]).all():
            pose = odometry_pose(frame.stamp_ns, poses[index])
        first, *_ = [stream.push(index, frame, pose) for stream in streams]
        if watch is not None and first is not None:
            watch(index, first)
    return [stream.predicted for stream in streams]


class _Stream:
    """The frames of a sequence, predicted in one way."""

    def __init__(self, weights: Weights, way: Way, sequence: FrameSequence) -> None:
        self._pipeline = recorded_pipeline(weights, by_motion=way.by_motion and not way.alone)
        self._alone = way.alone
        self._depths = _kept_in(way.file, sequence)
        self._motions: Counter[MotionName] = Counter()

    def push(self, index: int, frame: Frame, pose: OdometryPose | None) -> Estimate | None:
        """Predict the next frame; None: it is rejected, and has no depth."""
        if self._alone:
            self._pipeline.reset()
        if pose is not None:
            self._pipeline.add_odometry(pose)
        try:
            estimate = self._pipeline.push(frame, wants_confidence=False)
        except FrameRejected as rejection:  # black, or the network finds no numbers
            tqdm.write(f'no depth: {rejection}')
            self._depths[index] = np.nan
            return None
        assert estimate is not None  # output is newest: every frame is answered
        self._depths[index] = estimate.depth
        self._motions[estimate.location.source if estimate.keyframes_used else 'none'] += 1
        return estimate

    @property
    def predicted(self) -> Predicted:
        """Of all frames that were pushed."""
        return Predicted(self._depths, self._motions)


def _kept_in(file: Path, sequence: FrameSequence) -> Depths:
    """Make a plain array that is stored in a file: slices of a memmap are slow to make."""
    return np.asarray(np.memmap(file, np.float32, 'w+', shape=sequence.images.shape[:3]))


def recorded_pipeline(weights: Weights, *, by_motion: bool) -> DepthPipeline:
    """
    The node's pipeline for frames that come with the odometry of their stamps.

    No depth is out of range here: the factor is yet to come.
    """
    predictor = DepthPredictor(weights, PredictorConfig(min_range=0.0, max_range=1e9))
    config = PipelineConfig(
        predictor=predictor.config,
        temporal=TemporalConfig(motion='auto' if by_motion and predictor.matches else 'none'),
        localisation=LocalisationConfig('auto' if by_motion else 'none', odometry_wait_s=0.0),
    )
    pipeline = DepthPipeline(predictor, config)
    pipeline.mount(np.eye(4))
    return pipeline


def odometry_pose(stamp_ns: int, world_T_camera: NDArray[np.float64]) -> OdometryPose:
    """The camera's pose (4, 4) as odometry of the camera itself."""
    quaternion = quaternion_from_matrix(world_T_camera[:3, :3])
    return OdometryPose(stamp_ns, world_T_camera[:3, 3], quaternion)


def read_predictions(sequence: FrameSequence, folder: Path, file: Path) -> Depths:
    """
    Read the depths that ``tc-depth predict`` or ``refine`` wrote; a frame without has none.

    :param folder: of ``STAMP.npy``, float32, z in m, (H, W)
    :param file: to keep the depths in
    :raises BagError: no file is of this bag, or one is of another size
    """
    depths = _kept_in(file, sequence)
    depths[:] = np.nan
    found = 0
    for index, stamp in enumerate(sequence.stamps_ns):
        path = folder / f'{stamp}.npy'
        if not path.exists():
            continue
        depth = np.load(path)
        if depth.shape != depths.shape[1:]:
            raise BagError(f'{path} is {depth.shape}, but the images are {depths.shape[1:]}')
        depths[index] = depth
        found += 1
    if not found:
        raise BagError(
            f'{folder} holds no STAMP.npy of this bag, whose first stamp is '
            f'{sequence.stamps_ns[0]} ns: give the depth folder that predict or refine wrote'
        )
    return depths


def predict_trajectory(sequence: FrameSequence, weights: Weights) -> NDArray[np.float64] | None:
    """
    Chain the pose network's motions between neighbouring frames.

    :return: first_T_camera of every frame, in network units, (N, 4, 4); None: no pose network
    """
    if weights.pose_net is None:
        return None
    info = weights.info
    size = network_size(sequence.size, (info.input_height, info.input_width))
    poses = [np.eye(4)]
    earlier = network_input(sequence.frame(0), size).image
    for index in tqdm(range(1, len(sequence.stamps_ns)), 'following', unit='frame'):
        later = network_input(sequence.frame(index), size).image
        with torch.inference_mode():
            later_T_earlier = weights.pose_net(earlier, later)[0].double().numpy()
        poses.append(poses[-1] @ np.linalg.inv(later_T_earlier))
        earlier = later
    return np.stack(poses)
