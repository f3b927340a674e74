"""A camera's geometry: what rectification, ROI and binning do to pixels and to K."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.camera_info import CameraInfoBuffer
from tc_depth_ros.frames.decoder import FrameDecoder, is_rectified

Array = NDArray[np.float64]
HEIGHT, WIDTH = 240, 320
K = np.array([[200.0, 0, 163], [0, 205, 118], [0, 0, 1]])
NEW_K = np.array([[180.0, 0, 155], [0, 178, 122], [0, 0, 1]])  # the left 3x3 of P
R = cv2.Rodrigues(np.array([0.02, -0.03, 0.015]))[0]  # takes the camera's axes to the rectified
D = {
    'plumb_bob': [-0.28, 0.09, 0.002, -0.001, -0.012],
    'rational_polynomial': [0.4, -0.2, 0.001, -0.002, 0.03, 0.7, -0.25, 0.02],
    'equidistant': [0.05, -0.02, 0.008, -0.003],
}
GRID = [(u, v) for u in range(40, 300, 40) for v in range(40, 220, 40)]  # in the rectified image
CENTRAL = [(u, v) for u in (80, 150, 220) for v in (60, 115, 170)]


def camera_info(model: str = 'plumb_bob', **changes: object) -> SimpleNamespace:
    """A camera with distortion and rotation whose P differs from K."""
    message = SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0), frame_id='optical'),
        height=HEIGHT,
        width=WIDTH,
        distortion_model=model,
        d=np.array(D.get(model, [0.1] * 5)),
        k=K.ravel(),
        r=R.ravel(),
        p=np.hstack([NEW_K, [[-30.0], [0], [0]]]).ravel(),  # as a right camera has it
        binning_x=0,
        binning_y=0,
        roi=roi(),
    )
    return SimpleNamespace(**{**vars(message), **changes})


def roi(x: int = 0, y: int = 0, height: int = 0, width: int = 0) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x, y_offset=y, height=height, width=width, do_rectify=False)


def undistorted(**changes: object) -> SimpleNamespace:
    projection = np.hstack([K, np.zeros((3, 1))]).ravel()
    return camera_info(**{'d': np.zeros(5), 'r': np.eye(3).ravel(), 'p': projection, **changes})


def distort(x: Array, y: Array, model: str) -> tuple[Array, Array]:
    """The models as they are published (x, y: the ray at z = 1), written without OpenCV."""
    if model == 'equidistant':
        k1, k2, k3, k4 = D[model]
        r = np.hypot(x, y)
        t = np.arctan(r)
        factor = t * (1 + k1 * t**2 + k2 * t**4 + k3 * t**6 + k4 * t**8) / np.maximum(r, 1e-12)
        return x * factor, y * factor
    k1, k2, p1, p2, k3, k4, k5, k6 = [*D[model], 0, 0, 0][:8]
    r2 = x * x + y * y
    factor = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def raw_pixel(u: Array, v: Array, model: str) -> tuple[Array, Array]:
    """Where the raw image shows what the full rectified one shows at (u, v)."""
    rays = np.linalg.inv(NEW_K) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    x, y, z = R.T @ rays
    x, y = distort(x / z, y / z, model)
    return (K[0, 0] * x + K[0, 2]).reshape(u.shape), (K[1, 1] * y + K[1, 2]).reshape(u.shape)


def dot(u: float, v: float, sigma_px: float = 1.2) -> NDArray[np.uint8]:
    """A grey dot on black, centred between pixels as it may be."""
    row, column = np.indices((HEIGHT, WIDTH))
    bright = 250 * np.exp(-((column - u) ** 2 + (row - v) ** 2) / (2 * sigma_px**2))
    return np.rint(bright).astype(np.uint8)[..., None].repeat(3, axis=2)


def centre(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Centre of gravity (u, v) of the only bright thing in an image."""
    weight = image[..., 0].astype(float)
    row, column = np.indices(weight.shape)
    return (weight * column).sum() / weight.sum(), (weight * row).sum() / weight.sum()


