"""What is to be read of a bag, found out before anything long begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tc_depth_training.data.bag import (
    ODOMETRY,
    Bag,
    BagError,
    CameraTopics,
)
from tc_depth_training.data.depth_source import DepthSource, find_depth
from tc_depth_training.data.stretch import WHOLE, Interval, Stretch
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
class Source:
    """One camera of one bag, and what is read beside it."""

    bag: Path
    name: str  # of the bag, with the topic where it gives several, and its stretch
    camera: CameraTopics
    count: int  # images, as the bag says; once it is cut, those of its stretch
    size: tuple[int, int]  # (height, width) of training
    odometry: OdometrySource | None
    depth: DepthSource | None
    notes: tuple[str, ...]  # what was decided, for people
    stretch: Stretch = WHOLE  # that is asked for
    interval: Interval | None = None  # the stamps of that, once it is cut


def find_sources(
    path: Path, wanted: Wanted, pose_required: bool, stretch: Stretch = WHOLE
) -> list[Source]:
    """
    Find the cameras of a bag and what goes with them, by its first messages.

    :param stretch: of each camera's own time
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
        found = [_source(bag, camera, wanted, pose_required, several) for camera in cameras]
    return [replace(s, name=f'{s.name}{stretch.suffix}', stretch=stretch) for s in found]


def cut_to_stretch(source: Source, quiet: bool) -> Source:
    """
    Find the stamps of a source's stretch, and count what is in it, by a pass over the bag.

    :raises BagError: it has no image, or the camera's clock jumps back
    """
    if source.stretch.is_whole or source.interval is not None:
        return source
    topics = {source.camera.image, *([source.depth.topic] if source.depth else [])}
    with Bag(source.bag) as bag:
        stamps = bag.stamps_until_damage(topics, quiet)
    images = stamps[source.camera.image]
    interval = source.stretch.interval_of(images, f'{source.camera.image} of {source.bag}')
    # What is behind a damage is later than what is before it
    lost = source.count - len(images) if images.max() < interval.end_ns else 0
    count = int(interval.all_held(images).sum()) + lost
    depth = source.depth
    if depth is not None:
        depth = replace(depth, count=int(interval.all_held(stamps[depth.topic]).sum()))
    return replace(source, count=count, depth=depth, interval=interval)


def _source(
    bag: Bag, camera: CameraTopics, wanted: Wanted, pose_required: bool, several: bool
) -> Source:
    name = f'{bag.path.resolve().name}{camera.image if several else ""}'
    topic = next(t for t in bag.topics() if t.name == camera.image)
    notes: list[str] = []
    if topic.detail.startswith('mono16'):
        notes.append(f'{name}: {camera.image} is mono16: taken as grey images, not as depth')

    def find_odometry() -> OdometrySource | None:
        return _find_odometry(bag, camera, wanted.odometry_topic, pose_required)

    without = f'{name} goes without'
    if pose_required:
        odometry = find_odometry()
    else:
        odometry = _if_possible(find_odometry, f'{without} odometry', notes)
    # Of several cameras a depth that is named is one's
    depth = find_depth(bag, camera, wanted.depth_topic, wanted.lidar_topic, vouched=not several)
    notes += (f'{without} {reason}' for reason in depth.passed_over)
    return Source(
        bag.path, name, camera, topic.count, wanted.size, odometry, depth.source, tuple(notes)
    )


def _if_possible(find: Callable[[], Found | None], without: str, notes: list[str]) -> Found | None:
    """What is nice to have, or None with a line that says why not."""
    try:
        return find()
    except ValueError as error:  # BagError is one, and so is a message that cannot be decoded
        notes.append(f'{without}: {error}')
        return None


def _find_odometry(
    bag: Bag, camera: CameraTopics, wanted: str, required: bool
) -> OdometrySource | None:
    topic = bag.find_optional('odom', wanted)
    if not topic and required:
        topic = bag.find('odom', ODOMETRY)  # says that there is none
    if not topic:
        return None
    child = bag.first(topic).child_frame_id
    return OdometrySource(topic, bag.chain(child, bag.frame_id(camera), topic))
