"""The rendered truth is true, and a bag written from it gives it back."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader

from tc_depth_training.bag_writer import BagFormat, quaternion_from_matrix, write_bag
from tc_depth_training.synthetic import (
    Box,
    SyntheticView,
    camera_path,
    default_intrinsics,
    iterate_recording,
    make_scene,
    render_recording,
    render_view,
)

HEIGHT, WIDTH = 120, 160
FRAMES = 5
# A level camera, two metres into the room, which sees nothing but the far wall.
AHEAD = np.array([[0.0, 0, 1, 2], [-1, 0, 0, 0], [0, -1, 0, 1.45], [0, 0, 0, 1]])
K_AHEAD = np.array([[300.0, 0, 79.5], [0, 300, 59.5], [0, 0, 1]])
DEFAULT_TOPICS = {
    '/camera/color/image_raw/compressed': 'sensor_msgs/msg/CompressedImage',
    '/camera/color/camera_info': 'sensor_msgs/msg/CameraInfo',
    '/odom': 'nav_msgs/msg/Odometry',
    '/camera/depth/image_rect_raw': 'sensor_msgs/msg/Image',
}


@pytest.fixture(scope='module')
def views() -> list[SyntheticView]:
    return render_recording(FRAMES, HEIGHT, WIDTH)


def relative_pose(target: SyntheticView, source: SyntheticView) -> NDArray[np.float64]:
    pose: NDArray[np.float64] = np.linalg.inv(source.world_T_camera) @ target.world_T_camera
    return pose


def reproject(
    target: SyntheticView, source: SyntheticView, source_T_target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the target's pixels fall in the source (H, W, 2), and at which depth (H, W)."""
    v, u = np.indices(target.depth.shape)
    rays = np.linalg.inv(target.K) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    points = source_T_target[:3, :3] @ (rays * target.depth.ravel()) + source_T_target[:3, 3:]
    x, y, z = (source.K @ points).reshape(3, *target.depth.shape)
    return np.stack([x / z, y / z], -1), z


