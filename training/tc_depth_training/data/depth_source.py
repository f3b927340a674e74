"""Where a bag's measured depth comes from, found out by its first messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.decoder import is_rectified
from tc_depth_training.data.bag import NO_TOPIC, Bag, BagError, CameraTopics
from tc_depth_training.data.measured_depth import check_shape
from tc_depth_training.data.topics import IMAGE, Topic, choose


@dataclass(frozen=True)
class DepthSource:
    """A topic of measured depth."""

    topic: str
    count: int  # messages
    camera_T_points: NDArray[np.float64] | None  # (4, 4), of a lidar; None: depth images
    is_raw: bool  # depth images that fit the raw image, and are rectified as it is


def find_depth_images(bag: Bag, camera: CameraTopics, wanted: str = '') -> DepthSource | None:
    """
    Find the depth images that fit a camera's, pixel by pixel; None where the bag has none.

    They do where their frame is the camera's, as aligned and registered depth has it. A topic
    that is named is taken at its word, whatever its frame.

    :param wanted: a topic; or 'none', to go without
    :raises BagError: those that there are do not fit, are compressed, or are several
    """
    found = [topic for topic in bag.topics() if topic.is_depth]
    if wanted == NO_TOPIC or not (found or wanted):
        return None
    fitting = found if wanted else _of_frame(bag, camera, found)
    raw = [topic.name for topic in fitting if topic.type == IMAGE]
    # Depth recorded raw and compressed is one depth
    name = choose(bag.path, 'depth', raw or [topic.name for topic in fitting], wanted)
    topic = next(topic for topic in found if topic.name == name)
    if topic.type != IMAGE:
        raise BagError(
            f'{name} of {bag.path} is compressed depth, which is not read here: republish it as '
            'a raw image (image_transport republish) and record that, or go without by '
            f'--depth {NO_TOPIC}'
        )
    first = bag.first(name)
    check_shape(
        f'{name} of {bag.path}', (first.height, first.width), bag.camera_model(camera).size
    )
    return DepthSource(name, topic.count, None, is_raw=not is_rectified(name))


def find_lidar(bag: Bag, camera: CameraTopics, wanted: str = '') -> DepthSource | None:
    """
    Find a lidar whose points can be drawn into a camera's images; None where the bag has none.

    :param wanted: a topic; or 'none', to go without
    :raises BagError: there are several, or nothing links its frame to the camera's
    """
    name = bag.find_optional('lidar', wanted)
    if not name:
        return None
    lidar_frame = bag.first(name).header.frame_id
    camera_T_points = bag.static_transform(bag.frame_id(camera), lidar_frame, name)
    count = next(topic.count for topic in bag.topics() if topic.name == name)
    return DepthSource(name, count, camera_T_points, is_raw=False)


def _of_frame(bag: Bag, camera: CameraTopics, found: list[Topic]) -> list[Topic]:
    """Those whose frame is the camera's, or is not said; raises BagError where none is."""
    frame_id = bag.frame_id(camera).lstrip('/')
    frames = {topic: bag.first(topic.name).header.frame_id.lstrip('/') for topic in found}
    fitting = [topic for topic in found if not frame_id or frames[topic] in ('', frame_id)]
    if not fitting:
        listed = ', '.join(f"{topic.name} of '{frame}'" for topic, frame in frames.items())
        raise BagError(
            f"{bag.path} has depth of another frame than the image's, '{frame_id}': {listed}; "
            'record depth that is registered to the image (align_depth of the driver, or '
            f'depth_image_proc), name it by --depth if it is, or go without by --depth {NO_TOPIC}'
        )
    return fitting
