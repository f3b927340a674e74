"""Where a bag's measured depth comes from, found out by its first messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.camera_info import Calibration
from tc_depth_ros.frames.decoder import is_rectified
from tc_depth_training.data.bag import NO_TOPIC, Bag, BagError, CameraTopics
from tc_depth_training.data.measured_depth import check_shape
from tc_depth_training.data.topics import (
    CAMERA_INFO,
    IMAGE,
    Topic,
    check_depth_topics,
    choose,
    info_beside,
)

SAME_PLACE = 1e-3  # of two frames: rad and m between them
FOCAL_TOLERANCE = 0.03  # relative, between the focal lengths of depth and image


@dataclass(frozen=True)
class DepthSource:
    """A topic of measured depth."""

    topic: str
    count: int  # messages
    camera_T_points: NDArray[np.float64] | None  # (4, 4), of a lidar; None: depth images
    is_raw: bool  # depth images that fit the raw image, and are rectified as it is


@dataclass(frozen=True)
class FoundDepth:
    """What measures the depth of a camera's images."""

    source: DepthSource | None
    passed_over: tuple[str, ...]  # what there is beside that cannot be used, and why


def find_depth(
    bag: Bag, camera: CameraTopics, depth: str = '', lidar: str = '', vouched: bool = True
) -> FoundDepth:
    """
    Find what measures a camera's depth: depth images, else a lidar; by name, that one alone.

    :param depth: a topic of depth images; or 'none', to go without
    :param lidar: likewise of a lidar
    :param vouched: a topic that is named fits the camera, whatever its frame
    :raises BagError: both are named
    """
    check_depth_topics(depth, lidar)
    if depth not in ('', NO_TOPIC):
        lidar = NO_TOPIC
    elif lidar not in ('', NO_TOPIC):
        depth = NO_TOPIC
    passed_over = []
    try:
        images = _find_images(bag, camera, depth, vouched)
        if images:
            return FoundDepth(images, ())
    except ValueError as error:  # BagError is one, and so is a message that cannot be decoded
        passed_over.append(f'depth images: {error}')
    try:
        return FoundDepth(_find_lidar(bag, camera, lidar), tuple(passed_over))
    except ValueError as error:
        return FoundDepth(None, (*passed_over, f'a lidar: {error}'))


def _find_images(bag: Bag, camera: CameraTopics, wanted: str, vouched: bool) -> DepthSource | None:
    """Find the depth images that fit the camera's pixel by pixel; raises ValueError."""
    found = [topic for topic in bag.topics() if topic.is_depth]
    if wanted == NO_TOPIC or not (found or wanted):
        return None
    names = [topic.name for topic in found]
    if not wanted:
        fitting = _fitting(bag, camera, found)
        # Depth recorded raw and compressed is one depth
        names = [t.name for t in fitting if t.type == IMAGE] or [t.name for t in fitting]
    name = choose(bag.path, 'depth', names, wanted)
    topic = next(topic for topic in found if topic.name == name)
    if wanted and not vouched:
        _fitting(bag, camera, [topic])
    if topic.type != IMAGE:
        raise BagError(
            f'{name} of {bag.path} is compressed depth, which is not read here: republish it as '
            'a raw image (image_transport republish) and record that, or go without by '
            f'--depth {NO_TOPIC}'
        )
    first, info = bag.first(name), Calibration.from_message(bag.first(camera.camera_info))
    check_shape(f'{name} of {bag.path}', (first.height, first.width), info.image_size)
    return DepthSource(name, topic.count, None, is_raw=not _is_rectified(bag, name))


def _find_lidar(bag: Bag, camera: CameraTopics, wanted: str) -> DepthSource | None:
    """Find a lidar whose points can be drawn into the camera's images; raises ValueError."""
    name = bag.find_optional('lidar', wanted)
    if not name:
        return None
    lidar_frame = bag.first(name).header.frame_id
    camera_T_points = bag.static_transform(bag.frame_id(camera), lidar_frame, name)
    count = next(topic.count for topic in bag.topics() if topic.name == name)
    return DepthSource(name, count, camera_T_points, is_raw=False)


def _fitting(bag: Bag, camera: CameraTopics, found: list[Topic]) -> list[Topic]:
    """Those that fit the camera, as far as frames and CameraInfos tell; raises BagError."""
    misfits = {topic: _misfit(bag, camera, topic.name) for topic in found}
    fitting = [topic for topic, misfit in misfits.items() if not misfit]
    if not fitting:
        listed = ', '.join(f'{topic.name} {misfit}' for topic, misfit in misfits.items())
        raise BagError(
            f'{bag.path} has no depth that is registered to {camera.image}: {listed}. Record such '
            '(align_depth of the driver, or depth_image_proc), name it by --depth if it is, or go '
            f'without by --depth {NO_TOPIC}'
        )
    return fitting


def _misfit(bag: Bag, camera: CameraTopics, depth: str) -> str:
    """Why depth images do not fit a camera's, in words; '' where nothing says so."""
    ours = bag.frame_id(camera)
    theirs = bag.first(depth).header.frame_id
    if ours and theirs and ours != theirs and not _same_place(bag, ours, theirs, depth):
        return f"is of frame '{theirs}', the image of '{ours}'"
    info = _info_beside(bag, depth)
    if info is None or not info.k[0] > 0:
        return ''
    image_info = bag.first(camera.camera_info)
    focal = info.k[0] * image_info.width / info.width
    known = [f for f in (image_info.k[0], image_info.p[0]) if f > 0]
    if known and all(abs(focal / f - 1) > FOCAL_TOLERANCE for f in known):
        return (
            f'has a focal length of {focal:.0f} px at the size of the image, which has '
            f'{known[0]:.0f}'
        )
    return ''


def _same_place(bag: Bag, ours: str, theirs: str, depth: str) -> bool:
    """Whether two frames differ by a slash, or by /tf_static in their names only."""
    try:
        transform = bag.static_transform(ours, theirs, depth)
    except BagError:
        return False
    return bool(np.abs(transform - np.eye(4)).max() < SAME_PLACE)


def _is_rectified(bag: Bag, depth: str) -> bool:
    """Whether depth images come rectified, by their topic's name or by the CameraInfo beside."""
    info = _info_beside(bag, depth)
    if is_rectified(depth) or info is None:
        return is_rectified(depth)
    try:
        return CameraModel.from_message(info, rectify=True).maps is None
    except ValueError:  # it says nothing
        return False


def _info_beside(bag: Bag, depth: str) -> Any | None:
    """The first CameraInfo beside depth images; None where the bag has none."""
    name = info_beside(depth)
    has_one = any(topic.name == name and topic.type == CAMERA_INFO for topic in bag.topics())
    return bag.first(name) if has_one else None
