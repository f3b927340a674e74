"""What is to be read of a bag, found out before anything long begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tc_depth_training.data.bag import (
    NO_TOPIC,
    ODOMETRY,
    Bag,
    BagError,
    CameraTopics,
)
from tc_depth_training.data.measured_depth import check_shape
from tc_depth_training.data.topics import COMPRESSED_IMAGE
from tc_depth_training.data.transform_tree import Chain

Found = TypeVar('Found')


@dataclass(frozen=True)
class Wanted:
    """What is asked of every bag; empty topics: the only one there is, 'none': go without."""

    size: tuple[int, int]  # (height, width) of training
    # Empty: the only camera. Else one recording for each of these that a bag has
    image_topics: tuple[str, ...] = ()
    camera_info_topic: str = ''  # empty: the one beside the images
    odometry_topic: str = ''
    depth_topic: str = ''
    lidar_topic: str = ''


@dataclass(frozen=True)
class OdometrySource:
    """Where a camera's poses come from."""

    topic: str  # of the odometry
    child_T_camera: Chain  # from the camera to what the odometry is of


@dataclass(frozen=True)
class DepthSource:
    """Where measured depth comes from."""

    topic: str
    count: int  # messages
    camera_T_points: NDArray[np.float64] | None  # (4, 4), of a lidar; None: depth images


@dataclass(frozen=True)
class Source:
    """One camera of one bag, and what is read beside it."""

    bag: Path
    name: str  # of the bag, with the topic where it gives several
    camera: CameraTopics
    count: int  # images, as the bag says
    size: tuple[int, int]  # (height, width) of training
    odometry: OdometrySource | None
    depth: DepthSource | None
    notes: tuple[str, ...]  # what was decided, for people


def find_sources(path: Path, wanted: Wanted, pose_required: bool) -> list[Source]:
    """
    Find the cameras of a bag and what goes with them, by its first messages.

    :raises BagError: it cannot be opened, has none of the cameras, or lacks a CameraInfo or,
        where it is required, odometry
    """
    with Bag(path) as bag:
        names = {topic.name for topic in bag.topics() if topic.is_camera}
        chosen = [topic for topic in wanted.image_topics if topic in names]
        if wanted.image_topics and not chosen:
            raise BagError(
                f'{path} has none of the image topics {", ".join(wanted.image_topics)}; there '
                f'are: {", ".join(sorted(names)) or "none"}'
            )
        cameras = [bag.find_camera(c, wanted.camera_info_topic) for c in chosen or ['']]
        several = len(cameras) > 1
        return [_source(bag, camera, wanted, pose_required, several) for camera in cameras]


def _source(
    bag: Bag, camera: CameraTopics, wanted: Wanted, pose_required: bool, several: bool
) -> Source:
    name = f'{bag.path.resolve().name}{camera.image if several else ""}'
    topic = next(t for t in bag.topics() if t.name == camera.image)
    notes: list[str] = []
    if topic.detail.startswith('mono16'):
        notes.append(f'{name}: {camera.image} is mono16: taken as grey images, not as depth')
    frame_id = (
        bag.first(camera.image).header.frame_id or bag.first(camera.camera_info).header.frame_id
    )

    def find_odometry() -> OdometrySource | None:
        return _find_odometry(bag, wanted.odometry_topic, frame_id, pose_required)

    def find_depth() -> DepthSource | None:
        return _find_depth_images(bag, camera, wanted.depth_topic)

    def find_lidar() -> DepthSource | None:
        return _find_lidar(bag, wanted.lidar_topic, frame_id)

    without = f'{name} goes without'
    if pose_required:
        odometry = find_odometry()
    else:
        odometry = _if_possible(find_odometry, f'{without} odometry', notes)
    depth = None
    # What is named goes first; else an image has more than a lidar
    named_lidar = wanted.lidar_topic not in ('', NO_TOPIC)
    for kind, find in (('depth images', find_depth), ('a lidar', find_lidar)):
        if depth is None and not (named_lidar and find is find_depth):
            depth = _if_possible(find, f'{without} {kind}', notes)
    return Source(bag.path, name, camera, topic.count, wanted.size, odometry, depth, tuple(notes))


def _if_possible(find: Callable[[], Found | None], without: str, notes: list[str]) -> Found | None:
    """What is nice to have, or None with a line that says why not."""
    try:
        return find()
    except ValueError as error:  # BagError is one, and so is a message that cannot be decoded
        notes.append(f'{without}: {error}')
        return None


def _find_odometry(bag: Bag, wanted: str, frame_id: str, required: bool) -> OdometrySource | None:
    topic = bag.find_optional('odom', wanted)
    if not topic and required:
        topic = bag.find('odom', ODOMETRY)  # says that there is none
    if not topic:
        return None
    return OdometrySource(topic, bag.chain(bag.first(topic).child_frame_id, frame_id, topic))


def _find_depth_images(bag: Bag, camera: CameraTopics, wanted: str) -> DepthSource | None:
    name = bag.find_optional('depth', wanted)
    if not name:
        return None
    topic = next(t for t in bag.topics() if t.name == name)
    if topic.type == COMPRESSED_IMAGE:
        raise BagError(f'{name} is compressed: record it as a raw image (image_transport)')
    model = bag.camera_model(camera)
    if model.maps is not None:
        raise BagError(f'{camera.image} is rectified here, and {name} would not fit any longer')
    message = bag.first(name)
    check_shape(name, (message.height, message.width), model.size)
    return DepthSource(name, topic.count, None)


def _find_lidar(bag: Bag, wanted: str, frame_id: str) -> DepthSource | None:
    name = bag.find_optional('lidar', wanted)
    if not name:
        return None
    camera_T_points = bag.static_transform(frame_id, bag.first(name).header.frame_id, name)
    count = next(t.count for t in bag.topics() if t.name == name)
    return DepthSource(name, count, camera_T_points)
