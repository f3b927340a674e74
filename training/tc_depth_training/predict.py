"""Depth of a bag, a video, a folder of images or three frames, as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.preprocessing import network_input
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.localisation import LocalisationConfig
from tc_depth_ros.network.checkpoint import load_weights
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.pictures import (
    DepthRangeFollower,
    colour_depth,
    contact_sheet,
    write_picture,
)
from tc_depth_ros.pipeline import DepthPipeline, PipelineConfig
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_ros.temporal.tracker import TemporalConfig
from tc_depth_training.data.bag import Bag, BagError
from tc_depth_training.data.stretch import HOW, WHOLE, Stretch
from tc_depth_training.data.trajectory import CameraTrajectory
from tc_depth_training.evaluation.predictions import odometry_pose

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.webm')
SHEET_ROWS = 6


class PredictError(ValueError):
    """Input that cannot be predicted; the message names the remedy."""


def predict_sequence(
    source: Path,
    weights: Path | None,
    out: Path,
    intrinsics: Sequence[float] | None = None,
    image_topic: str = '',
    camera_info_topic: str = '',
    stretch: Stretch = WHOLE,
    odometry_topic: str = '',
) -> int:
    """
    Predict the frames of a bag, a video or a folder of images; returns how many.

    Weights that match do so by the odometry of a bag, else by the motion that the images show.

    Writes ``depth/STAMP.npy`` (float32, m, NaN invalid), ``color/STAMP.png`` and a contact sheet.

    :param intrinsics: fx, fy, cx, cy in pixels; needed where the source has no CameraInfo
    :param image_topic: of a bag; empty is the only one, and so for its CameraInfo
    :param stretch: of a bag or a video; nothing outside it is looked at
    :param odometry_topic: of a bag; empty is the only one, if there is one; none: go without
    :raises PredictError: the source is none of these, lacks intrinsics, or is asked for a stretch
        that it does not have
    """
    pipeline = _pipeline(DepthPredictor.from_weights(weights))
    for folder in ('depth', 'color'):
        (out / folder).mkdir(parents=True, exist_ok=True)
    colours, rows, count = DepthRangeFollower(), [], 0
    topics = _Topics(image_topic, camera_info_topic, odometry_topic)
    frames = _frames(source, intrinsics, topics, stretch)
    for frame, world_T_camera in tqdm(frames, 'predicting', unit='frame'):
        if world_T_camera is not None:
            pipeline.add_odometry(odometry_pose(frame.stamp_ns, world_T_camera))
        try:
            prediction = pipeline.push(frame, wants_confidence=False)
        except FrameRejected as rejection:
            tqdm.write(f'left out: {rejection}')
            continue
        if prediction is None:
            continue
        stamp, depth = prediction.frame.stamp_ns, prediction.depth
        np.save(out / 'depth' / f'{stamp}.npy', depth)
        picture = colour_depth(depth, colours.update(depth))
        write_picture(out / 'color' / f'{stamp}.png', picture)
        rows.append((prediction.frame.image, picture))
        # Keep some rows from all over the sequence, however long it is
        if len(rows) >= 2 * SHEET_ROWS:
            rows = rows[::2]
        count += 1
    if rows:
        sheet = contact_sheet(rows[-SHEET_ROWS:], ('image', 'depth'))
        write_picture(out / 'contact_sheet.png', sheet)
    return count


def predict_window(
    images: Sequence[Path], intrinsics: Sequence[float], weights: Path | None, out: Path
) -> NDArray[np.float32]:
    """
    Predict frames in time order together, at the size that the weights were trained at.

    Writes ``disparity.npy``: float32, F x H x W, the network's sigmoid disparity, in the order
    given.

    :param intrinsics: fx, fy, cx, cy in pixels of the images, which are resized where needed
    :raises PredictError: an unreadable image, or one alone for a network that compares frames
    """
    network, _, info = load_weights(weights or DEFAULT_WEIGHTS)
    if isinstance(network, TCDepth) and len(images) < 2:
        raise PredictError(
            f'{images[0]} alone has no neighbour to attend to: give frames in time order, or '
            'the same one three times'
        )
    size = (info.input_height, info.input_width)
    inputs = [
        network_input(Frame(_read_image(path), _matrix(intrinsics), index, ''), size)
        for index, path in enumerate(images)
    ]
    with torch.inference_mode():
        stacked = torch.stack([i.image for i in inputs], dim=1)
        disparity = network(stacked, inputs[0].K).disparities[0]
    values: NDArray[np.float32] = disparity[0, :, 0].numpy()
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / 'disparity.npy', values)
    return values


class _Topics(NamedTuple):
    """Of a bag; empty: the only one there is."""

    image: str
    camera_info: str
    odometry: str


# A frame, and the pose world_T_camera (4, 4) that odometry gives at its stamp, if any
_Located = tuple[Frame, NDArray[np.float64] | None]


def _pipeline(predictor: DepthPredictor) -> DepthPipeline:
    """The node's pipeline, which finds no motion that nothing is matched by."""
    config = PipelineConfig(
        temporal=TemporalConfig(motion='auto' if predictor.matches else 'none'),
        localisation=LocalisationConfig(odometry_wait_s=0.0),
    )
    pipeline = DepthPipeline(predictor, config)
    pipeline.mount(np.eye(4))  # the poses are the camera's own
    return pipeline