def sample(image: NDArray[Any], pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear; exact, whereas cv2.remap rounds pixels to 1/32 in OpenCV 4."""
    height, width = image.shape[:2]
    u = np.clip(pixels[..., 0], 0, width - 1)
    v = np.clip(pixels[..., 1], 0, height - 1)
    left, top = np.minimum(u.astype(int), width - 2), np.minimum(v.astype(int), height - 2)
    extra = (1,) * (image.ndim - 2)  # for colour
    across, down = (u - left).reshape(*u.shape, *extra), (v - top).reshape(*v.shape, *extra)
    upper = image[top, left] * (1 - across) + image[top, left + 1] * across
    lower = image[top + 1, left] * (1 - across) + image[top + 1, left + 1] * across
    sampled: NDArray[np.float64] = upper * (1 - down) + lower * down
    return sampled


def seen_without_edges(source: SyntheticView, pixels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Pixels (H, W, 2) within the source and where its inverse depth varies smoothly."""
    inverse = 1.0 / source.depth
    bend = np.abs(cv2.Laplacian(inverse, cv2.CV_32F)) > 0.01
    edges = cv2.dilate(bend.astype(np.uint8), np.ones((5, 5), np.uint8))
    height, width = source.depth.shape
    inside = (pixels >= 0).all(-1) & (pixels <= np.array([width - 1, height - 1])).all(-1)
    seen: NDArray[np.bool_] = inside & (sample(edges, pixels) == 0)
    return seen


def compare(
    target: SyntheticView, source: SyntheticView, source_T_target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative difference of depth and, where depths match, grey-level difference of colour."""
    pixels, expected = reproject(target, source, source_T_target)
    used = seen_without_edges(source, pixels)
    # Inverse depth, unlike depth, is linear across the image of a plane.
    depth_error = np.abs(1.0 / (sample(1.0 / source.depth, pixels) * expected) - 1.0)
    colour_error = np.abs(sample(source.image, pixels) - target.image).mean(-1)
    return depth_error[used], colour_error[used & (depth_error < 0.01)]


@pytest.mark.parametrize('later', [1, 4])
def test_true_depth_and_pose_carry_one_view_onto_another(
    views: list[SyntheticView], later: int
) -> None:
    target, source = views[0], views[later]
    depth_error, colour_error = compare(target, source, relative_pose(target, source))
    assert depth_error.size > 0.5 * HEIGHT * WIDTH
    assert (depth_error < 1e-2).mean() > 0.95
    assert np.median(depth_error) < 1e-6
    assert np.median(colour_error) < 2.0


def test_a_pose_of_the_wrong_sign_is_found_out(views: list[SyntheticView]) -> None:
    source_T_target = relative_pose(views[0], views[1])
    depth_error, colour_error = compare(views[0], views[1], source_T_target)
    target_T_source = relative_pose(views[1], views[0])
    wrong_depth_error, wrong_colour_error = compare(views[0], views[1], target_T_source)
    assert wrong_depth_error.mean() > 5.0 * depth_error.mean()
    assert np.median(wrong_colour_error) > 5.0 * np.median(colour_error)


def test_depth_is_z_and_not_the_length_of_the_ray() -> None:
    bare = replace(make_scene(), boxes=(), balls=())
    depth = render_view(bare, K_AHEAD, AHEAD, HEIGHT, WIDTH, 0).depth
    np.testing.assert_allclose(depth, bare.room.high[0] - 2.0, rtol=1e-6)


def test_pixel_centres_stand_at_integers() -> None:
    """An edge at u = 100.5 parts columns 100 and 101 in depth, and in colour without a blend."""
    bare = replace(make_scene(), boxes=(), balls=())
    box = Box((4.0, -3.0, 0.0), (4.001, -0.14, 2.9))  # 79.5 + 300 * 0.14 / 2 = 100.5
    with_box, without = (
        render_view(scene, K_AHEAD, AHEAD, HEIGHT, WIDTH, 0)
        for scene in (replace(bare, boxes=(box,)), bare)
    )
    assert (with_box.depth[:, :101] > 5.0).all()
    np.testing.assert_allclose(with_box.depth[:, 101:], 2.0, rtol=1e-6)
    np.testing.assert_array_equal(with_box.image[:, :101], without.image[:, :101])
    assert (with_box.image[:, 101] != without.image[:, 101]).any(-1).mean() > 0.9


def test_a_seed_gives_the_same_recording_again_and_another_a_different_one(
    views: list[SyntheticView],
) -> None:
    again, other = (next(iterate_recording(1, HEIGHT, WIDTH, seed=seed)) for seed in (0, 7))
    np.testing.assert_array_equal(again.image, views[0].image)
    np.testing.assert_array_equal(again.depth, views[0].depth)
    np.testing.assert_array_equal(again.world_T_camera, views[0].world_T_camera)
    assert np.abs(other.image.astype(int) - again.image).mean() > 10.0


@pytest.mark.parametrize('seed', range(4))
def test_every_pixel_has_a_depth_of_a_room_however_long_the_walk(seed: int) -> None:
    scene, K = make_scene(seed), default_intrinsics(30, 40)
    for pose in camera_path(300, seed=seed)[::20]:
        depth = render_view(scene, K, pose, 30, 40, 0).depth
        assert np.isfinite(depth).all()
        assert depth.min() > 0.5
        assert depth.max() < 15.0


def test_the_camera_walks_about_three_centimetres_per_frame() -> None:
    poses = camera_path(60, rate_hz=10.0)
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert 0.015 < steps.min() < steps.max() < 0.05
    identities = poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(identities, np.broadcast_to(np.eye(3), (60, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1.0)


def test_images_have_texture_almost_everywhere(views: list[SyntheticView]) -> None:
    grey = cv2.cvtColor(views[0].image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    spread = cv2.sqrt(cv2.blur(grey * grey, (9, 9)) - cv2.blur(grey, (9, 9)) ** 2)
    assert (spread > 2.0).mean() > 0.95


def random_rotations(count: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield np.asarray(cv2.Rodrigues(rng.normal(size=3) * 2.0)[0], np.float64)


def matrix_from_quaternion(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z, w = quaternion
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    matrix: NDArray[np.float64] = np.eye(3) + 2.0 * (w * cross + cross @ cross)
    return matrix


def test_a_quaternion_gives_its_matrix_back() -> None:
    half_turns = [np.diag(signs) for signs in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1])]
    for rotation in [np.eye(3), *half_turns, *random_rotations(50)]:
        quaternion = quaternion_from_matrix(rotation)
        assert quaternion[3] >= 0.0
        np.testing.assert_allclose(matrix_from_quaternion(quaternion), rotation, atol=1e-12)


def read_bag(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """(bag time, message) of each topic."""
    messages: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, stamp_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            messages.setdefault(connection.topic, []).append((stamp_ns, message))
    return messages


def decode(message: Any) -> NDArray[np.uint8]:
    """The RGB pixels of a CompressedImage."""
    bgr = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.asarray(bgr, np.uint8)[..., ::-1]


def header_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def pose_matrix(pose: Any) -> NDArray[np.float64]:
    q, p = pose.orientation, pose.position
    matrix = np.eye(4)
    matrix[:3, :3] = matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w]))
    matrix[:3, 3] = p.x, p.y, p.z
    return matrix


@pytest.mark.parametrize('bag_format', ['mcap', 'sqlite3'])
def test_a_bag_gives_the_views_back(
    views: list[SyntheticView], tmp_path: Path, bag_format: BagFormat
) -> None:
    write_bag(tmp_path / 'bag', views, image_format='png', bag_format=bag_format)
    topics = read_bag(tmp_path / 'bag')
    assert {name: rows[0][1].__msgtype__ for name, rows in topics.items()} == DEFAULT_TOPICS
    for rows in topics.values():
        stamps = [view.stamp_ns for view in views]
        assert [stamp_ns for stamp_ns, _ in rows] == stamps
        assert [header_ns(message) for _, message in rows] == stamps
    for i, view in enumerate(views):
        image, info, odometry, depth = (topics[name][i][1] for name in DEFAULT_TOPICS)
        np.testing.assert_array_equal(decode(image), view.image)
        np.testing.assert_array_equal(info.k.reshape(3, 3), view.K)
        np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], view.K)
        assert (info.height, info.width) == (HEIGHT, WIDTH)
        pose = pose_matrix(odometry.pose.pose)
        np.testing.assert_allclose(pose, view.world_T_camera, rtol=0.0, atol=1e-9)
        millimetres = depth.data.view('<u2').reshape(HEIGHT, WIDTH)
        assert depth.step == 2 * WIDTH
        assert np.abs(millimetres - 1000.0 * view.depth.astype(np.float64)).max() <= 0.5


def test_frames_are_named_after_the_camera(views: list[SyntheticView], tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', views[:1], camera='/robot/front/')
    topics = read_bag(tmp_path / 'bag')
    frame_ids = {name: rows[0][1].header.frame_id for name, rows in topics.items()}
    optical = 'robot_front_color_optical_frame'
    assert frame_ids == {
        '/robot/front/color/image_raw/compressed': optical,
        '/robot/front/color/camera_info': optical,
        '/robot/front/depth/image_rect_raw': optical,
        '/odom': 'world',
    }
    assert topics['/odom'][0][1].child_frame_id == optical


def test_jpeg_is_close_to_the_image(views: list[SyntheticView], tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', views[:1], depth=False, odometry=False)
    topics = read_bag(tmp_path / 'bag')
    assert list(topics) == list(DEFAULT_TOPICS)[:2]
    image = topics['/camera/color/image_raw/compressed'][0][1]
    assert image.format == 'bgr8; jpeg compressed bgr8'
    assert np.abs(decode(image).astype(int) - views[0].image).mean() < 5.0


@pytest.mark.parametrize('step', [None, 3 * WIDTH + 32])
def test_raw_images_may_have_padded_rows(
    views: list[SyntheticView], tmp_path: Path, step: int | None
) -> None:
    write_bag(tmp_path / 'bag', views[:1], compressed=False, step=step, depth_encoding='32FC1')
    topics = read_bag(tmp_path / 'bag')
    image = topics['/camera/color/image_raw'][0][1]
    assert (image.encoding, image.step) == ('rgb8', step or 3 * WIDTH)
    rows = image.data.reshape(HEIGHT, image.step)[:, : 3 * WIDTH]
    np.testing.assert_array_equal(rows.reshape(HEIGHT, WIDTH, 3), views[0].image)
    metres = topics['/camera/depth/image_rect_raw'][0][1].data.view('<f4')
    np.testing.assert_array_equal(metres.reshape(HEIGHT, WIDTH), views[0].depth)


def test_depth_that_16uc1_cannot_say_becomes_zero(
    views: list[SyntheticView], tmp_path: Path
) -> None:
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[0, :5] = np.nan, np.inf, -np.inf, -1.0, 70.0
    write_bag(tmp_path / 'bag', [replace(views[0], depth=depth)])
    data = read_bag(tmp_path / 'bag')['/camera/depth/image_rect_raw'][0][1].data.view('<u2')
    assert data[:7].tolist() == [0, 0, 0, 0, 0, 2000, 2000]


def test_an_existing_target_is_refused_and_left_alone(
    views: list[SyntheticView], tmp_path: Path
) -> None:
    target = tmp_path / 'bag'
    target.mkdir()
    (target / 'precious').write_text('mine')
    with pytest.raises(FileExistsError, match='remove it or choose another path'):
        write_bag(target, views[:1])
    assert (target / 'precious').read_text() == 'mine'


def test_interrupted_writing_leaves_nothing_behind(
    views: list[SyntheticView], tmp_path: Path
) -> None:
    def interrupted() -> Iterator[SyntheticView]:
        yield from views[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bag(tmp_path / 'bag', interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'step': 3 * WIDTH - 1, 'compressed': False}, f'a row has {3 * WIDTH} bytes'),
        ({'bag_format': 'rosbag1'}, 'choose one of mcap, sqlite3'),
        ({'image_format': 'gif'}, 'choose one of jpeg, png'),
        ({'depth_encoding': '8UC1'}, 'choose one of 16UC1, 32FC1'),
    ],
)
def test_impossible_wishes_are_refused_by_name(
    views: list[SyntheticView], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_bag(tmp_path / 'bag', views[:1], **options)
    assert list(tmp_path.iterdir()) == []


def test_a_bag_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='at least one'):
        write_bag(tmp_path / 'bag', [])
    assert list(tmp_path.iterdir()) == []
