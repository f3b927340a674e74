"""The topics of a bag: what each is, and which is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
ODOMETRY = 'nav_msgs/msg/Odometry'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
STATIC_TRANSFORMS, TRANSFORMS = '/tf_static', '/tf'
NO_TOPIC = 'none'  # in place of a topic: go without
DEPTH_ENCODINGS = ('16UC1', '32FC1')
GREY_OR_DEPTH = 'mono16'  # some drivers call their depth so


class BagError(ValueError):
    """A bag that cannot be used as asked; the message names the remedy."""


class BagDamaged(BagError):
    """A bag that could be read up to here."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    name: str
    type: str
    count: int  # messages
    detail: str  # the encoding of an image topic, else ''
    is_depth: bool  # an image of depths rather than of colours

    @property
    def is_camera(self) -> bool:
        """Whether this is an image topic to train on."""
        return self.type in (IMAGE, COMPRESSED_IMAGE) and not self.is_depth


@dataclass(frozen=True)
class CameraTopics:
    """Where a camera's images and intrinsics are."""

    image: str
    camera_info: str

    @property
    def topics(self) -> tuple[str, str]:
        """Both."""
        return self.image, self.camera_info


# Where a bag has no topic of a kind
REMEDIES = {
    'odom': 'record nav_msgs/Odometry, or take the motion from a network (pose: learned)',
}


def choose(path: Path, kind: str, names: list[str], wanted: str) -> str:
    """
    Take the topic named, or the only one there is.

    :param kind: 'image', 'depth', ...; an option of the command is named after it
    :raises BagError: none or several fit; lists them and the option to choose by
    """
    option = f'--{kind.replace("_", "-")}'
    listed = ', '.join(names) or 'none'
    if wanted and wanted not in names:
        raise BagError(f"{path} has no {kind} topic '{wanted}'; there are: {listed}")
    if not wanted and len(names) != 1:
        raise BagError(
            f'{path} has {len(names)} {kind} topics ({listed}): choose one with {option} TOPIC'
            if names
            else f'{path} has no {kind} topic: {REMEDIES.get(kind, "record one")}'
        )
    return wanted or names[0]


def check_depth_topics(depth: str, lidar: str) -> None:
    """Refuse to have two topics of measured depth by name; raises BagError."""
    if {depth, lidar}.isdisjoint(('', NO_TOPIC)):
        raise BagError(
            f'depth is measured by {depth} or by {lidar}, not both: name one, or give the '
            f'other as {NO_TOPIC} (--depth, --lidar)'
        )


def info_beside(image: str) -> str:
    """Where image_transport puts the CameraInfo of an image topic."""
    return f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


def is_depth(topic: str, detail: str, infos: list[str]) -> bool:
    """Whether images are of depths; 16 bits of grey are a camera's where nothing says depth."""
    encoding = detail.partition(';')[0].strip()
    if encoding == GREY_OR_DEPTH:
        return 'depth' in topic or info_beside(topic) not in infos
    return encoding in DEPTH_ENCODINGS or 'compressedDepth' in detail