def _frames(
    source: Path, intrinsics: Sequence[float] | None, topics: _Topics, stretch: Stretch
) -> Iterable[_Located]:
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return _nowhere(_video_frames(source, _needed(source, intrinsics), stretch))
    if source.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in source.iterdir()):
        if not stretch.is_whole:
            raise PredictError(
                f'{source} is a folder of images, of which nothing tells the time: leave out '
                f'{HOW}, and give a folder with the images that are wanted'
            )
        return _nowhere(_folder_frames(source, _needed(source, intrinsics)))
    return _bag_frames(source, topics, stretch)


def _nowhere(frames: Iterable[Frame]) -> Iterator[_Located]:
    return ((frame, None) for frame in frames)


def _bag_frames(source: Path, topics: _Topics, stretch: Stretch) -> Iterator[_Located]:
    with Bag(source) as bag:
        camera = bag.find_camera(topics.image, topics.camera_info)
        within, _ = bag.interval(camera, stretch)
        trajectory = _trajectory(bag, bag.frame_id(camera), topics.odometry)
        for frame in bag.frames(camera, within=within):
            yield frame, None if trajectory is None else trajectory.at(frame.stamp_ns)


def _trajectory(bag: Bag, frame_id: str, topic: str) -> CameraTrajectory | None:
    """The camera's way by odometry; None, with a word, where the bag has none that can be used."""
    try:
        odometry = bag.find_optional('odom', topic)
        return bag.trajectory(odometry, frame_id) if odometry else None
    except BagError as error:
        if topic:
            raise
        tqdm.write(f'goes without odometry: {error}')
        return None


def _folder_frames(source: Path, K: NDArray[np.float64]) -> Iterator[Frame]:
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    for index, path in enumerate(paths):
        yield Frame(_read_image(path), K, (index + 1) * 100_000_000, 'camera')


def _video_frames(source: Path, K: NDArray[np.float64], stretch: Stretch) -> Iterator[Frame]:
    video = cv2.VideoCapture(str(source))
    if not video.isOpened():
        raise PredictError(f'{source} is not a video that OpenCV can read')
    period_ns = round(1e9 / (video.get(cv2.CAP_PROP_FPS) or 10.0))
    within = stretch.interval(period_ns)
    stamp_ns, any_within = period_ns, False
    while stamp_ns < within.end_ns:
        more, bgr = video.read()
        if not more:
            break
        if within.holds(stamp_ns):
            any_within = True
            yield Frame(np.ascontiguousarray(bgr[..., ::-1]), K, stamp_ns, 'camera')
        stamp_ns += period_ns
    video.release()
    if not (any_within or stretch.is_whole):
        raise stretch.without_image(str(source), (stamp_ns - 2 * period_ns) * 1e-9)


def _needed(source: Path, intrinsics: Sequence[float] | None) -> NDArray[np.float64]:
    if intrinsics is None:
        raise PredictError(f'{source} has no CameraInfo: give --intrinsics fx fy cx cy (pixels)')
    return _matrix(intrinsics)


def _matrix(intrinsics: Sequence[float]) -> NDArray[np.float64]:
    fx, fy, cx, cy = intrinsics
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def _read_image(path: Path) -> NDArray[np.uint8]:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise PredictError(f'{path} is not an image that OpenCV can read')
    return np.ascontiguousarray(bgr[..., ::-1])
