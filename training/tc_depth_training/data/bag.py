"""Read the camera, the depth and the odometry of a ROS 2 bag, without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.frame import Frame, decode_depth, stamp_ns
from tc_depth_training.data.point_cloud import decode_points
from tc_depth_training.data.static_transforms import StaticTransforms
from tc_depth_training.data.trajectory import Trajectory

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
ODOMETRY = 'nav_msgs/msg/Odometry'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
STATIC_TRANSFORMS = '/tf_static'
NO_TOPIC = 'none'  # in place of a topic: go without
DEPTH_ENCODINGS = ('16UC1', '32FC1', 'mono16')


class BagError(ValueError):
    """A bag that cannot be used as asked; the message names the remedy."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    name: str
    type: str
    count: int  # messages
    detail: str  # the encoding of an image topic, else ''

    @property
    def is_depth(self) -> bool:
        """Whether this is an image of depths rather than of colours."""
        return self.detail in DEPTH_ENCODINGS or 'compressedDepth' in self.detail

    @property
    def is_camera(self) -> bool:
        """Whether this is an image topic to train on."""
        return self.type in (IMAGE, COMPRESSED_IMAGE) and not self.is_depth


@dataclass(frozen=True)
class CameraTopics:
    """Where a camera's images and intrinsics are."""

    image: str
    camera_info: str


@dataclass(frozen=True)
class DepthMap:
    """Measured depth."""

    stamp_ns: int
    depth: NDArray[np.float32]  # (H, W), z in m, NaN where invalid


@dataclass(frozen=True)
class PointCloud:
    """What a lidar measured."""

    stamp_ns: int
    frame_id: str
    points: NDArray[np.float64]  # (N, 3) in m, in that frame


