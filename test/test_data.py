"""From a bag to windows of frames: poses over time, pairing by time, variety, configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import cos, pi, sin
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import batch_of, recording_of, recording_of_views, shared_bag, tensor_of
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from tc_depth_ros.geometry.reprojection import warp
from tc_depth_ros.geometry.transform import invert_transform
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config_file import load_config
from tc_depth_training.data.bag import ODOMETRY, Bag, BagError, CameraTopics
from tc_depth_training.data.load import read_recording
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.trajectory import Trajectory
from tc_depth_training.data.windows import (
    Batch,
    WindowDataset,
    Windows,
    find_windows,
    fitting_time_step,
)
from tc_depth_training.inspect import inspect_bag
from tc_depth_training.losses.photometric import photometric_error
from tc_depth_training.synthetic import SyntheticView
from tc_depth_training.training_data import load_training_data

SECOND = 1_000_000_000


# Poses over time


def about_z(degrees: float) -> NDArray[np.float64]:
    """Quaternion x, y, z, w of a turn about z."""
    half = np.deg2rad(degrees) / 2
    return np.array([0, 0, sin(half), cos(half)])


def trajectory(*stamps_s: float) -> Trajectory:
    """At t s the camera stands at (t, 2 t, 0), turned by 90 t degrees about z."""
    t = np.array(stamps_s)
    positions = np.stack([t, 2 * t, 0 * t], axis=1)
    quaternions = np.array([about_z(90 * s) for s in stamps_s])
    return Trajectory((t * SECOND).astype(np.int64), positions, quaternions)


def test_between_two_poses_the_camera_is_where_it_would_be() -> None:
    pose = trajectory(0.0, 1.0, 1.2).at(SECOND // 4, max_gap_s=1.0)
    np.testing.assert_allclose(pose[:3, 3], [0.25, 0.5, 0])
    np.testing.assert_allclose(pose[:3, 0], [cos(pi / 8), sin(pi / 8), 0], atol=1e-12)
    np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])


@pytest.mark.parametrize('stamp_s', [-0.01, 1.3])
def test_outside_its_time_a_trajectory_has_no_pose(stamp_s) -> None:
    assert trajectory(0.0, 1.0, 1.2).at(round(stamp_s * SECOND), max_gap_s=10.0) is None


def test_in_a_gap_there_is_no_pose_but_at_its_ends_there_is() -> None:
    poses = trajectory(0.0, 1.0, 1.2)
    assert poses.at(SECOND // 2) is None
    assert poses.at(round(1.1 * SECOND)) is not None
    for stamp_s in (0.0, 1.0, 1.2):
        assert poses.at(round(stamp_s * SECOND))[0, 3] == pytest.approx(stamp_s)


def test_poses_out_of_order_and_twice_are_sorted_out() -> None:
    received = np.array([[x, 0.0, 0, 0, 0, 0, 1] for x in (2.0, 1.0, 2.0)])
    poses = Trajectory.of(np.array([20, 10, 20]), received)
    assert poses.stamps_ns.tolist() == [10, 20]
    assert poses.at(15)[0, 3] == pytest.approx(1.5)


# Windows by time


def recording(
    stamps_s: NDArray[np.float64],
    moves: Callable[[float], bool] = lambda t: True,
    without_pose: tuple[int, ...] | None = None,
) -> Recording:
    """A camera that pans over a texture at 20 px/s, 80 px wide, while it moves."""
    texture = np.random.default_rng(0).normal(size=(60, 400))
    texture = cv2.normalize(cv2.GaussianBlur(texture, None, 2), None, 0, 255, cv2.NORM_MINMAX)
    moving = np.array([moves(t) for t in stamps_s])
    offsets = np.cumsum(20 * np.diff(stamps_s, prepend=0) * moving).round().astype(int)
    images = np.stack([texture[:, x : x + 80, None].repeat(3, axis=2) for x in offsets])
    poses = None
    if without_pose is not None:
        poses = np.tile(np.eye(4), (len(stamps_s), 1, 1))
        poses[list(without_pose)] = np.nan
    stamps_ns = (stamps_s * SECOND).round().astype(np.int64)
    return recording_of(images.astype(np.uint8), stamps_ns, poses=poses)


@pytest.mark.parametrize('step_s', [0.1, 0.3])
@pytest.mark.parametrize('rate', [10, 30])
def test_windows_are_a_time_step_apart_whatever_the_rate(rate, step_s) -> None:
    unsteady = np.random.default_rng(0).uniform(-0.002, 0.002, 3 * rate)
    stamps_s = np.arange(3 * rate) / rate + unsteady
    indices = find_windows(recording(stamps_s), [step_s]).indices
    # Near the end the last frame may stand in for one up to a quarter of a step later
    whole = indices[: round((3 - 2 * step_s) * rate)]
    assert np.diff(whole[:, 0]).tolist() == [1] * (len(whole) - 1)
    np.testing.assert_allclose(np.diff(stamps_s[whole]), step_s, atol=0.01)


def test_every_time_step_gives_windows_of_its_own() -> None:
    frames = recording(np.arange(20) / 10)
    both, short, long = (find_windows(frames, x).indices for x in ([0.1, 0.3], [0.1], [0.3]))
    assert both.tolist() == [*short.tolist(), *long.tolist()]


def test_the_nearest_frame_is_taken() -> None:
    frames = recording(np.array([0.0, 0.09, 0.105, 0.19, 0.203]))
    assert find_windows(frames, [0.1]).indices[0].tolist() == [0, 2, 4]


def test_no_window_reaches_across_a_gap() -> None:
    stamps_s = np.concatenate([np.arange(10), 14.5 + np.arange(10)]) / 10
    indices = find_windows(recording(stamps_s), [0.1]).indices
    assert len(indices) == 2 * (10 - 2)
    np.testing.assert_allclose(np.diff(stamps_s[indices]), 0.1)


def test_a_recording_too_short_has_no_windows() -> None:
    for count in (1, 2):
        assert find_windows(recording(np.arange(count) / 10), [0.1]).indices.shape == (0, 3)


def test_windows_without_a_frame_in_time_are_counted() -> None:
    stamps_s = np.concatenate([np.arange(10), 14.5 + np.arange(10)]) / 10
    # Of each stretch the last two have no window; those of the first would reach into the gap
    assert find_windows(recording(stamps_s), [0.1]).without_frame == 2
    assert find_windows(recording(np.arange(20) / 10), [0.1]).without_frame == 0


@pytest.mark.parametrize(
    ('rate_hz', 'steps_s', 'fitting'),
    [
        (2, (0.1, 0.17), '0.5'),
        (4, (0.1, 0.17), '0.25'),
        (5, (0.1, 0.17), '0.2'),
        (7.5, (0.1, 0.17), '0.133'),
        (8, (0.1, 0.17), '0.125'),
        (10, (0.1, 0.17), ''),
        (30, (0.1, 0.17), ''),
        (30, (0.05,), '0.0667'),
        (10, (0.06,), '0.1'),
    ],
)
def test_a_time_step_that_fits_the_camera_is_told(rate_hz, steps_s, fitting) -> None:
    frames = recording(np.arange(24) / rate_hz)
    found = find_windows(frames, steps_s)
    told = fitting_time_step(frames, found, steps_s)
    assert bool(found.without_frame) == bool(told) == bool(fitting) == (len(found) == 0)
    if fitting:
        pasted = told.partition("--set 'data.time_steps_s=")[2].rstrip("'")
        assert pasted == f'[{fitting}]' and f'every {1 / rate_hz:.2f} s' in told
        assert len(find_windows(frames, [float(fitting)])) >= 18


def test_inspect_and_train_say_which_time_step_a_slow_camera_needs(
    synthetic_views, tmp_path
) -> None:
    start = synthetic_views[0].stamp_ns
    slow = [replace(v, stamp_ns=2 * v.stamp_ns - start) for v in synthetic_views]
    write_bag(tmp_path / 'slow', slow)
    told = "every 0.20 s: a time step that fits is --set 'data.time_steps_s=[0.2]'"
    said = inspect_bag(tmp_path / 'slow', [0.1])
    assert told in said and '0 usable, 0 static, 8 without a frame in time' in said
    settings = ['data.height=32', 'data.width=48', 'data.cache=ram', 'batch_size=2']
    asked = told.rpartition('--set ')[2].strip("'")
    assert load_training_data([tmp_path / 'slow'], load_config(None, [*settings, asked]), True)
    with pytest.raises(BagError, match='give 0 windows.*' + re.escape(told)):
        load_training_data([tmp_path / 'slow'], load_config(None, settings))


def test_windows_of_a_camera_that_stands_still_are_counted_and_left_out() -> None:
    # Frames 10 to 19 show what frame 9 shows: a window needs both of its steps to move
    windows = find_windows(recording(np.arange(20) / 10, lambda t: t < 0.95), [0.1])
    assert windows.indices[:, 0].tolist() == list(range(8))
    assert windows.static == 10
    assert windows.without_pose == 0


def test_windows_without_a_pose_are_counted_and_left_out() -> None:
    frames = recording(np.arange(10) / 10, without_pose=(5,))
    windows = find_windows(frames, [0.1], pose_required=True)
    assert windows.indices[:, 0].tolist() == [0, 1, 2, 6, 7]
    assert windows.posed.all()
    assert windows.without_pose == 3
    assert windows.static == 0
    kept = find_windows(frames, [0.1])
    assert kept.indices[:, 0].tolist() == list(range(8))
    assert np.flatnonzero(~kept.posed).tolist() == [3, 4, 5]
    assert kept.without_pose == 0


# Batches


def room(views: list[SyntheticView], origin: tuple[float, ...] = (0, 0, 0)) -> Recording:
    """The synthetic room, which may stand far from the map's origin."""
    moved = [replace(v, world_T_camera=v.world_T_camera.copy()) for v in views]
    for view in moved:
        view.world_T_camera[:3, 3] += origin
    return recording_of_views(moved)


