"""What an evaluation reads of a bag: points, transforms, and truth matched to frames in time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores import ros2_jazzy as jazzy
from test_data import merge

from tc_depth_training.bag_writer import quaternion_from_matrix, write_bag
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.point_cloud import decode_points, depth_of_points
from tc_depth_training.data.transform_tree import TransformTree
from tc_depth_training.evaluation.sequence import FrameSequence, Topics, read_sequence
from tc_depth_training.synthetic import SyntheticView, render_recording

Doubles = NDArray[np.float64]
SECOND = 1_000_000_000
FLOAT32, FLOAT64, INT16 = 7, 8, 3
CAMERA_FRAME = 'camera_color_optical_frame'
DEPTH, LIDAR = '/camera/depth/image_rect_raw', '/lidar/points'


def turned(axis_angle: tuple[float, float, float], shift: tuple[float, float, float]) -> Doubles:
    transform = np.eye(4)
    transform[:3, :3] = cv2.Rodrigues(np.array(axis_angle, dtype=float))[0]
    transform[:3, 3] = shift
    return transform


# As on a robot: the lidar's x is forward and its z up, the camera's z is forward and its y down
AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
CAMERA_T_LIDAR = turned((0.02, -0.05, 0.03), (0.1, -0.2, 0.05)) @ AXES
BASE_T_CAMERA = np.linalg.inv(AXES) @ turned((0.1, 0.2, -0.1), (0.3, 0.1, 0.8))


# Points


def cloud(
    points: object,
    datatype: int = FLOAT32,
    big_endian: bool = False,
    offsets: tuple[int, ...] = (0, 4, 8),
    point_step: int = 12,
    height: int = 1,
    row_padding: int = 0,
    names: str = 'xyz',
) -> SimpleNamespace:
    """A PointCloud2 of points (N, 3), filled with a byte that no padding may leak from."""
    xyz = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    width = len(xyz) // height
    row_step = width * point_step + row_padding
    data = np.full(height * row_step, 0x7F, dtype=np.uint8)
    for index, point in enumerate(xyz):
        start = index // width * row_step + index % width * point_step
        for offset, value in zip(offsets, point, strict=True):
            raw = np.array(value, ('>' if big_endian else '<') + ('f8' if datatype == 8 else 'f4'))
            data[start + offset : start + offset + raw.nbytes] = np.frombuffer(raw.tobytes(), 'u1')
    fields = [
        SimpleNamespace(name=name, offset=offset, datatype=datatype, count=1)
        for name, offset in zip(names, offsets, strict=True)
    ]
    return SimpleNamespace(
        height=height,
        width=width,
        fields=fields,
        is_bigendian=big_endian,
        point_step=point_step,
        row_step=row_step,
        data=data,
    )


POINTS = [[1, -2, 3], [4, 5.5, -6], [0.25, 0, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    'layout',
    [
        {},
        {'point_step': 32, 'offsets': (16, 4, 20)},
        {'height': 2, 'row_padding': 10},
        {'height': 2, 'point_step': 22, 'row_padding': 3},
        {'datatype': FLOAT64, 'offsets': (0, 8, 16), 'point_step': 24},
        {'big_endian': True},
        {'big_endian': True, 'datatype': FLOAT64, 'offsets': (1, 9, 17), 'point_step': 26},
    ],
)
def test_points_are_decoded_whatever_their_layout(layout) -> None:
    np.testing.assert_array_equal(decode_points(cloud(POINTS, **layout)), POINTS)


def test_points_that_are_not_finite_are_left_out() -> None:
    points = [[1, 2, 3], [np.nan, 2, 3], [1, np.inf, 3], [4, 5, 6]]
    np.testing.assert_array_equal(decode_points(cloud(points)), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize('shape', [(0, 0), (1, 0), (0, 1)])
def test_an_empty_cloud_has_no_points(shape) -> None:
    empty = cloud([])
    empty.height, empty.width = shape
    assert decode_points(empty).shape == (0, 3)


@pytest.mark.parametrize('mistake', [{'names': 'xyi'}, {'datatype': INT16}])
def test_points_without_x_y_z_as_floats_are_refused(mistake) -> None:
    with pytest.raises(ValueError, match='needed are x, y, z as FLOAT32 or FLOAT64'):
        decode_points(cloud(POINTS, **mistake))


@pytest.mark.parametrize('mistake', ['data', 'row_step'])
def test_a_truncated_cloud_is_refused(mistake) -> None:
    broken = cloud(POINTS, height=2)
    if mistake == 'data':
        broken.data = broken.data[:-1]
    else:
        broken.row_step -= 1
    with pytest.raises(ValueError, match='truncated'):
        decode_points(broken)


K = np.array([[100.0, 0, 16], [0, 120, 12], [0, 0, 1]])
SIZE = (24, 32)


def test_points_are_drawn_where_the_camera_sees_them() -> None:
    # At z 2: u = 16 + 100 * 0.1 / 2 = 21, v = 12 - 120 * 0.05 / 2 = 9
    depth = depth_of_points(np.array([[0.1, -0.05, 2.0]]), np.eye(4), K, SIZE)
    assert depth[9, 21] == 2
    assert np.isfinite(depth).sum() == 1
    moved = depth_of_points(
        np.array([[0.0, 0, 1.5]]), turned((0, 0, 0), (0.1, -0.05, 0.5)), K, SIZE
    )
    np.testing.assert_array_equal(moved, depth)


@pytest.mark.parametrize('order', [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_nearest_point_of_a_pixel_is_seen(order) -> None:
    points = np.array([[0.0, 0, 5], [0, 0, 2], [0, 0, 9]])[order]
    assert depth_of_points(points, np.eye(4), K, SIZE)[12, 16] == 2


def test_points_behind_or_beside_the_image_are_not_drawn() -> None:
    points = [[0.0, 0, -2], [0, 0, 0], [-0.17, 0, 1], [0.16, 0, 1], [0, -0.11, 1], [0, 0.1, 1]]
    assert np.isnan(depth_of_points(np.array(points), np.eye(4), K, SIZE)).all()
    assert np.isnan(depth_of_points(np.empty((0, 3)), np.eye(4), K, SIZE)).all()


# Static transforms


def stamped(parent: str, child: str, parent_T_child: Doubles, stamp_ns: int = 0) -> Any:
    """A TransformStamped that a bag may hold."""
    x, y, z, w = quaternion_from_matrix(parent_T_child[:3, :3]).tolist()
    return jazzy.geometry_msgs__msg__TransformStamped(
        header=header(stamp_ns, parent),
        child_frame_id=child,
        transform=jazzy.geometry_msgs__msg__Transform(
            translation=jazzy.geometry_msgs__msg__Vector3(*parent_T_child[:3, 3].tolist()),
            rotation=jazzy.geometry_msgs__msg__Quaternion(x, y, z, w),
        ),
    )


def header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, SECOND)
    stamp = jazzy.builtin_interfaces__msg__Time(sec=seconds, nanosec=nanoseconds)
    return jazzy.std_msgs__msg__Header(stamp=stamp, frame_id=frame_id)


def tree(*transforms: tuple[str, str, Doubles]) -> TransformTree:
    """Each link in a message of its own, as several publishers would."""
    made = TransformTree()
    for link in transforms:
        made.add_constant(jazzy.tf2_msgs__msg__TFMessage([stamped(*link)]))
    return made


def between(transforms: TransformTree, target: str, source: str) -> Doubles:
    """Transform target_T_source of frames that are linked."""
    chain = transforms.chain(target, source)
    assert chain is not None
    return chain.transform()


A, B, C = (
    turned((0.1, 0.2, 0.3), (1, 2, 3)),
    turned((-1, 0.5, 0), (0, -2, 1)),
    turned((0, 0, 2), (5, 0, 0)),
)


def test_frames_are_linked_through_their_common_root_in_both_directions() -> None:
    transforms = tree(('base', 'mast', A), ('mast', 'camera', B), ('base', 'lidar', C))
    camera_T_lidar = np.linalg.inv(A @ B) @ C
    np.testing.assert_allclose(between(transforms, 'camera', 'lidar'), camera_T_lidar, atol=1e-12)
    np.testing.assert_allclose(
        between(transforms, 'lidar', 'camera'), np.linalg.inv(camera_T_lidar), atol=1e-12
    )
    np.testing.assert_allclose(between(transforms, 'base', 'camera'), A @ B, atol=1e-12)
    np.testing.assert_allclose(between(transforms, 'camera', 'mast'), np.linalg.inv(B), atol=1e-12)
    np.testing.assert_allclose(between(transforms, 'camera', 'camera'), np.eye(4), atol=1e-12)


def test_leading_slashes_do_not_matter() -> None:
    transforms = tree(('/base', 'camera', A))
    np.testing.assert_allclose(between(transforms, 'base', '/camera'), A, atol=1e-12)


def test_a_later_transform_replaces_an_earlier() -> None:
    transforms = tree(('base', 'camera', A), ('base', 'camera', B))
    np.testing.assert_allclose(between(transforms, 'base', 'camera'), B, atol=1e-12)


def test_frames_without_a_chain_are_not_linked() -> None:
    transforms = tree(('base', 'camera', A), ('map', 'lidar', B))
    assert transforms.chain('camera', 'lidar') is None
    assert transforms.chain('camera', 'nowhere') is None
    assert transforms.listed(moves=False) == 'base -> camera, map -> lidar'
    assert tree().chain('camera', 'lidar') is None
    assert tree().listed(moves=False) == 'nothing'


def test_a_loop_ends() -> None:
    looped = tree(('a', 'b', A), ('b', 'a', B), ('a', 'camera', C))
    assert looped.chain('camera', 'lidar') is None
    np.testing.assert_allclose(between(looped, 'a', 'camera'), C, atol=1e-9)


# Bags


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(6, 96, 128)


def write_messages(path: Path, messages: Iterable[tuple[str, Any, int]]) -> Path:
    """Write (topic, message, recorder's stamp) as a bag."""
    store, connections = get_typestore(Stores.ROS2_JAZZY), {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, message, stamp in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], stamp, store.serialize_cdr(message, kind))
    return path


