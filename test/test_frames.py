"""Messages to frames: every byte where it belongs, every fault by its name."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tc_depth_ros.frames.frame import (
    Frame,
    decode_depth,
    decode_image,
    frame_from_messages,
    intrinsics_from_camera_info,
)
from tc_depth_ros.frames.preprocessing import network_input, network_size
from tc_depth_ros.frames.window import FrameRejected, FrameWindow, WindowConfig

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
K = np.array([[10.0, 0, 4], [0, 11, 3], [0, 0, 1]])


def header(stamp_ns: int = 5_000_000_007) -> SimpleNamespace:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    stamp = SimpleNamespace(sec=seconds, nanosec=nanoseconds)
    return SimpleNamespace(stamp=stamp, frame_id='optical')


def image(pixels: NDArray[np.generic], encoding: str, padding: int = 0) -> SimpleNamespace:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        header=header(),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def camera_info(
    height: int = 6, width: int = 8, k: NDArray[np.float64] = K, p: float = 0.0
) -> SimpleNamespace:
    projection = np.zeros((3, 4))
    projection[0, 0] = projection[1, 1] = p
    return SimpleNamespace(
        header=header(), height=height, width=width, k=k.reshape(-1), p=projection.reshape(-1)
    )


def frame(stamp_s: float, size: tuple[int, int] = (6, 8), focal: float = 10.0) -> Frame:
    matrix = np.array([[focal, 0, 4], [0, focal, 3], [0, 0, 1]])
    return Frame(np.zeros((*size, 3), np.uint8), matrix, round(stamp_s * 1e9), 'optical')


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize(
    ('encoding', 'pixels'),
    [
        ('rgb8', RGB),
        ('bgr8', RGB[..., ::-1]),
        ('rgba8', np.dstack([RGB, np.full((6, 8), 7, np.uint8)])),
        ('bgra8', np.dstack([RGB[..., ::-1], np.full((6, 8), 7, np.uint8)])),
    ],
)
def test_colour_encodings_become_rgb(
    encoding: str, pixels: NDArray[np.uint8], padding: int
) -> None:
    assert np.array_equal(decode_image(image(pixels, encoding, padding)), RGB)


def test_grey_becomes_rgb() -> None:
    decoded = decode_image(image(RGB[..., :1], 'mono8', padding=3))
    assert np.array_equal(decoded, RGB[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(('suffix', 'tolerance'), [('.png', 0), ('.jpg', 12)])
def test_compressed_images_become_rgb(suffix: str, tolerance: int) -> None:
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(suffix, smooth[..., ::-1])[1].tobytes()
    message = SimpleNamespace(header=header(), format=suffix, data=data)
    difference = np.abs(decode_image(message).astype(int) - smooth)
    assert np.median(difference) <= tolerance
    # Swapped colours would be far off
    assert np.median(np.abs(decode_image(message)[..., ::-1].astype(int) - smooth)) > 20


def test_unknown_encodings_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'yuv999'.*bgr8"):
        decode_image(image(RGB, 'yuv999'))


@pytest.mark.parametrize('data', [b'', b'not a picture'])
def test_broken_compressed_data_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match='cannot be decoded'):
        decode_image(SimpleNamespace(header=header(), format='jpeg', data=data))


def test_truncated_data_is_refused() -> None:
    message = image(RGB, 'rgb8')
    message.data = message.data[:-1]
    with pytest.raises(ValueError, match='truncated'):
        decode_image(message)


def test_a_step_shorter_than_a_row_is_refused() -> None:
    message = image(RGB, 'rgb8')
    message.step = 20
    with pytest.raises(ValueError, match='step 20'):
        decode_image(message)


@pytest.mark.parametrize('big', [False, True])
def test_depth_in_millimetres_becomes_metres_with_zero_invalid(big: bool) -> None:
    millimetres = np.array([[0, 1500], [65535, 1]], dtype='>u2' if big else '<u2')
    message = image(millimetres, '16UC1', padding=2)
    message.is_bigendian = int(big)
    expected = np.array([[np.nan, 1.5], [65.535, 0.001]], dtype=np.float32)
    np.testing.assert_array_equal(decode_depth(message), expected)


def test_depth_in_metres_is_taken_as_it_is() -> None:
    metres = np.array([[1.25, np.nan], [np.inf, 3]], dtype=np.float32)
    np.testing.assert_array_equal(decode_depth(image(metres, '32FC1')), metres)


def test_a_frame_carries_stamp_frame_id_and_intrinsics() -> None:
    made = frame_from_messages(image(RGB, 'rgb8'), camera_info())
    assert (made.stamp_ns, made.frame_id, made.size) == (5_000_000_007, 'optical', (6, 8))
    assert np.array_equal(made.K, K)


def test_the_projection_matrix_is_preferred_to_k() -> None:
    assert intrinsics_from_camera_info(camera_info(p=20.0))[0, 0] == 20


def test_a_camera_info_without_intrinsics_is_refused() -> None:
    with pytest.raises(ValueError, match='calibrate'):
        intrinsics_from_camera_info(camera_info(k=np.zeros((3, 3))))


def test_a_camera_info_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r'8x6.*16x12'):
        frame_from_messages(image(RGB, 'rgb8'), camera_info(12, 16))


def test_the_network_input_carries_k_along() -> None:
    made = frame(0, (60, 80), focal=50.0)
    image_tensor, intrinsics = network_input(made, (30, 40))
    assert image_tensor.shape == (1, 3, 30, 40)
    expected = torch.tensor([[25.0, 0, 4.5 / 2 - 0.5], [0, 25, 3.5 / 2 - 0.5], [0, 0, 1]])
    torch.testing.assert_close(intrinsics[0], expected)


@pytest.mark.parametrize(
    ('camera', 'expected'),
    [((480, 640), (192, 256)), ((370, 1226), (120, 400)), ((1280, 720), (296, 168))],
)
def test_the_network_size_keeps_aspect_and_area(
    camera: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert network_size(camera, (192, 256)) == expected


def test_consecutive_frames_continue() -> None:
    window = FrameWindow()
    assert [window.push(frame(t)) for t in (1.0, 1.1, 1.2)] == ['first', 'continued', 'continued']


@pytest.mark.parametrize(
    ('second', 'expected'),
    [
        (frame(2.0), 'gap'),
        (frame(0.1), 'clock'),
        (frame(1.1, (12, 16)), 'size'),
        (frame(1.1, focal=11.0), 'intrinsics'),
    ],
)
def test_what_breaks_a_window_is_said(second: Frame, expected: str) -> None:
    window = FrameWindow(WindowConfig(max_gap_s=0.5))
    window.push(frame(1.0))
    assert window.push(second) == expected
    later = frame(second.stamp_ns * 1e-9 + 0.1, second.size, second.K[0, 0])
    assert window.push(later) == 'continued'


@pytest.mark.parametrize(('stamp_s', 'cause'), [(1.0, 'duplicate'), (0.9, 'late')])
def test_duplicate_and_late_frames_are_rejected_and_change_nothing(
    stamp_s: float, cause: str
) -> None:
    window = FrameWindow()
    window.push(frame(1.0))
    with pytest.raises(FrameRejected) as caught:
        window.push(frame(stamp_s))
    assert caught.value.cause == cause
    assert window.push(frame(1.1)) == 'continued'