WINDOW = (0, 4, 8)


def error_of(batch: Batch, depth: torch.Tensor, target: int, source: int) -> float:
    """Median photometric error of a frame rebuilt from another with its true depth."""
    poses = batch.world_T_camera
    source_T_target = invert_transform(poses[:, source]) @ poses[:, target]
    warped = warp(batch.images[:, source], depth[:, target], batch.K, source_T_target)
    return float(photometric_error(warped, batch.images[:, target]).median())


@pytest.fixture(scope='module')
def batch(synthetic_views: list[SyntheticView]) -> Batch:
    return batch_of(room(synthetic_views), WINDOW)


@pytest.fixture(scope='module')
def depth(synthetic_views: list[SyntheticView]) -> torch.Tensor:
    return torch.stack([tensor_of(synthetic_views[i].depth)[0] for i in WINDOW])[None]


@pytest.mark.parametrize(('target', 'source'), [(0, 1), (1, 0), (1, 2), (2, 0)])
def test_a_window_carries_images_intrinsics_and_poses_that_fit(
    batch, depth, target, source
) -> None:
    assert batch.images.shape == (1, 3, 3, 240, 320)
    assert error_of(batch, depth, target, source) < 0.005


def test_far_from_the_maps_origin_poses_stay_precise(synthetic_views, batch) -> None:
    far = batch_of(room(synthetic_views, (5e5, 4e6, 100)), WINDOW)
    torch.testing.assert_close(far.world_T_camera, batch.world_T_camera, rtol=0, atol=1e-6)


