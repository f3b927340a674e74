"""Depths and motions of a whole sequence, as weights predict them or as files hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.frames.preprocessing import network_input, network_size
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.network.checkpoint import Weights
from tc_depth_ros.predictor import DepthPredictor, Prediction, PredictorConfig
from tc_depth_training.data.bag import BagError
from tc_depth_training.evaluation.sequence import FrameSequence

Depths = NDArray[np.float32]  # (N, H, W)


def predict(
    sequence: FrameSequence,
    weights: Weights,
    file: Path,
    *,
    alone: bool,
    watch: Callable[[int, Prediction], None] | None = None,
) -> Depths:
    """
    Predict all frames in order, as the node does.

    :param file: to keep the depths in
    :param alone: forget the past before every frame
    :param watch: is shown every prediction, with the index of its frame
    :return: z in the weights' unit, NaN where invalid, (N, H, W)
    """
    # No depth is out of range here: the factor is yet to come
    predictor = DepthPredictor(weights, PredictorConfig(min_range=0.0, max_range=1e9))
    depths = np.memmap(file, np.float32, 'w+', shape=sequence.images.shape[:3])
    label = 'predicting single frames' if alone else 'predicting'
    for index in tqdm(range(len(depths)), label, unit='frame'):
        if alone:
            predictor.reset()
        try:
            prediction = predictor.push(sequence.frame(index))
        except FrameRejected as rejection:  # black, or the network finds no numbers
            tqdm.write(f'no depth: {rejection}')
            depths[index] = np.nan
            continue
        assert prediction is not None  # output is newest: every frame is answered
        depths[index] = prediction.depth
        if watch is not None:
            watch(index, prediction)
    return depths


def read_predictions(sequence: FrameSequence, folder: Path, file: Path) -> Depths:
    """
    Read the depths that ``tc-depth predict`` or ``refine`` wrote; a frame without has none.

    :param folder: of ``STAMP.npy``, float32, z in m, (H, W)
    :param file: to keep the depths in
    :raises BagError: no file is of this bag, or one is of another size
    """
    depths = np.memmap(file, np.float32, 'w+', shape=sequence.images.shape[:3])
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
