"""Read the camera, the depth and the odometry of a ROS 2 bag, without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified
from tc_depth_ros.frames.frame import Frame, decode_depth, stamp_ns
from tc_depth_training.data.pairing import CameraInfoPairing, Pair
from tc_depth_training.data.point_cloud import decode_points
from tc_depth_training.data.stretch import EVERYTHING, Interval, Stretch
from tc_depth_training.data.topics import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    NO_TOPIC,
    ODOMETRY,
    POINT_CLOUD,
    STATIC_TRANSFORMS,
    TRANSFORMS,
    BagDamaged,
    BagError,
    CameraTopics,
    Topic,
    choose,
    info_beside,
    is_depth,
)
from tc_depth_training.data.trajectory import CameraTracks, CameraTrajectory
from tc_depth_training.data.transform_tree import Chain, TransformTree

__all__ = [
    'NO_TOPIC',
    'ODOMETRY',
    'Bag',
    'BagDamaged',
    'BagError',
    'CameraTopics',
    'DepthMap',
    'Received',
]

BEGINNING_S = 10  # of /tf, in which a robot has told all its links


@dataclass(frozen=True)
class Received:
    """One message, as it was recorded."""

    topic: str
    message: Any


@dataclass(frozen=True)
class DepthMap:
    """Measured depth."""

    stamp_ns: int
    depth: NDArray[np.float32]  # (H, W), z in m, NaN where invalid


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
            raise _unreadable(self.path, error) from error

    def __enter__(self) -> Bag:
        """Open the bag."""
        try:
            self._reader.open()
        except Exception as error:  # rosbags raises a class of its own per storage
            raise _unreadable(self.path, error) from error
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
        return list(self._topics)

    @cached_property
    def _topics(self) -> list[Topic]:
        used = [c for c in self._reader.connections if c.msgcount]
        infos = [c.topic for c in used if c.msgtype == CAMERA_INFO]
        found = []
        for c in used:
            detail = self._image_detail(c)
            of_depth = is_depth(c.topic, detail, infos)
            found.append(Topic(c.topic, c.msgtype, c.msgcount, detail, of_depth))
        return sorted(found, key=lambda topic: topic.name)

    def find_camera(self, image: str = '', camera_info: str = '') -> CameraTopics:
        """
        Find the camera: the topics named, or the only ones there are.

        :raises BagError: none or several fit; lists them and the option to choose by
        """
        images = [t.name for t in self.topics() if t.is_camera]
        # A camera recorded raw and compressed is one camera
        twins = [f'{name}/compressed' for name in images]
        chosen = choose(self.path, 'image', [n for n in images if n not in twins], image)
        infos = [t.name for t in self.topics() if t.type == CAMERA_INFO]
        if not camera_info and info_beside(chosen) in infos:
            camera_info = info_beside(chosen)
        return CameraTopics(chosen, choose(self.path, 'camera_info', infos, camera_info))

    def find(self, kind: str, message_type: str, name: str = '') -> str:
        """Find the only topic of a type, or check the one named; raises BagError."""
        names = [t.name for t in self.topics() if t.type == message_type]
        return choose(self.path, kind, names, name)

    def frames(
        self,
        camera: CameraTopics,
        decoder: FrameDecoder | None = None,
        within: Interval = EVERYTHING,
    ) -> Iterator[Frame]:
        """
        Decode all frames in the order recorded, each with the CameraInfo nearest in time.

        As the node does, rectify them, unless the topic's name says that they are.

        :param decoder: to be asked for the camera of the frame; None: one of its own
        :param within: the frames that are wanted
        :raises ValueError: an image or CameraInfo cannot be decoded, or they do not fit
        """
        decoder = decoder or FrameDecoder(rectify=not is_rectified(camera.image))
        for pair in self.read(camera):
            if isinstance(pair, Pair) and within.holds(stamp_ns(pair.image.header)):
                yield decoder.decode(pair.image, pair.camera_info)

    def read(
        self, camera: CameraTopics, others: Collection[str] = ()
    ) -> Iterator[Pair | Received]:
        """
        Read a camera's images with their CameraInfos, and other topics beside, in one pass.

        :raises BagDamaged: after all that could be read
        """
        pairing = CameraInfoPairing(self.first(camera.camera_info))
        try:
            for log_ns, topic, message in self._recorded({*camera.topics, *others}):
                if topic == camera.image:
                    pairing.add_image(message, log_ns)
                elif topic == camera.camera_info:
                    pairing.add_info(message)
                else:
                    yield Received(topic, message)
                yield from pairing.settled()
        except BagDamaged:
            yield from pairing.rest()
            raise
        yield from pairing.rest()

    def first(self, topic: str) -> Any:
        """The first message of a topic that has some."""
        return next(self._messages(topic))

    def frame_id(self, camera: CameraTopics) -> str:
        """The camera's frame, of its first image, or where that says none of its CameraInfo."""
        said: str = self.first(camera.image).header.frame_id
        return said or str(self.first(camera.camera_info).header.frame_id)

    def image_at(self, topic: str, log_ns: int, image_stamp_ns: int) -> Any:
        """The image that was recorded at log_ns with this header stamp; raises BagError."""
        for _, _, message in self._recorded({topic}, log_ns, log_ns + 1):
            if stamp_ns(message.header) == image_stamp_ns:
                return message
        raise BagError(
            f'{self.path} no longer has the image of {topic} stamped {image_stamp_ns}: it changed '
            'since the run began'
        )

    def camera_model(self, camera: CameraTopics) -> CameraModel:
        """How the first frame is rectified; raises ValueError as :meth:`frames` does."""
        camera_info = self.first(camera.camera_info)
        return CameraModel.from_message(camera_info, rectify=not is_rectified(camera.image))

    def find_optional(self, kind: str, wanted: str = '') -> str:
        """
        Find the topic named, or the only one of a kind; '' where there is none.

        :param kind: 'lidar' or 'odom'
        :param wanted: a topic; or 'none', to go without
        :raises BagError: several fit, or the one named is not there
        """
        names = {
            'lidar': [t.name for t in self.topics() if t.type == POINT_CLOUD],
            'odom': [t.name for t in self.topics() if t.type == ODOMETRY],
        }[kind]
        if wanted == NO_TOPIC or not (names or wanted):
            return ''
        return choose(self.path, kind, names, wanted)

    def stamps_ns(self, topic: str) -> NDArray[np.int64]:
        """Header stamps of a topic's messages, in the order recorded, (N,)."""
        return np.array([stamp_ns(m.header) for m in self._messages(topic)], dtype=np.int64)

    def interval(self, camera: CameraTopics, stretch: Stretch) -> tuple[Interval, int]:
        """
        Find the images that a stretch holds.

        :return: their stamps, and how many they are, which the bag says of all of them
        :raises BagError: there are none, or the camera's clock jumps back
        """
        count = next(t.count for t in self.topics() if t.name == camera.image)
        if stretch.is_whole:
            return EVERYTHING, count
        stamps_ns = self.stamps_until_damage({camera.image})[camera.image]
        interval = stretch.interval_of(stamps_ns, f'{camera.image} of {self.path}')
        return interval, int(interval.all_held(stamps_ns).sum())

    def stamps_until_damage(
        self, topics: Collection[str], quiet: bool = False
    ) -> dict[str, NDArray[np.int64]]:
        """Header stamps by topic in the order recorded, (N,), in one pass as far as it goes."""
        stamps: dict[str, list[int]] = {topic: [] for topic in topics}
        total = sum(t.count for t in self.topics() if t.name in topics)
        label = f'looking at the stamps of {self.path.name}'
        with tqdm(None, label, total, leave=False, delay=1.0, disable=quiet) as progress:
            try:
                for _, topic, message in self._recorded(topics):
                    stamps[topic].append(stamp_ns(message.header))
                    progress.update()
            except BagDamaged:
                pass
        return {topic: np.array(found, dtype=np.int64) for topic, found in stamps.items()}

    def depth_maps(self, topic: str) -> Iterator[DepthMap]:
        """Decode depth images; raises ValueError where it cannot."""
        for message in self._messages(topic):
            yield DepthMap(stamp_ns(message.header), decode_depth(message))

    def point_clouds(self, topic: str) -> Iterator[NDArray[np.float64]]:
        """Decode a lidar's points, (N, 3) in m in its frame; raises ValueError where it cannot."""
        return map(decode_points, self._messages(topic))

    def trajectory(self, topic: str, camera_frame_id: str) -> CameraTrajectory:
        """
        Poses of the camera's optical frame from an odometry topic.

        :raises BagError: the odometry is of another frame, and nothing links the two
        """
        chain = self.chain(self.first(topic).child_frame_id, camera_frame_id, topic)
        tracks = CameraTracks(topic, chain)
        for _, name, message in self._recorded(tracks.topics):
            tracks.add(name, message)
        return tracks.trajectory()

    def chain(self, target: str, source: str, needed_by: str) -> Chain:
        """
        Find the links from a target to a source frame: of /tf_static, and of /tf what that lacks.

        Of /tf only the beginning is looked at, until the chain is whole.

        :param needed_by: the topic that needs it, for the message
        :raises BagError: nothing links the two frames; lists the links that there are
        """
        if target.lstrip('/') == source.lstrip('/'):
            return Chain()
        tree = self._static_tree()
        found = tree.chain(target, source)
        moving = self._beginning(TRANSFORMS)
        while found is None and (message := next(moving, None)) is not None:
            tree.add_moving(message)
            found = tree.chain(target, source)
        if found is None:
            linked = (
                f'{STATIC_TRANSFORMS} links {tree.listed(moves=False)}, and {TRANSFORMS}, in its '
                f'first {BEGINNING_S} s, {tree.listed(moves=True)}'
            )
            topics = f'{STATIC_TRANSFORMS} and {TRANSFORMS}'
            raise self._unlinked(target, source, needed_by, linked, topics)
        return found

    def static_transform(self, target: str, source: str, needed_by: str) -> NDArray[np.float64]:
        """
        Transform ``target_T_source`` from /tf_static, (4, 4).

        :param needed_by: the topic that needs it, for the message
        :raises BagError: nothing links the two frames; lists the links that there are
        """
        tree = self._static_tree()
        found = tree.chain(target, source)
        if found is None:
            linked = f'{STATIC_TRANSFORMS} links {tree.listed(moves=False)}'
            raise self._unlinked(target, source, needed_by, linked, STATIC_TRANSFORMS)
        return found.transform()

    def _static_tree(self) -> TransformTree:
        tree = TransformTree()
        for message in self._messages(STATIC_TRANSFORMS):
            tree.add_constant(message)
        return tree

    def _unlinked(
        self, target: str, source: str, needed_by: str, linked: str, topics: str
    ) -> BagError:
        return BagError(
            f"{self.path}: {needed_by} needs the transform between '{target}' and '{source}', but "
            f'{linked}: record {topics}, with a chain between these frames, or go without '
            f'{needed_by}'
        )

    def _beginning(self, topic: str) -> Iterator[Any]:
        """What was recorded of a topic in the first seconds after its first message."""
        end_ns = None
        for log_ns, _, message in self._recorded({topic}):
            end_ns = end_ns or log_ns + BEGINNING_S * 1_000_000_000
            if log_ns > end_ns:
                return
            yield message

    def _messages(self, topic: str) -> Iterator[Any]:
        for _, _, message in self._recorded({topic}):
            yield message

    def _recorded(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[int, str, Any]]:
        """When each message was recorded, in ns; its topic; and itself."""
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return  # the reader would take none for all
        recorded = self._reader.messages(connections, start, stop)
        while True:
            # Only what is read: what a caller raises at a message is no damage of the bag
            try:
                connection, log_ns, raw = next(recorded)
                message = self._reader.deserialize(raw, connection.msgtype)
            except StopIteration:
                return
            except Exception as error:  # as above: whatever storage and compression raise
                listed = ', '.join(sorted(topics))
                raise BagDamaged(f'{self.path} is damaged within {listed}: {error}') from error
            yield log_ns, connection.topic, message

    def _image_detail(self, connection: Connection) -> str:
        if connection.msgtype not in (IMAGE, COMPRESSED_IMAGE):
            return ''
        message = self.first(connection.topic)
        return str(message.encoding if connection.msgtype == IMAGE else message.format)


def _unreadable(path: Path, error: Exception) -> BagError:
    """Say what may mend a bag that cannot be opened, which is most often one cut short."""
    remedy = 'give the folder of a ROS 2 bag, or its MCAP or sqlite3 file'
    data = [path] if path.is_file() else sorted(path.glob('*.mcap'))
    if path.is_dir() and not (path / 'metadata.yaml').exists():
        remedy = f'if its recording was cut off, try: ros2 bag reindex {path}'
    elif data and data[0].suffix == '.mcap':
        remedy = f'if it was cut off, try: mcap recover {data[0]} -o recovered.mcap'
    return BagError(f'{path} is not a bag that can be read: {error}; {remedy}')
