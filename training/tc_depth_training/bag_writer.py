"""
Write views as a ROS 2 bag, with the topics of a depth camera and its odometry.

    /camera/color/image_raw/compressed    sensor_msgs/CompressedImage (or image_raw: Image)
    /camera/color/camera_info             sensor_msgs/CameraInfo, rectified: no distortion
    /odom                                 nav_msgs/Odometry, pose of the optical frame in ``world``
    /camera/depth/image_rect_raw          sensor_msgs/Image

The messages of a view share its stamp, in the header and in the bag. A bag appears whole or not
at all. No ROS installation is needed.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores import ros2_jazzy as jazzy

from tc_depth_training.synthetic import SyntheticView

ImageFormat = Literal['jpeg', 'png']
DepthEncoding = Literal['16UC1', '32FC1']
BagFormat = Literal['mcap', 'sqlite3']

WORLD_FRAME = 'world'
JPEG_QUALITY = 95
PLUGINS = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}


@dataclass(frozen=True)
class _Channel:
    """One topic of the bag, and how to make its message from a view."""

    topic: str
    msgtype: str
    build: Callable[[SyntheticView], object]


def quaternion_from_matrix(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    The unit quaternion of a rotation matrix.

    :param rotation: (3, 3)
    :return: (4,) in ROS's order x, y, z, w, with w >= 0
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation
    # Row k is 4 q_k q: the row of the largest component loses no digits to cancellation.
    products = np.array(
        [
            [1 + a - e - i, b + d, c + g, h - f],
            [b + d, 1 - a + e - i, f + h, c - g],
            [c + g, f + h, 1 - a - e + i, d - b],
            [h - f, c - g, d - b, 1 + a + e + i],
        ]
    )
    row = products[np.argmax(np.diag(products))]
    quaternion: NDArray[np.float64] = row / np.linalg.norm(row)
    return -quaternion if quaternion[3] < 0.0 else quaternion


def _header(view: SyntheticView, frame_id: str) -> jazzy.std_msgs__msg__Header:
    seconds, nanoseconds = divmod(view.stamp_ns, 1_000_000_000)
    stamp = jazzy.builtin_interfaces__msg__Time(sec=seconds, nanosec=nanoseconds)
    return jazzy.std_msgs__msg__Header(stamp=stamp, frame_id=frame_id)


def _compressed_image(view: SyntheticView, frame_id: str, image_format: ImageFormat) -> object:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if image_format == 'jpeg' else []
    _, data = cv2.imencode(f'.{image_format}', view.image[..., ::-1], options)
    return jazzy.sensor_msgs__msg__CompressedImage(
        header=_header(view, frame_id),
        format=f'bgr8; {image_format} compressed bgr8',
        data=np.asarray(data, np.uint8).ravel(),
    )


def _pad_rows(rows: NDArray[np.uint8], step: int | None) -> NDArray[np.uint8]:
    """Lengthen rows of bytes (H, N) with zeros to ``step`` bytes, as some camera drivers do."""
    length = rows.shape[1]
    if step is not None and step < length:
        raise ValueError(f'step is {step}, but a row has {length} bytes: give at least that')
    return np.pad(rows, ((0, 0), (0, (step or length) - length)))


def _image(
    view: SyntheticView,
    frame_id: str,
    encoding: str,
    pixels: NDArray[np.generic],
    step: int | None = None,
) -> object:
    """An Image message of little-endian pixels (H, W) or (H, W, 3)."""
    height, width = pixels.shape[:2]
    rows = _pad_rows(np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1), step)
    return jazzy.sensor_msgs__msg__Image(
        header=_header(view, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.ravel(),
    )


def _raw_image(view: SyntheticView, frame_id: str, step: int | None) -> object:
    return _image(view, frame_id, 'rgb8', view.image, step)


def _depth_image(view: SyntheticView, frame_id: str, encoding: DepthEncoding) -> object:
    """REP 118: 32FC1 in metres, or 16UC1 in millimetres where 0 is invalid."""
    if encoding == '32FC1':
        return _image(view, frame_id, encoding, view.depth.astype('<f4'))
    millimetres = np.rint(1000.0 * view.depth.astype(np.float64))
    representable = (millimetres > 0.0) & (millimetres <= np.iinfo(np.uint16).max)  # not NaN
    return _image(view, frame_id, encoding, np.where(representable, millimetres, 0).astype('<u2'))


def _camera_info(view: SyntheticView, frame_id: str) -> object:
    height, width = view.depth.shape
    return jazzy.sensor_msgs__msg__CameraInfo(
        header=_header(view, frame_id),
        height=height,
        width=width,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=view.K.astype(np.float64).ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([view.K, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=jazzy.sensor_msgs__msg__RegionOfInterest(0, 0, 0, 0, False),
    )


def _pose(world_T_camera: NDArray[np.float64]) -> jazzy.geometry_msgs__msg__Pose:
    x, y, z, w = quaternion_from_matrix(world_T_camera[:3, :3]).tolist()
    return jazzy.geometry_msgs__msg__Pose(
        position=jazzy.geometry_msgs__msg__Point(*world_T_camera[:3, 3].tolist()),
        orientation=jazzy.geometry_msgs__msg__Quaternion(x, y, z, w),
    )


def _odometry(view: SyntheticView, child_frame_id: str) -> object:
    """The pose is exact; the twist is not known and stays zero."""
    zero = jazzy.geometry_msgs__msg__Vector3(0.0, 0.0, 0.0)
    twist = jazzy.geometry_msgs__msg__Twist(linear=zero, angular=zero)
    return jazzy.nav_msgs__msg__Odometry(
        header=_header(view, WORLD_FRAME),
        child_frame_id=child_frame_id,
        pose=jazzy.geometry_msgs__msg__PoseWithCovariance(
            pose=_pose(view.world_T_camera), covariance=np.zeros(36)
        ),
        twist=jazzy.geometry_msgs__msg__TwistWithCovariance(twist=twist, covariance=np.zeros(36)),
    )


def _colour_channel(
    base: str, frame_id: str, compressed: bool, image_format: ImageFormat, step: int | None
) -> _Channel:
    topic = f'{base}/color/image_raw'
    if compressed:
        build = partial(_compressed_image, frame_id=frame_id, image_format=image_format)
        return _Channel(f'{topic}/compressed', 'sensor_msgs/msg/CompressedImage', build)
    return _Channel(
        topic, 'sensor_msgs/msg/Image', partial(_raw_image, frame_id=frame_id, step=step)
    )


def _info_channel(base: str, frame_id: str) -> _Channel:
    build = partial(_camera_info, frame_id=frame_id)
    return _Channel(f'{base}/color/camera_info', 'sensor_msgs/msg/CameraInfo', build)


def _odometry_channel(frame_id: str) -> _Channel:
    build = partial(_odometry, child_frame_id=frame_id)
    return _Channel('/odom', 'nav_msgs/msg/Odometry', build)


def _depth_channel(base: str, frame_id: str, encoding: DepthEncoding) -> _Channel:
    build = partial(_depth_image, frame_id=frame_id, encoding=encoding)
    return _Channel(f'{base}/depth/image_rect_raw', 'sensor_msgs/msg/Image', build)


def _write_messages(
    writer: Writer, views: Iterable[SyntheticView], channels: Sequence[_Channel]
) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    connections = [
        writer.add_connection(channel.topic, channel.msgtype, typestore=store)
        for channel in channels
    ]
    empty = True
    for view in views:
        empty = False
        for channel, connection in zip(channels, connections, strict=True):
            data = store.serialize_cdr(channel.build(view), channel.msgtype)
            writer.write(connection, view.stamp_ns, data)
    if empty:
        raise ValueError('there are no views to write: a bag needs at least one')


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name} is {value!r}: choose one of {", ".join(choices)}')


def write_bag(
    path: Path | str,
    views: Iterable[SyntheticView],
    *,
    camera: str = '/camera',
    compressed: bool = True,
    image_format: ImageFormat = 'jpeg',
    step: int | None = None,
    depth: bool = True,
    depth_encoding: DepthEncoding = '16UC1',
    odometry: bool = True,
    bag_format: BagFormat = 'mcap',
) -> None:
    """
    Write views, which may be a generator, as a bag at ``path``.

    :param path: the bag's folder; must not exist. Its parents are made.
    :param camera: namespace of the camera's topics. The optical frame is named after it.
    :param compressed: CompressedImage, else raw rgb8 Image
    :param image_format: of compressed images: ``jpeg`` (quality 95) or ``png`` (lossless)
    :param step: bytes per row of raw colour images, for padded rows; default: 3 * width
    :param depth_encoding: ``16UC1`` in millimetres or ``32FC1`` in metres
    :param bag_format: storage of the bag
    :raises FileExistsError: when there is something at ``path``
    """
    path = Path(path)
    _check_choice('image_format', image_format, get_args(ImageFormat))
    _check_choice('depth_encoding', depth_encoding, get_args(DepthEncoding))
    _check_choice('bag_format', bag_format, PLUGINS)
    if path.exists():
        raise FileExistsError(f'{path} exists already: remove it or choose another path')

    base = f'/{camera.strip("/")}'
    frame_id = f'{base[1:].replace("/", "_")}_color_optical_frame'
    channels = [
        _colour_channel(base, frame_id, compressed, image_format, step),
        _info_channel(base, frame_id),
    ]
    channels += [_odometry_channel(frame_id)] if odometry else []
    channels += [_depth_channel(base, frame_id, depth_encoding)] if depth else []

    path.parent.mkdir(parents=True, exist_ok=True)
    # The bag gets its final name within a temporary folder, because its file and its metadata
    # bear that name too. The folder vanishes, with what is in it, when anything fails.
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as folder:
        bag = Path(folder) / path.name
        with Writer(bag, version=9, storage_plugin=PLUGINS[bag_format]) as writer:
            _write_messages(writer, views, channels)
        bag.rename(path)