def messages_of(path: Path, topic: str) -> list[Any]:
    with AnyReader([path]) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        return [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]


def write_static_transforms(path: Path, *links: tuple[str, str, Doubles]) -> Path:
    message = jazzy.tf2_msgs__msg__TFMessage([stamped(*link) for link in links])
    return write_messages(path, [('/tf_static', message, 0)])


def scanned(view: SyntheticView, every: int = 4) -> Doubles:
    """Every so many pixels of a view as points of the lidar, (N, 3)."""
    v, u = np.mgrid[1 : view.depth.shape[0] : every, 2 : view.depth.shape[1] : every]
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
    points = pixels @ np.linalg.inv(view.K).T * view.depth[v, u].reshape(-1, 1)
    lidar_T_camera = np.linalg.inv(CAMERA_T_LIDAR)
    return np.asarray(points @ lidar_T_camera[:3, :3].T + lidar_T_camera[:3, 3])


def write_scans(path: Path, views: Iterable[SyntheticView], late_ns: int = 0) -> Path:
    def message(view: SyntheticView) -> Any:
        made = cloud(scanned(view), FLOAT64, offsets=(0, 8, 16), point_step=28)
        fields = [jazzy.sensor_msgs__msg__PointField(**vars(field)) for field in made.fields]
        values = vars(made) | {'fields': fields, 'is_dense': True}
        return jazzy.sensor_msgs__msg__PointCloud2(
            header=header(view.stamp_ns + late_ns, 'velodyne'), **values
        )

    return write_messages(path, [(LIDAR, message(view), view.stamp_ns) for view in views])