def test_a_batch_holds_the_windows_asked_for_in_their_order(synthetic_views) -> None:
    frames = replace(room(synthetic_views), name='first')
    frames.world_T_camera[5] = np.nan
    found = Windows(np.array([[0, 1, 2], [3, 4, 5]]), np.array([True, False]))
    other = Windows(np.array([[6, 7, 8]]), np.array([True]))
    dataset = WindowDataset([frames, room(synthetic_views)], [found, other])
    assert len(dataset) == 3
    asked = dataset.__getitems__([2, 1, 0])
    assert asked.images.dtype == torch.uint8 and asked.images.is_contiguous()
    assert asked.window.tolist() == [2, 1, 0] and asked.recording.tolist() == [1, 0, 0]
    for place, views in enumerate((synthetic_views[6:9], synthetic_views[3:6])):
        expected = np.stack([view.image for view in views]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(asked.images[place], expected)
    assert asked.posed.tolist() == [True, False, True]
    assert torch.equal(asked.world_T_camera[1], torch.eye(4).expand(3, 4, 4))
    first_T_last = np.linalg.inv(synthetic_views[6].world_T_camera) @ (
        synthetic_views[8].world_T_camera
    )
    np.testing.assert_allclose(asked.world_T_camera[0, 2], first_T_last, atol=1e-6)
    assert asked.seen.all() and asked.seen.shape == (3, 1, 240, 320)
    assert torch.equal(asked.to('cpu').images, asked.images.float() / 255)


def merge(path: Path, *parts: tuple[Path, str]) -> Path:
    """Write the topics of several bags, those whose name contains a word, into one."""
    store, connections = get_typestore(Stores.ROS2_JAZZY), {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for bag, word in parts:
            with AnyReader([bag]) as reader:
                kept = [c for c in reader.connections if word in c.topic]
                for c in kept:
                    connections[c.topic] = connections.get(c.topic) or writer.add_connection(
                        c.topic, c.msgtype, typestore=store
                    )
                for c, stamp, raw in reader.messages(kept):
                    writer.write(connections[c.topic], stamp, raw)
    return path


@pytest.fixture(scope='module')
def bags(synthetic_views, tmp_path_factory) -> dict[str, Path]:
    """The same walk as seen by two cameras, of which 'right' publishes raw images."""
    folder = tmp_path_factory.mktemp('bags')
    write_bag(folder / 'left', synthetic_views, camera='/left', image_format='png')
    write_bag(folder / 'right', synthetic_views, camera='/right', compressed=False)
    return {name: folder / name for name in ('left', 'right')}


LEFT = CameraTopics('/left/color/image_raw/compressed', '/left/color/camera_info')
RIGHT = CameraTopics('/right/color/image_raw', '/right/color/camera_info')


@pytest.mark.parametrize(('name', 'camera'), [('left', LEFT), ('right', RIGHT)])
def test_the_only_camera_is_found_beside_its_depth(bags, name, camera) -> None:
    with Bag(bags[name]) as bag:
        assert bag.find_camera() == camera
        assert [topic.name for topic in bag.topics() if topic.is_depth] == [
            f'/{name}/depth/image_rect_raw'
        ]


def test_of_several_cameras_one_must_be_chosen_from_the_list(bags, tmp_path) -> None:
    with Bag(merge(tmp_path / 'both', (bags['left'], ''), (bags['right'], ''))) as bag:
        with pytest.raises(BagError) as caught:
            bag.find_camera()
        assert all(name in str(caught.value) for name in (LEFT.image, RIGHT.image, '--image'))
        assert bag.find_camera(LEFT.image) == LEFT  # with the camera_info beside it
        assert bag.find_camera(RIGHT.image) == RIGHT
        with pytest.raises(BagError, match=f"no image topic '/front'; there are: .*{LEFT.image}"):
            bag.find_camera('/front')


def test_a_camera_recorded_raw_and_compressed_is_one_camera(
    bags, synthetic_views, tmp_path
) -> None:
    write_bag(tmp_path / 'raw', synthetic_views[:2], camera='/left', compressed=False)
    both = merge(tmp_path / 'both', (bags['left'], ''), (tmp_path / 'raw', ''))
    with Bag(both) as bag:
        assert bag.find_camera() == CameraTopics('/left/color/image_raw', LEFT.camera_info)


@pytest.mark.parametrize(
    ('kept', 'missing'), [('camera_info', 'image'), ('image_raw', 'camera_info')]
)
def test_a_bag_without_images_or_intrinsics_says_what_to_record(
    bags, tmp_path, kept, missing
) -> None:
    path = merge(tmp_path / 'bag', (bags['left'], kept))
    with Bag(path) as bag, pytest.raises(BagError, match=f'no {missing} topic: record'):
        bag.find_camera()


def test_a_missing_bag_is_named(tmp_path) -> None:
    with pytest.raises(BagError, match=r'nowhere does not exist'):
        Bag(tmp_path / 'nowhere')


@pytest.mark.parametrize('kind', ['empty folder', 'text', 'cut short', 'bad metadata', 'no data'])
def test_what_is_no_bag_is_refused_by_name(bags, tmp_path, kind) -> None:
    path = tmp_path / 'broken'
    if kind == 'text':
        path.write_text('not a bag')
    elif kind == 'empty folder':
        path.mkdir()
    else:
        merge(path, (bags['left'], '/odom'))
        data = path / 'broken.mcap'
        if kind == 'cut short':
            data.write_bytes(data.read_bytes()[:2000])
        elif kind == 'bad metadata':
            (path / 'metadata.yaml').write_text('{{')
        else:
            data.unlink()
    with pytest.raises(BagError, match='broken is not a bag that can be read'):
        Bag(path).__enter__()


def test_data_damaged_in_the_middle_is_a_bag_error_too(bags, tmp_path) -> None:
    path = merge(tmp_path / 'damaged', (bags['left'], '/odom'))
    data = path / 'damaged.mcap'
    whole = data.read_bytes()
    middle = len(whole) // 4
    data.write_bytes(whole[:middle] + b'\xff' * 500 + whole[middle + 500 :])
    with pytest.raises(BagError, match='damaged'), Bag(path) as bag:
        bag.trajectory('/odom', 'left_color_optical_frame')


def test_the_recorded_poses_come_back(bags, synthetic_views) -> None:
    with Bag(bags['left']) as bag:
        poses = bag.trajectory(bag.find('odom', ODOMETRY), 'left_color_optical_frame')
    for view in synthetic_views:
        np.testing.assert_allclose(poses.at(view.stamp_ns), view.world_T_camera, atol=1e-9)


def test_odometry_of_another_frame_is_refused_with_the_remedy(bags) -> None:
    with Bag(bags['left']) as bag, pytest.raises(BagError) as caught:
        bag.trajectory('/odom', 'base_link')
    message = str(caught.value)
    assert "'left_color_optical_frame'" in message
    assert "'base_link'" in message
    assert 'record /tf_static' in message


def test_a_recording_is_read_at_training_size_with_its_intrinsics_and_poses(
    bags, synthetic_views
) -> None:
    recording = read_recording(bags['left'], (120, 192), odometry=True)
    assert len(recording.frames) == 9 and recording.size == (120, 192)
    assert recording.frames.read(np.array([8, 0])).shape == (2, 120, 192, 3)
    assert recording.stamps_ns.tolist() == [view.stamp_ns for view in synthetic_views]
    first = synthetic_views[0]
    fx, cx, fy, cy = first.K[0, 0], first.K[0, 2], first.K[1, 1], first.K[1, 2]
    expected = [
        [0.6 * fx, 0, 0.6 * (cx + 0.5) - 0.5],
        [0, fy / 2, (cy + 0.5) / 2 - 0.5],
        [0, 0, 1],
    ]
    np.testing.assert_allclose(recording.K[0], expected, rtol=1e-6)
    poses = [view.world_T_camera for view in synthetic_views]
    np.testing.assert_allclose(recording.world_T_camera, poses, atol=1e-9)


def test_frames_out_of_order_and_twice_are_sorted_out(synthetic_views, tmp_path) -> None:
    shuffled = [synthetic_views[i] for i in (2, 0, 1, 2)]
    write_bag(tmp_path / 'bag', shuffled, image_format='png')
    recording = read_recording(tmp_path / 'bag', (240, 320), odometry=False)
    assert recording.stamps_ns.tolist() == [view.stamp_ns for view in synthetic_views[:3]]
    images = recording.frames.read(np.arange(3))
    np.testing.assert_array_equal(images, [view.image for view in synthetic_views[:3]])
    assert recording.world_T_camera is None


@pytest.fixture
def with_odometry_of(bags, tmp_path) -> Callable[[list[SyntheticView]], Path]:
    """Make a bag of the left camera's images with the odometry of other views."""

    def make(views: list[SyntheticView]) -> Path:
        write_bag(tmp_path / 'odometry', views, camera='/left')
        return merge(tmp_path / 'bag', (bags['left'], '/left'), (tmp_path / 'odometry', '/odom'))

    return make


def test_frames_beyond_the_odometry_have_no_pose(with_odometry_of, synthetic_views) -> None:
    path = with_odometry_of(synthetic_views[:5])
    poses = read_recording(path, (48, 64), odometry=True).world_T_camera
    assert np.isnan(poses).all(axis=(1, 2)).tolist() == 5 * [False] + 4 * [True]


def test_odometry_of_another_time_is_refused(with_odometry_of, synthetic_views) -> None:
    later = [replace(v, stamp_ns=v.stamp_ns + 10 * SECOND) for v in synthetic_views]
    with pytest.raises(BagError, match='does not overlap its images in time'):
        read_recording(with_odometry_of(later), (48, 64), odometry=True)


def with_distortion(path: Path, bag: Path, image: str) -> Path:
    """The left camera's bag as if its lens bent straight lines, its images under another name."""
    store = get_typestore(Stores.ROS2_JAZZY)
    with (
        Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
        AnyReader([bag]) as reader,
    ):
        names = {LEFT.image: image, LEFT.camera_info: LEFT.camera_info}
        added = {
            c.topic: writer.add_connection(names[c.topic], c.msgtype, typestore=store)
            for c in reader.connections
            if c.topic in names
        }
        for c, stamp, raw in reader.messages([c for c in reader.connections if c.topic in added]):
            if c.topic == LEFT.camera_info:
                message = reader.deserialize(raw, c.msgtype)
                message = replace(message, d=np.array([-0.3, 0.1, 0.0, 0.0, 0.0]))
                raw = store.serialize_cdr(message, c.msgtype)
            writer.write(added[c.topic], stamp, raw)
    return path


def test_a_raw_camera_is_rectified_as_the_node_does(bags, synthetic_views, tmp_path) -> None:
    view = synthetic_views[0]
    path = with_distortion(tmp_path / 'raw', bags['left'], LEFT.image)
    with Bag(path) as bag:
        frames = list(bag.frames(bag.find_camera()))
    expected = cv2.undistort(view.image, view.K, np.array([-0.3, 0.1, 0, 0, 0]))
    difference = np.abs(frames[0].image.astype(int) - expected)
    assert difference.max() <= 8  # fixed point beside floating point
    assert np.abs(frames[0].image.astype(int) - view.image).mean() > 5
    np.testing.assert_array_equal(frames[0].K, view.K)
    assert all(frame.seen is frames[0].seen for frame in frames)  # worked out once


def test_a_camera_rectified_by_name_is_taken_as_it_is(bags, synthetic_views, tmp_path) -> None:
    path = with_distortion(tmp_path / 'rect', bags['left'], '/left/color/image_rect/compressed')
    with Bag(path) as bag:
        frame = next(bag.frames(bag.find_camera('', LEFT.camera_info)))
    np.testing.assert_array_equal(frame.image, synthetic_views[0].image)


def test_inspect_says_whether_it_rectifies(bags, tmp_path) -> None:
    raw = with_distortion(tmp_path / 'raw', bags['left'], LEFT.image)
    rectified = with_distortion(tmp_path / 'rect', bags['left'], '/left/image_rect/compressed')
    for path, words in (
        (raw, 'rectified while it is read (plumb_bob)'),
        (rectified, "taken as rectified, as its topic's name says"),
        (bags['left'], 'taken as it is: its CameraInfo has neither distortion nor rotation'),
    ):
        assert words in inspect_bag(path, [0.1], '', LEFT.camera_info)


@pytest.mark.parametrize(
    ('name', 'size', 'fx'), [('kitti_drive', (370, 1226), 707), ('kitti_lidar', (375, 1242), 722)]
)
def test_a_real_recording_gives_its_first_frame(name, size, fx) -> None:
    with Bag(shared_bag(name)) as bag:
        frame = next(bag.frames(bag.find_camera()))
    assert frame.size == size
    assert frame.K[0, 0] == pytest.approx(fx, abs=1)
    assert frame.image.std() > 20