class Bag:
    """An open bag; use it as a context manager. Stamps are the headers', never the recorder's."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f'bag {self.path} does not exist')
        try:
            self._reader = AnyReader(
                [self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY)
            )
        except (AnyReaderError, OSError) as error:
            raise BagError(f'{self.path} is not a bag that can be read: {error}') from error

    def __enter__(self) -> Bag:
        """Open the bag."""
        try:
            self._reader.open()
        except Exception as error:  # rosbags raises a class of its own per storage
            raise BagError(f'{self.path} is not a bag that can be read: {error}') from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bag."""
        self._reader.close()

    @property
    def duration_s(self) -> float:
        """Time from the first to the last message, as recorded."""
        return float(self._reader.duration) * 1e-9

    def topics(self) -> list[Topic]:
        """All topics with messages, sorted by name."""
        found = [
            Topic(c.topic, c.msgtype, c.msgcount, self._image_detail(c))
            for c in self._reader.connections
            if c.msgcount
        ]
        return sorted(found, key=lambda topic: topic.name)

    def find_camera(self, image: str = '', camera_info: str = '') -> CameraTopics:
        """
        Find the camera: the topics named, or the only ones there are.

        :raises BagError: none or several fit; lists them and the option to choose by
        """
        images = [t.name for t in self.topics() if t.is_camera]
        # A camera recorded raw and compressed is one camera
        twins = [f'{name}/compressed' for name in images]
        chosen = _choose(self.path, 'image', [n for n in images if n not in twins], image)
        infos = [t.name for t in self.topics() if t.type == CAMERA_INFO]
        beside = f'{chosen.removesuffix("/compressed").rpartition("/")[0]}/camera_info'
        if not camera_info and beside in infos:
            camera_info = beside
        return CameraTopics(chosen, _choose(self.path, 'camera_info', infos, camera_info))

    def find(self, kind: str, message_type: str, name: str = '') -> str:
        """Find the only topic of a type, or check the one named; raises BagError."""
        names = [t.name for t in self.topics() if t.type == message_type]
        return _choose(self.path, kind, names, name)

    def frames(self, camera: CameraTopics) -> Iterator[Frame]:
        """
        Decode all frames in the order recorded, each with the CameraInfo nearest in time.

        As the node does, rectify them, unless the topic's name says that they are.

        :raises ValueError: an image or CameraInfo cannot be decoded, or they do not fit
        """
        decoder = FrameDecoder(rectify=not is_rectified(camera.image))
        infos = [message for message in self._messages(camera.camera_info)]
        stamps = np.array([stamp_ns(info.header) for info in infos])
        for message in self._messages(camera.image):
            nearest = int(np.abs(stamps - stamp_ns(message.header)).argmin())
            yield decoder.decode(message, infos[nearest])

    def camera_model(self, camera: CameraTopics) -> CameraModel:
        """How the first frame is rectified; raises ValueError as :meth:`frames` does."""
        camera_info = next(self._messages(camera.camera_info))
        return CameraModel.from_message(camera_info, rectify=not is_rectified(camera.image))

    def find_optional(self, kind: str, wanted: str = '') -> str:
        """
        Find the topic named, or the only one of a kind; '' where there is none.

        :param kind: 'depth', 'lidar' or 'odom'
        :param wanted: a topic; or 'none', to go without
        :raises BagError: several fit, or the one named is not there
        """
        names = {
            'depth': [t.name for t in self.topics() if t.is_depth],
            'lidar': [t.name for t in self.topics() if t.type == POINT_CLOUD],
            'odom': [t.name for t in self.topics() if t.type == ODOMETRY],
        }[kind]
        if wanted == NO_TOPIC or not (names or wanted):
            return ''
        return _choose(self.path, kind, names, wanted)

    def depth_maps(self, topic: str = '') -> Iterator[DepthMap]:
        """Decode a depth topic: the one named, or the only one; raises BagError."""
        topics = {t.name: t for t in self.topics() if t.is_depth}
        chosen = _choose(self.path, 'depth', list(topics), topic)
        if topics[chosen].type == COMPRESSED_IMAGE:
            raise BagError(
                f'{chosen} of {self.path} is compressed depth, which is not read here: republish '
                'it as a raw image (image_transport republish) and record that, or go without '
                f'by --depth {NO_TOPIC}'
            )
        for message in self._messages(chosen):
            yield DepthMap(stamp_ns(message.header), decode_depth(message))

    def point_clouds(self, topic: str) -> Iterator[PointCloud]:
        """Decode a topic of point clouds; raises ValueError where one cannot be decoded."""
        for message in self._messages(topic):
            frame_id = message.header.frame_id
            yield PointCloud(stamp_ns(message.header), frame_id, decode_points(message))

    def trajectory(self, topic: str, camera_frame_id: str) -> Trajectory:
        """
        Poses of the camera's optical frame from an odometry topic.

        :raises BagError: the odometry is of another frame, and /tf_static does not link the two
        """
        messages = list(self._messages(topic))
        child = messages[0].child_frame_id
        extrinsics = None
        if child != camera_frame_id:
            extrinsics = self.static_transform(child, camera_frame_id, topic)
        return Trajectory.from_poses(
            [stamp_ns(m.header) for m in messages], [m.pose.pose for m in messages], extrinsics
        )

    def static_transform(self, target: str, source: str, needed_by: str) -> NDArray[np.float64]:
        """
        Transform ``target_T_source`` from /tf_static, (4, 4).

        :param needed_by: the topic that needs it, for the message
        :raises BagError: nothing links the two frames; lists the links that there are
        """
        transforms = StaticTransforms.from_messages(self._messages(STATIC_TRANSFORMS))
        found = transforms.between(target, source)
        if found is None:
            raise BagError(
                f"{self.path}: {needed_by} needs the transform between '{target}' and "
                f"'{source}', but {STATIC_TRANSFORMS} links {transforms.links()}: record "
                f'{STATIC_TRANSFORMS}, with a chain between these frames, or go without '
                f'{needed_by}'
            )
        return found

    def _messages(self, topic: str) -> Iterator[Any]:
        connections = [c for c in self._reader.connections if c.topic == topic]
        if not connections:
            return  # the reader would take none for all
        try:
            for connection, _, raw in self._reader.messages(connections):
                yield self._reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # as above: whatever the storage and its compression raise
            raise BagError(f'{self.path} is damaged within {topic}: {error}') from error

    def _image_detail(self, connection: Connection) -> str:
        if connection.msgtype not in (IMAGE, COMPRESSED_IMAGE):
            return ''
        message = next(self._messages(connection.topic))
        return str(message.encoding if connection.msgtype == IMAGE else message.format)


def _choose(path: Path, kind: str, names: list[str], wanted: str) -> str:
    option = f'--{kind.replace("_", "-")}'
    listed = ', '.join(names) or 'none'
    if wanted and wanted not in names:
        raise BagError(f"{path} has no {kind} topic '{wanted}'; there are: {listed}")
    if not wanted and len(names) != 1:
        raise BagError(
            f'{path} has {len(names)} {kind} topics ({listed}): choose one with {option} TOPIC'
            if names
            else f'{path} has no {kind} topic: record one'
        )
    return wanted or names[0]