def lidar_bag(folder: Path, views: list[SyntheticView], linked: bool = True) -> Path:
    """A camera, its odometry and a lidar 7 ms late; depth images only if merged in by others."""
    write_bag(folder / 'camera', views, image_format='png', depth=False)
    write_scans(folder / 'scans', views, late_ns=7_000_000)
    base_T_lidar = BASE_T_CAMERA @ CAMERA_T_LIDAR
    links = [('base_link', CAMERA_FRAME, BASE_T_CAMERA)]
    links += [('base_link', 'velodyne', base_T_lidar)] if linked else []
    write_static_transforms(folder / 'transforms', *links)
    return merge(folder / 'lidar', *((folder / x, '') for x in ('camera', 'scans', 'transforms')))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., FrameSequence]:
    """Read a bag with topics by keyword."""
    scratch = tmp_path / 'scratch'
    scratch.mkdir()

    def call(bag: Path, **topics: str) -> FrameSequence:
        return read_sequence(bag, Topics(**topics), scratch)

    return call


def truth_stamps(sequence: FrameSequence) -> list[bool]:
    """Which frames have a truth."""
    assert sequence.truth is not None
    return [bool(np.isfinite(depth).any()) for depth in sequence.truth]


def test_a_sequence_holds_what_was_recorded(read, views, tmp_path) -> None:
    write_bag(tmp_path / 'bag', views, image_format='png', depth_encoding='32FC1')
    sequence = read(tmp_path / 'bag')
    np.testing.assert_array_equal(sequence.images, [view.image for view in views])
    np.testing.assert_array_equal(sequence.truth, [view.depth for view in views])
    np.testing.assert_allclose(sequence.K, [view.K for view in views])
    assert sequence.stamps_ns.tolist() == [view.stamp_ns for view in views]
    poses = [view.world_T_camera for view in views]
    np.testing.assert_allclose(sequence.world_T_camera, poses, atol=1e-9)
    assert (sequence.truth_topic, sequence.sparse) == (DEPTH, False)
    assert sequence.frame(2).frame_id == CAMERA_FRAME