def reduce(image: NDArray[np.uint8], info: SimpleNamespace) -> NDArray[np.uint8]:
    """What a camera with ROI and binning makes of its full image: cut, then averaged."""
    x, y = info.roi.x_offset, info.roi.y_offset
    part = image[y : y + (info.roi.height or HEIGHT), x : x + (info.roi.width or WIDTH)]
    b, a = info.binning_x or 1, info.binning_y or 1
    height, width = part.shape[0] // a, part.shape[1] // b
    blocks = part[: height * a, : width * b].reshape(height, a, width, b, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


# Rectification


@pytest.mark.parametrize('model', D)
def test_a_dot_of_the_raw_image_lands_where_p_says(model: str) -> None:
    camera = CameraModel.from_message(camera_info(model), rectify=True)
    np.testing.assert_array_equal(camera.K, NEW_K)
    for u, v in GRID:
        raw = raw_pixel(np.array(float(u)), np.array(float(v)), model)
        assert np.hypot(raw[0] - u, raw[1] - v) > 2  # else nothing is shown
        assert centre(camera.rectify(dot(*raw))) == pytest.approx((u, v), abs=0.1)


@pytest.mark.parametrize('model', D)
def test_points_agree_with_opencv(model: str) -> None:
    camera = CameraModel.from_message(camera_info(model), rectify=True)
    undistort = cv2.fisheye.undistortPoints if model == 'equidistant' else cv2.undistortPoints
    for raw in GRID[::4]:
        points = np.array([[raw]], dtype=np.float64)
        expected = undistort(points, K, np.array(D[model]), R=R, P=NEW_K)[0, 0]
        assert centre(camera.rectify(dot(*raw))) == pytest.approx(tuple(expected), abs=0.1)


def test_without_p_the_rectified_image_keeps_k() -> None:
    camera = CameraModel.from_message(camera_info(p=np.zeros(12)), rectify=True)
    np.testing.assert_array_equal(camera.K, K)
    assert camera.maps is not None


@pytest.mark.parametrize('rectify', [False, True])
def test_where_there_is_nothing_to_rectify_the_image_is_not_even_copied(rectify: bool) -> None:
    image = dot(50, 60)
    for changes in (
        {},
        {'r': np.zeros(9)},
        {'p': np.zeros(12)},
        {'distortion_model': '', 'd': []},
    ):
        camera = CameraModel.from_message(undistorted(**changes), rectify)
        assert camera.rectify(image) is image
        assert camera.seen is None
        np.testing.assert_array_equal(camera.K, K)


@pytest.mark.parametrize(
    'change',
    [
        {'r': R.ravel()},
        {'p': camera_info().p},
        {'d': np.array([0, 0, 0, 0, 1e-3])},
        # An equidistant lens without coefficients still is none that leaves lines straight
        {'distortion_model': 'equidistant', 'd': np.zeros(4)},
    ],
)
def test_any_of_rotation_projection_and_distortion_is_enough_to_rectify(
    change: dict[str, object],
) -> None:
    image = dot(50, 60)
    assert CameraModel.from_message(undistorted(**change), True).rectify(image) is not image


def test_an_image_that_is_rectified_already_is_left_alone() -> None:
    image = dot(50, 60)
    camera = CameraModel.from_message(camera_info('thin_prism'), rectify=False)
    assert camera.rectify(image) is image
    np.testing.assert_array_equal(camera.K, NEW_K)


@pytest.mark.parametrize('model', D)
def test_what_lies_outside_the_raw_image_is_not_seen_and_black(model: str) -> None:
    camera = CameraModel.from_message(camera_info(model), rectify=True)
    row, column = np.indices((HEIGHT, WIDTH)).astype(float)
    u, v = raw_pixel(column, row, model)
    margin = np.minimum.reduce([u, WIDTH - 1 - u, v, HEIGHT - 1 - v])  # px within the raw image
    clear = np.abs(margin) > 0.1
    assert camera.seen is not None
    assert 10 < (~camera.seen).sum() < camera.seen.size / 2
    np.testing.assert_array_equal(camera.seen[clear], (margin > 0)[clear])
    white = camera.rectify(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    assert (white[~camera.seen] == 0).all()
    assert (white[camera.seen & clear] == 255).all()


def plane(rays: Array, normal: Array) -> Array:
    """z of a slanted plane, 4 m away along its normal, on rays at z = 1, (..., 3)."""
    return np.asarray(4 / (rays @ normal))


@pytest.mark.parametrize('model', D)
def test_depth_is_turned_with_the_camera_and_read_at_the_nearest_pixel(model: str) -> None:
    camera = CameraModel.from_message(camera_info(model), rectify=True)
    row, column = np.indices((HEIGHT, WIDTH)).astype(float)
    pixels = np.stack([column, row], axis=-1).reshape(-1, 1, 2)
    undistort = cv2.fisheye.undistortPoints if model == 'equidistant' else cv2.undistortPoints
    raw_rays = cv2.convertPointsToHomogeneous(undistort(pixels, K, np.array(D[model])))
    rays = cv2.convertPointsToHomogeneous(pixels).reshape(-1, 3) @ np.linalg.inv(NEW_K).T
    slanted = np.array([0.3, -0.2, 0.9])
    raw = plane(raw_rays.reshape(-1, 3), slanted).reshape(HEIGHT, WIDTH).astype(np.float32)
    expected = plane(rays, R @ slanted).reshape(HEIGHT, WIDTH)

    depth = camera.rectify_depth(raw)
    assert depth.dtype == np.float32
    assert camera.seen is not None
    np.testing.assert_array_equal(np.isnan(depth), ~camera.seen)
    error = (depth / expected - 1)[camera.seen]
    assert np.quantile(np.abs(error), 0.99) < 0.003  # the plane's slope over a pixel
    assert abs(np.median(error)) < 1e-4  # to no side


def test_depth_that_needs_no_rectification_is_not_even_copied() -> None:
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    assert CameraModel.from_message(undistorted(), rectify=True).rectify_depth(depth) is depth
    assert CameraModel.from_message(camera_info(), rectify=False).rectify_depth(depth) is depth


def test_where_the_distortion_turns_back_nothing_is_seen() -> None:
    # r (1 - 0.6 r^2) grows up to r = 0.745 only; beyond 1.29 the image comes again, upside down
    wide = np.hstack([np.diag([100.0, 100, 1]), np.zeros((3, 1))])
    wide[:2, 2] = 160, 120
    info = undistorted(d=np.array([-0.6, 0, 0, 0]), p=wide.ravel())
    seen = CameraModel.from_message(info, rectify=True).seen
    row, column = np.indices((HEIGHT, WIDTH))
    radius = np.hypot(column - 160, row - 120) / 100
    assert seen is not None
    assert seen[radius > 0.76].mean() < 1e-3  # single pixels where it crosses the axis
    assert seen[radius < 0.4].all()


def test_when_all_is_seen_there_is_no_mask() -> None:
    closer = np.hstack([np.diag([400.0, 400, 1]), np.zeros((3, 1))])
    closer[:2, 2] = 163, 118
    assert CameraModel.from_message(camera_info(p=closer.ravel()), rectify=True).seen is None


# ROI and binning

REDUCTIONS = {
    'crop': {'roi': roi(24, 10, 200, 280)},
    'binning': {'binning_x': 2, 'binning_y': 3},
    'both': {'roi': roi(24, 10, 201, 281), 'binning_x': 3, 'binning_y': 2},
}


def sigma_px(info: SimpleNamespace) -> float:
    """Wide enough for its centre to survive, narrow enough for the lens to bend it little."""
    return 1.5 * max(info.binning_x, info.binning_y, 1)


@pytest.mark.parametrize('changes', REDUCTIONS.values(), ids=REDUCTIONS)
def test_roi_and_binning_show_a_ray_where_k_says(changes: dict[str, object]) -> None:
    info = camera_info(**changes)
    camera = CameraModel.from_message(info, rectify=False)
    for u, v in CENTRAL:
        image = reduce(dot(u, v, sigma_px=sigma_px(info)), info)
        assert image.shape[:2] == camera.size
        seen = camera.K @ np.linalg.inv(NEW_K) @ [u, v, 1]
        assert centre(image) == pytest.approx((seen[0], seen[1]), abs=0.02)


@pytest.mark.parametrize('model', D)
@pytest.mark.parametrize('changes', REDUCTIONS.values(), ids=REDUCTIONS)
def test_a_reduced_raw_image_is_rectified(changes: dict[str, object], model: str) -> None:
    info = camera_info(model, **changes)
    camera = CameraModel.from_message(info, rectify=True)
    for u, v in CENTRAL:
        raw = raw_pixel(np.array(float(u)), np.array(float(v)), model)
        rectified = camera.rectify(reduce(dot(*raw, sigma_px=sigma_px(info)), info))
        assert rectified.shape[:2] == camera.size
        expected = camera.K @ np.linalg.inv(NEW_K) @ [u, v, 1]
        assert centre(rectified) == pytest.approx((expected[0], expected[1]), abs=0.1)


def test_k_of_a_crop_agrees_with_image_geometry() -> None:
    image_geometry = pytest.importorskip('image_geometry', reason='image_geometry is missing')
    messages = pytest.importorskip('sensor_msgs.msg', reason='sensor_msgs is not installed')
    message = messages.CameraInfo(
        **{k: v for k, v in vars(undistorted()).items() if k not in ('header', 'roi')},
        roi=messages.RegionOfInterest(x_offset=24, y_offset=10, height=200, width=280),
    )
    oracle = image_geometry.PinholeCameraModel()
    oracle.fromCameraInfo(message)
    camera = CameraModel.from_message(message, rectify=True)
    np.testing.assert_allclose(camera.K, np.asarray(oracle.intrinsicMatrix()))


@pytest.mark.parametrize(
    'changes',
    [
        {'roi': roi(41, 0, 240, 280)},
        {'roi': roi(0, 41, 200, 320)},
        {'roi': roi(1, 0)},
        {'height': 0, 'width': 0},
        {'binning_x': 321},
    ],
)
def test_a_roi_that_leaves_the_image_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r'of the full image.*mend the camera driver'):
        CameraModel.from_message(camera_info(**changes), rectify=False)


# Faults of a calibration


@pytest.mark.parametrize('focal', [0.0, -200.0, np.nan, np.inf])
def test_a_camera_without_focal_length_is_refused(focal: float) -> None:
    k = np.diag([focal, focal, 1.0])
    bad = {'k': k.ravel(), 'p': np.hstack([k, np.zeros((3, 1))]).ravel()}
    for rectify in (False, True):
        with pytest.raises(ValueError, match=rf'k\[0\] is {focal}, p\[0\] is {focal}.*calibrate'):
            CameraModel.from_message(camera_info(**bad), rectify)
        for partly in ('k', 'p'):  # whichever is filled in counts, and K is what rectifies
            info = camera_info(**{partly: bad[partly]})
            if rectify and partly == 'k':
                with pytest.raises(ValueError, match=rf'no k \(k\[0\] is {focal}.*image_rect'):
                    CameraModel.from_message(info, rectify)
            else:
                expected = NEW_K if partly == 'k' else K
                np.testing.assert_array_equal(CameraModel.from_message(info, rectify).K, expected)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'distortion_model': 'thin_prism'}, r"'thin_prism'.*known are plumb_bob.*image_rect"),
        ({'distortion_model': 'thin_prism', 'd': []}, "'thin_prism'"),
        ({'distortion_model': ''}, r"distortion_model is ''"),
        ({'d': [0.1, 0.2, 0.3]}, r'takes 4 or 5 or 8'),
        ({'d': [0.1, np.nan, 0, 0, 0]}, r'd of .*nan.*finite'),
        ({'distortion_model': 'equidistant', 'd': [0.1] * 5}, 'takes 4 finite'),
        ({'distortion_model': 'equidistant', 'd': []}, 'takes 4 finite'),
        ({'r': np.diag([1.0, 1, -1]).ravel()}, 'r of .*no rotation'),
        ({'r': 2 * np.eye(3).ravel()}, 'r of .*no rotation'),
        ({'r': np.full(9, np.nan)}, 'r of .*no rotation'),
    ],
)
def test_what_cannot_be_rectified_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraModel.from_message(camera_info(**changes), rectify=True)
    CameraModel.from_message(camera_info(**changes), rectify=False)


