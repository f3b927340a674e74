"""A bag's frames with all that is known of them, matched by header stamp, each frame once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.frame import Frame
from tc_depth_training.data.bag import NO_TOPIC, Bag, BagError, CameraTopics
from tc_depth_training.data.depth_source import (
    DepthSource,
    find_depth,
)
from tc_depth_training.data.measured_depth import (
    MAX_OFFSET_S,
    check_shape,
    fit_depth,
    match_stamps,
    resize_depth,
)
from tc_depth_training.data.point_cloud import depth_of_points
from tc_depth_training.data.stretch import WHOLE, Interval, Stretch
from tc_depth_training.data.topics import TRANSFORMS

# Of scratch: RGB, put in order if need be; the truth; predictions with and without the past, and
# without motion for weights that match
BYTES_PER_PIXEL = 2 * 3 + 4 + 3 * 4
Measured = TypeVar('Measured')


@dataclass(frozen=True)
class Topics:
    """Where to look; empty: the only one there is, 'none': go without."""

    image: str = ''
    camera_info: str = ''
    depth: str = ''
    lidar: str = ''
    odom: str = ''


@dataclass(frozen=True)
class FrameSequence:
    """N frames of one camera in time order; large arrays are files of a scratch folder."""

    images: NDArray[np.uint8]  # (N, H, W, 3), RGB
    K: NDArray[np.float64]  # (N, 3, 3), in pixels
    stamps_ns: NDArray[np.int64]  # (N,), increasing
    frame_id: str
    truth: NDArray[np.float32] | None  # (N, H, W), z in m, NaN where unknown; None: no truth
    truth_topic: str  # '': none
    sparse: bool  # the truth is of a lidar
    world_T_camera: NDArray[np.float64] | None  # (N, 4, 4), NaN where unknown; None: no odometry

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def frame(self, index: int) -> Frame:
        """One frame as the predictor takes it."""
        stamp_ns = int(self.stamps_ns[index])
        return Frame(np.asarray(self.images[index]), self.K[index], stamp_ns, self.frame_id)


def read_sequence(
    path: Path, topics: Topics, scratch: Path, stretch: Stretch = WHOLE
) -> FrameSequence:
    """
    Read a bag's camera, and depth or lidar and odometry where it has them.

    :param scratch: a folder that outlives the sequence
    :param stretch: of images and measured depth; odometry is read from all of the bag
    :raises BagError: no camera, or no image; topics that do not overlap in time; depth of another
        shape or frame; a transform that is missing; no space left in the scratch folder
    """
    with Bag(path) as bag:
        camera = bag.find_camera(topics.image, topics.camera_info)
        found = _find_truth(bag, camera, topics)
        odom_topic = bag.find_optional('odom', topics.odom)
        within, count = bag.interval(camera, stretch)
        images, cameras, stamps_ns, frame_id = _read_camera(bag, camera, scratch, within, count)
        poses = None
        if odom_topic:
            poses = _read_poses(bag, odom_topic, frame_id, stamps_ns)
        truth = None
        if found:
            truth = np.memmap(scratch / 'truth', np.float32, 'w+', shape=images.shape[:3])
            truth[:] = np.nan
            for index, depth in _measured(bag, found, within, stamps_ns, cameras):
                truth[index] = depth
    return FrameSequence(
        images,
        np.stack([model.K for model in cameras]),
        stamps_ns,
        frame_id,
        truth,
        found.topic if found else '',
        sparse=found is not None and found.camera_T_points is not None,
        world_T_camera=poses,
    )


def _find_truth(bag: Bag, camera: CameraTopics, topics: Topics) -> DepthSource | None:
    """What measures depth; raises BagError where all that there is cannot be used."""
    found = find_depth(bag, camera, topics.depth, topics.lidar)
    if found.source is None and found.passed_over:
        raise BagError('; '.join(found.passed_over))
    for reason in found.passed_over:
        print(f'passing over {reason}', file=sys.stderr)
    return found.source


def _read_camera(
    bag: Bag, camera: CameraTopics, scratch: Path, within: Interval, count: int
) -> tuple[NDArray[np.uint8], list[CameraModel], NDArray[np.int64], str]:
    images: np.memmap[tuple[int, ...], np.dtype[np.uint8]] | None = None
    cameras: list[CameraModel] = []
    stamps, frame_id = [], ''
    decoder = FrameDecoder(rectify=not is_rectified(camera.image))
    frames = bag.frames(camera, decoder, within)
    progress = tqdm(frames, f'reading {bag.path.name}', count, unit='frame')
    for index, frame in enumerate(progress):
        if images is None:
            _check_space(scratch, count, frame.size)
            shape = (count, *frame.image.shape)
            images = np.memmap(scratch / 'images', np.uint8, 'w+', shape=shape)
            frame_id = frame.frame_id
        if frame.image.shape != images.shape[1:]:
            raise BagError(
                f'{camera.image} of {bag.path} changes from {images.shape[2]}x{images.shape[1]} '
                f'to {frame.size[1]}x{frame.size[0]} (width x height): split the bag there'
            )
        images[index] = frame.image
        cameras.append(decoder.camera)
        stamps.append(frame.stamp_ns)
    if images is None:
        raise BagError(f'{camera.image} of {bag.path} has no images')
    stamps_ns, order = np.unique(np.array(stamps, dtype=np.int64), return_index=True)
    if not np.array_equal(order, np.arange(count)):
        images = _reordered(images, order, scratch)
    return images, [cameras[index] for index in order], stamps_ns, frame_id


def _reordered(
    images: NDArray[np.uint8], order: NDArray[np.int64], scratch: Path
) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """Put images in order, in a file too, since together they may not fit into memory."""
    shape = (len(order), *images.shape[1:])
    ordered = np.memmap(scratch / 'images_in_order', np.uint8, 'w+', shape=shape)
    for place, index in enumerate(order):
        ordered[place] = images[index]
    return ordered


def _read_poses(
    bag: Bag, topic: str, frame_id: str, stamps_ns: NDArray[np.int64]
) -> NDArray[np.float64]:
    trajectory = bag.trajectory(topic, frame_id)
    missing = np.full((4, 4), np.nan)
    found = [trajectory.at(int(stamp)) for stamp in stamps_ns]
    poses = np.stack([missing if pose is None else pose for pose in found])
    if np.isnan(poses).all():
        for link in trajectory.links:
            if all(link.at(int(stamp)) is None for stamp in stamps_ns):
                raise _no_overlap(bag, f'{topic} with {TRANSFORMS}', stamps_ns, link.stamps_ns)
        raise _no_overlap(bag, topic, stamps_ns, trajectory.odometry.stamps_ns)
    return poses


def _matched(
    bag: Bag,
    topic: str,
    messages: Iterator[Measured],
    within: Interval,
    stamps_ns: NDArray[np.int64],
) -> Iterator[tuple[int, Measured]]:
    """Those of a topic's messages that belong to a frame, each with the frame's index."""
    measured_ns = bag.stamps_ns(topic)
    inside = within.all_held(measured_ns)
    belongs_to = np.full(len(measured_ns), -1)
    belongs_to[inside] = match_stamps(stamps_ns, measured_ns[inside])
    if (belongs_to < 0).all():
        raise _no_overlap(bag, topic, stamps_ns, measured_ns)
    progress = tqdm(messages, f'reading {topic}', len(belongs_to), unit='frame')
    for index, message in zip(belongs_to.tolist(), progress, strict=True):
        if index >= 0:
            yield index, message


def _measured(
    bag: Bag,
    found: DepthSource,
    within: Interval,
    stamps_ns: NDArray[np.int64],
    cameras: list[CameraModel],
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each depth that belongs to a frame, as that frame's rectified camera has it."""
    topic, transform = found.topic, found.camera_T_points
    if transform is not None:
        for index, points in _matched(bag, topic, bag.point_clouds(topic), within, stamps_ns):
            yield index, depth_of_points(points, transform, cameras[index].K, cameras[index].size)
        return
    for index, measured in _matched(bag, topic, bag.depth_maps(topic), within, stamps_ns):
        rows, columns = measured.depth.shape
        camera = cameras[index]
        check_shape(f'{topic} of {bag.path}', (rows, columns), camera.size)
        fitted = fit_depth(measured.depth, camera) if found.is_raw else measured.depth
        yield index, resize_depth(fitted, camera.size)


def _no_overlap(
    bag: Bag, topic: str, images: NDArray[np.int64], others: NDArray[np.int64]
) -> BagError:
    def span(stamps_ns: NDArray[np.int64]) -> str:
        return f'{stamps_ns.min() * 1e-9:.3f} to {stamps_ns.max() * 1e-9:.3f} s'

    return BagError(
        f'{topic} of {bag.path} does not overlap the images in time, or is never within '
        f'{MAX_OFFSET_S:g} s and half a period of one: it is stamped {span(others)}, they are '
        f'{span(images)}. Record both with one clock, or go without the topic by its option and '
        f'{NO_TOPIC}'
    )


def _check_space(scratch: Path, count: int, size: tuple[int, int]) -> None:
    """A full disk would end the process without a word, once a file in memory cannot grow."""
    needed = count * size[0] * size[1] * BYTES_PER_PIXEL
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise BagError(
            f'{count} images of {size[1]}x{size[0]} need {needed / 1e9:.1f} GB of scratch space, '
            f'but {scratch} has {free / 1e9:.1f} GB: set TMPDIR to a folder with more'
        )