def test_frames_twice_and_out_of_order_are_read_once_in_order(read, views, tmp_path) -> None:
    views = [replace(v, K=np.diag([1 + i, 1, 1]) @ v.K) for i, v in enumerate(views)]
    shuffled = [views[i] for i in (3, 0, 4, 4, 2, 1, 0)]
    write_bag(tmp_path / 'bag', shuffled, image_format='png', depth_encoding='32FC1')
    sequence = read(tmp_path / 'bag')
    np.testing.assert_allclose(sequence.K, [view.K for view in views[:5]])
    assert sequence.stamps_ns.tolist() == [view.stamp_ns for view in views[:5]]
    np.testing.assert_array_equal(sequence.images, [view.image for view in views[:5]])
    np.testing.assert_array_equal(sequence.truth, [view.depth for view in views[:5]])
    assert isinstance(sequence.images, np.memmap)  # not all in memory


def with_depth_of(
    folder: Path, views: list[SyntheticView], measured: list[SyntheticView], **options: Any
) -> Path:
    """The camera of some views and the depth images of others."""
    write_bag(folder / 'camera', views, depth=False)
    write_bag(folder / 'measured', measured, depth_encoding='32FC1', **options)
    return merge(folder / 'bag', (folder / 'camera', ''), (folder / 'measured', 'depth'))


def level(view: SyntheticView, depth_m: float, after_ns: int = 0) -> SyntheticView:
    """The view with the same depth everywhere, which tells it from others, measured later."""
    stamp_ns = view.stamp_ns + after_ns
    return replace(view, depth=np.full_like(view.depth, depth_m), stamp_ns=stamp_ns)


def levels(sequence: FrameSequence) -> list[float]:
    assert sequence.truth is not None
    return [float(np.median(depth)) for depth in sequence.truth]


def test_truth_at_a_higher_rate_gives_each_frame_the_nearest(read, views, tmp_path) -> None:
    measured = [
        level(view, 10.0 * (i + 1) + j, after_ns=round(offset * 1e9))
        for i, view in enumerate(views)
        for j, offset in enumerate((-0.03, 0.005, 0.04))
    ]
    found = levels(read(with_depth_of(tmp_path, views, measured)))
    assert found == [11, 21, 31, 41, 51, 61]