# The decoder


def image(pixels: NDArray[np.uint8], frame_id: str = 'optical') -> SimpleNamespace:
    height, width = pixels.shape[:2]
    stamp = SimpleNamespace(sec=5, nanosec=7)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp, frame_id=frame_id),
        height=height,
        width=width,
        encoding='rgb8',
        is_bigendian=0,
        step=3 * width,
        data=pixels.tobytes(),
    )


def test_a_frame_is_rectified_and_carries_what_belongs_to_it() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    camera = CameraModel.from_message(camera_info(), rectify=True)
    frame = FrameDecoder(rectify=True).decode(image(raw), camera_info())
    assert (frame.stamp_ns, frame.frame_id, frame.size) == (5_000_000_007, 'optical', (240, 320))
    np.testing.assert_array_equal(frame.image, camera.rectify(raw))
    np.testing.assert_array_equal(frame.K, NEW_K)
    np.testing.assert_array_equal(frame.seen, camera.seen)
    as_it_is = FrameDecoder(rectify=False).decode(image(raw), camera_info())
    np.testing.assert_array_equal(as_it_is.image, raw)
    assert as_it_is.seen is None


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The CameraInfos that models are built of."""
    messages: list[object] = []
    build: Callable[..., CameraModel] = CameraModel.from_message

    def counted(message: object, rectify: bool) -> CameraModel:
        messages.append(message)
        return build(message, rectify)

    monkeypatch.setattr(CameraModel, 'from_message', counted)
    return messages


def test_the_model_is_kept_while_the_camera_info_says_the_same(built: list[object]) -> None:
    decoder, black = FrameDecoder(rectify=True), image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for second in range(3):
        info = camera_info(k=K.ravel().copy(), d=np.array(D['plumb_bob']))
        info.header.stamp.sec = second
        decoder.decode(black, info)
    assert len(built) == 1


@pytest.mark.parametrize(
    'changes',
    [
        {'k': (K * [[1.01], [1.01], [1]]).ravel()},
        {'d': np.array([-0.2, 0.09, 0, 0, 0])},
        {'r': np.eye(3).ravel()},
        {'p': np.hstack([K, np.zeros((3, 1))]).ravel()},
        {'distortion_model': 'rational_polynomial'},
        {'height': 2 * HEIGHT, 'width': 2 * WIDTH, 'binning_x': 2, 'binning_y': 2},
        {'height': 2 * HEIGHT, 'width': 2 * WIDTH, 'roi': roi(9, 4, HEIGHT, WIDTH)},
    ],
)
def test_a_camera_info_that_changes_makes_a_new_model(
    built: list[object], changes: dict[str, object]
) -> None:
    decoder, black = FrameDecoder(rectify=True), image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    decoder.decode(black, camera_info())
    changed = camera_info(**changes)
    frame = decoder.decode(black, changed)
    assert len(built) == 2
    expected = CameraModel.from_message(changed, rectify=True)
    np.testing.assert_array_equal(frame.K, expected.K)
    np.testing.assert_array_equal(frame.seen, expected.seen)


def test_an_image_that_roi_and_binning_do_not_explain_is_refused_with_all_sizes() -> None:
    full = image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    info = camera_info(roi=roi(0, 0, 200, 280), binning_x=2, binning_y=2)
    with pytest.raises(
        ValueError, match=r'320x240 but .* 140x100 .* full 320x240.* ROI and binni'
    ):
        FrameDecoder(rectify=True).decode(full, info)


@pytest.mark.parametrize('frame_id', ['optical', '/optical', ''])
def test_frame_ids_that_agree_or_are_not_given_pass(frame_id: str) -> None:
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame = FrameDecoder(rectify=False).decode(image(black, frame_id), camera_info())
    assert frame.frame_id == (frame_id or 'optical')


def test_a_camera_info_of_another_camera_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'rear'.*'optical'.*remap camera_info"):
        FrameDecoder(rectify=False).decode(
            image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 'rear'), camera_info()
        )


@pytest.mark.parametrize(
    ('topic', 'expected'),
    [
        ('image_rect', True),
        ('/camera/image_rect_color', True),
        ('/camera/infra1/image_rect_raw', True),
        ('/kitti/camera_gray_left/image_rect/compressed', True),
        ('/zed/rgb/rect/image', True),
        ('/zed/rgb/rect/image/compressed', True),
        ('/front/rectified/image', True),
        ('/camera/left_rect/image_raw', True),
        ('image', False),
        ('/camera/color/image_raw/compressed', False),
        ('/direct/image_raw', False),
        ('/camera/image_unrectified', False),
        ('/rect/left/image_raw', False),
        ('', False),
    ],
)
def test_a_topics_name_says_whether_it_is_rectified(topic: str, expected: bool) -> None:
    assert is_rectified(topic) is expected


# CameraInfos by stamp


def stamped(stamp_ns: int) -> SimpleNamespace:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    stamp = SimpleNamespace(sec=seconds, nanosec=nanoseconds)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp))


def test_the_camera_info_of_an_images_stamp_is_found_else_the_latest() -> None:
    buffer = CameraInfoBuffer()
    assert buffer.match(1) is None
    first, last, early = (stamped(t) for t in (3_000_000_001, 4_000_000_001, 1_000_000_001))
    for message in (first, last, early):
        buffer.add(message)
    assert buffer.match(3_000_000_001) is first
    assert buffer.match(4_000_000_001) is last
    assert buffer.match(4_000_000_002) is early  # the last added, whatever its stamp
    again = stamped(3_000_000_001)
    buffer.add(again)
    assert buffer.match(3_000_000_001) is again
    assert buffer.match(0) is again


def test_old_camera_infos_are_forgotten() -> None:
    buffer = CameraInfoBuffer()
    messages = [stamped(t) for t in range(1000)]
    for message in messages:
        buffer.add(message)
    kept = [t for t in range(1000) if buffer.match(t) is not messages[-1]]
    assert kept == list(range(970, 999))