def test_the_recorders_stamp_does_not_count(read, views, tmp_path) -> None:
    measured = [level(view, 1.0 + i) for i, view in enumerate(views)]
    write_bag(tmp_path / 'camera', views, depth=False)
    write_bag(tmp_path / 'measured', measured, depth_encoding='32FC1')
    # All arrive at the recorder within 35 ns, a second late
    arrivals = enumerate(messages_of(tmp_path / 'measured', DEPTH))
    late = write_messages(
        tmp_path / 'late', [(DEPTH, m, views[0].stamp_ns + SECOND + 7 * i) for i, m in arrivals]
    )
    path = merge(tmp_path / 'bag', (tmp_path / 'camera', ''), (late, ''))
    assert levels(read(path)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize('factor', [2, 3])
def test_larger_depth_is_read_at_the_middle_of_each_pixel(read, views, tmp_path, factor) -> None:
    rows, columns = views[0].depth.shape
    ramp = np.indices((factor * rows, factor * columns)).sum(axis=0) / factor + 1
    grown = np.repeat(np.repeat(views[0].image, factor, 0), factor, 1)
    large = replace(views[0], depth=ramp.astype(np.float32), image=grown)
    sequence = read(with_depth_of(tmp_path, views[:2], [large]))
    expected = np.indices((rows, columns)).sum(axis=0) + (factor - 1) / factor + 1
    # Of an odd number of pixels one is in the middle, of an even one either of two
    np.testing.assert_allclose(sequence.truth[0], expected, atol=0.01 if factor % 2 else 0.51)


def test_a_lidar_is_drawn_into_the_images(read, views, tmp_path) -> None:
    sequence = read(lidar_bag(tmp_path, views))
    assert (sequence.truth_topic, sequence.sparse) == (LIDAR, True)
    for view, truth in zip(views, sequence.truth, strict=True):
        expected = np.full_like(view.depth, np.nan)
        expected[1::4, 2::4] = view.depth[1::4, 2::4]
        np.testing.assert_allclose(truth, expected, rtol=1e-5)


def test_a_lidar_that_nothing_links_is_refused_with_both_names(read, views, tmp_path) -> None:
    path = lidar_bag(tmp_path, views, linked=False)
    with pytest.raises(BagError) as caught:
        read(path)
    for words in ("'velodyne'", f"'{CAMERA_FRAME}'", LIDAR, 'record /tf_static', 'base_link ->'):
        assert words in str(caught.value)
    assert read(path, lidar='none').truth is None


def test_the_topic_that_is_named_is_the_truth(read, views, tmp_path) -> None:
    lidar_bag(tmp_path, views)
    write_bag(tmp_path / 'depth', views)
    both = merge(tmp_path / 'both', (tmp_path / 'lidar', ''), (tmp_path / 'depth', 'depth'))
    assert read(both).truth_topic == DEPTH
    assert read(both, depth='none').truth_topic == LIDAR
    assert read(both, lidar=LIDAR).truth_topic == LIDAR
    assert read(both, lidar='none').truth_topic == DEPTH
    assert read(both, lidar='none', depth='none').truth is None
    with pytest.raises(BagError, match='not both'):
        read(both, lidar=LIDAR, depth=DEPTH)


def test_compressed_depth_is_refused_with_the_remedy(read, views, tmp_path) -> None:
    write_bag(tmp_path / 'camera', views, depth=False)
    topic = f'{DEPTH}/compressedDepth'
    message = jazzy.sensor_msgs__msg__CompressedImage(
        header=header(views[0].stamp_ns, CAMERA_FRAME),
        format='16UC1; compressedDepth png',
        data=np.zeros(40, np.uint8),
    )
    write_messages(tmp_path / 'depth', [(topic, message, 0)])
    path = merge(tmp_path / 'bag', (tmp_path / 'camera', ''), (tmp_path / 'depth', ''))
    with pytest.raises(BagError, match='compressed depth.*republish'):
        read(path)
    assert read(path, depth='none').truth is None


# Odometry of the robot's base


@pytest.fixture
def odometry_of_base(views, tmp_path) -> Path:
    """A camera whose odometry is of base_link; /tf_static is another bag beside it."""
    write_bag(tmp_path / 'camera', views)
    base = [
        replace(v, world_T_camera=v.world_T_camera @ np.linalg.inv(BASE_T_CAMERA)) for v in views
    ]
    write_bag(tmp_path / 'base', base)
    messages = messages_of(tmp_path / 'base', '/odom')
    of_base = [('/odom', replace(m, child_frame_id='base_link'), 0) for m in messages]
    write_messages(tmp_path / 'odom', of_base)
    write_static_transforms(tmp_path / 'transforms', ('base_link', CAMERA_FRAME, BASE_T_CAMERA))
    return merge(tmp_path / 'bag', (tmp_path / 'camera', '/camera'), (tmp_path / 'odom', ''))


def test_odometry_of_the_base_is_brought_to_the_camera(
    read, views, odometry_of_base, tmp_path
) -> None:
    path = merge(tmp_path / 'linked', (odometry_of_base, ''), (tmp_path / 'transforms', ''))
    poses = [view.world_T_camera for view in views]
    np.testing.assert_allclose(read(path).world_T_camera, poses, atol=1e-9)


def test_odometry_of_the_base_needs_a_static_transform(read, odometry_of_base) -> None:
    with pytest.raises(BagError) as caught:
        read(odometry_of_base)
    for words in ("'base_link'", f"'{CAMERA_FRAME}'", '/odom', 'record /tf_static', 'go without'):
        assert words in str(caught.value)
    assert read(odometry_of_base, odom='none').world_T_camera is None


def test_a_bag_that_does_not_fit_on_the_disk_is_refused_at_once(
    views, tmp_path, monkeypatch
) -> None:
    write_bag(tmp_path / 'bag', views)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(BagError, match='GB of scratch space.*TMPDIR'):
        read_sequence(tmp_path / 'bag', Topics(), tmp_path)
