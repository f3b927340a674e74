"""Messages to frames: every byte where it belongs, every fault by its name."""

from __future__ import annotations

from types import SimpleNamespace
from zlib import crc32

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tc_depth_ros.frames.encodings import ENCODINGS
from tc_depth_ros.frames.frame import Frame, decode_depth, decode_image
from tc_depth_ros.frames.preprocessing import network_input, network_size
from tc_depth_ros.frames.window import FrameRejected, FrameWindow, WindowConfig

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


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


def frame(stamp_s: float, size: tuple[int, int] = (6, 8), focal: float = 10.0) -> Frame:
    matrix = np.array([[focal, 0, 4], [0, focal, 3], [0, 0, 1]])
    return Frame(np.zeros((*size, 3), np.uint8), matrix, round(stamp_s * 1e9), 'optical')


# Every encoding with pixels worked out by hand


def mosaic(top: str, bottom: str) -> NDArray[np.uint8]:
    """A mosaic (5, 7) of one colour, by the letters of its top left corner."""
    value = dict(zip('rgb', COLOUR, strict=True))
    pixels = np.zeros((5, 7), np.uint8)
    for row, letters in enumerate((top, bottom)):
        for column, letter in enumerate(letters):
            pixels[row::2, column::2] = value[letter]
    return pixels[..., None]


def sixteen_bit(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Each pixel the high byte, with low bytes that would round it up."""
    return pixels.astype(np.uint16) * 256 + 255


COLOUR = (200, 120, 40)  # no two channels alike, and none the mean of the others
PLAIN = np.full((5, 7, 3), COLOUR, np.uint8)
GREY = RGB[..., :1]
ALPHA = np.full((6, 8, 1), 7, np.uint8)
# BT.601: two pixels of luma 81 and 145 share U 90 and V 240, the next two U 54 and V 34
YUV = [(81, 145, 90, 240), (145, 81, 54, 34)]
OF_YUV = np.array([[[254, 0, 0], [255, 74, 73], [0, 255, 1], [0, 181, 0]]], np.uint8)
MOSAICS = {name: mosaic(name[:2], name[2:]) for name in ('rggb', 'bggr', 'gbrg', 'grbg')}
UYVY = np.array([[(u, a), (v, b)] for a, b, u, v in YUV], np.uint8).reshape(1, 4, 2)
YUYV = UYVY[..., ::-1]
SAMPLES: dict[str, tuple[NDArray[np.generic], NDArray[np.uint8]]] = {
    'rgb8': (RGB, RGB),
    'bgr8': (RGB[..., ::-1], RGB),
    '8UC3': (RGB[..., ::-1], RGB),
    'rgba8': (np.dstack([RGB, ALPHA]), RGB),
    'bgra8': (np.dstack([RGB[..., ::-1], ALPHA]), RGB),
    'mono8': (GREY, GREY.repeat(3, axis=2)),
    '8UC1': (GREY, GREY.repeat(3, axis=2)),
    'mono16': (sixteen_bit(GREY), GREY.repeat(3, axis=2)),
    **{f'bayer_{name}8': (pixels, PLAIN) for name, pixels in MOSAICS.items()},
    **{f'bayer_{name}16': (sixteen_bit(pixels), PLAIN) for name, pixels in MOSAICS.items()},
    'yuv422': (UYVY, OF_YUV),
    'uyvy': (UYVY, OF_YUV),
    'yuv422_yuy2': (YUYV, OF_YUV),
    'yuyv': (YUYV, OF_YUV),
}


def test_every_encoding_has_its_sample() -> None:
    assert set(SAMPLES) == set(ENCODINGS)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', SAMPLES)
def test_every_encoding_becomes_rgb(encoding: str, padding: int, big: bool) -> None:
    pixels, expected = SAMPLES[encoding]
    message = image(
        pixels.astype(pixels.dtype.newbyteorder('>' if big else '<')), encoding, padding
    )
    message.is_bigendian = int(big)
    decoded = decode_image(message)
    assert (decoded.dtype, decoded.shape) == (np.uint8, expected.shape)
    tolerance = 2 if 'yu' in encoding or 'uy' in encoding else 0  # OpenCV rounds its factors
    np.testing.assert_allclose(decoded.astype(int), expected.astype(int), atol=tolerance)


@pytest.mark.parametrize('encoding', SAMPLES)
def test_truncated_data_is_refused(encoding: str) -> None:
    message = image(SAMPLES[encoding][0], encoding)
    message.data = message.data[:-1]
    with pytest.raises(ValueError, match='truncated'):
        decode_image(message)
    message.step -= 1
    with pytest.raises(ValueError, match=f'step {message.step}'):
        decode_image(message)


def test_a_mosaics_colours_stay_where_they_are() -> None:
    # Left red, right blue: a mosaic read a column off would swap them
    pixels = np.zeros((6, 12), np.uint8)
    pixels[0::2, 0:6:2] = 200
    pixels[1::2, 7::2] = 200
    decoded = decode_image(image(pixels[..., None], 'bayer_rggb8'))
    np.testing.assert_array_equal(decoded[:, 2], np.full((6, 3), (200, 0, 0)))
    np.testing.assert_array_equal(decoded[:, -3], np.full((6, 3), (0, 0, 200)))


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
def test_an_odd_width_cannot_share_colours(encoding: str) -> None:
    with pytest.raises(ValueError, match=r'5x4 .*even'):
        decode_image(image(np.zeros((4, 5, 2), np.uint8), encoding))


@pytest.mark.parametrize('size', [(2, 8), (8, 2), (1, 1)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_a_mosaic_without_neighbours_is_refused(size: tuple[int, int], dtype: type) -> None:
    encoding = f'bayer_rggb{8 * np.dtype(dtype).itemsize}'
    with pytest.raises(ValueError, match=f'{size[1]}x{size[0]} .*at least 3x3'):
        decode_image(image(np.zeros((*size, 1), dtype), encoding))


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match='empty: 0x6'):
        decode_image(image(RGB[:, :0], 'rgb8'))


def test_unknown_encodings_are_named_with_the_known_ones() -> None:
    for encoding in ('yuv999', '16UC1', ''):
        with pytest.raises(ValueError, match=rf"'{encoding}'.*bgr8.*bayer_rggb8.*8UC3: convert"):
            decode_image(image(RGB, encoding))


# Compressed


def compressed(pixels: NDArray[np.generic], suffix: str, name: str = '') -> SimpleNamespace:
    """A CompressedImage of pixels in OpenCV's order, BGR or BGRA."""
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    return SimpleNamespace(header=header(), format=name or suffix[1:], data=data)


SMOOTH = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(('suffix', 'tolerance'), [('.png', 0), ('.jpg', 12)])
def test_compressed_images_become_rgb(suffix: str, tolerance: int) -> None:
    decoded = decode_image(compressed(SMOOTH[..., ::-1], suffix))
    assert np.median(np.abs(decoded.astype(int) - SMOOTH)) <= tolerance
    # Swapped colours would be far off
    assert np.median(np.abs(decoded[..., ::-1].astype(int) - SMOOTH)) > 20


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [
        (GREY, GREY.repeat(3, axis=2)),
        (sixteen_bit(GREY), GREY.repeat(3, axis=2)),
        (sixteen_bit(RGB[..., ::-1]), RGB),
        (np.dstack([RGB[..., ::-1], ALPHA]), RGB),
        (sixteen_bit(np.dstack([RGB[..., ::-1], ALPHA])), RGB),
    ],
    ids=['grey', 'grey 16', 'colour 16', 'alpha', 'alpha 16'],
)
def test_png_of_any_kind_becomes_rgb(
    pixels: NDArray[np.generic], expected: NDArray[np.uint8]
) -> None:
    np.testing.assert_array_equal(decode_image(compressed(pixels, '.png')), expected)


def test_grey_jpeg_becomes_rgb() -> None:
    decoded = decode_image(compressed(SMOOTH[..., 0], '.jpg', 'mono8; jpeg compressed '))
    assert np.median(np.abs(decoded.astype(int) - SMOOTH[..., :1])) <= 12
    assert decoded.shape == (48, 64, 3)


def test_a_compressed_mosaic_gets_its_colours() -> None:
    message = compressed(MOSAICS['grbg'], '.png', 'bayer_grbg8; png compressed ')
    np.testing.assert_array_equal(decode_image(message), PLAIN)
    # Or the driver had made colours of it before
    message = compressed(PLAIN[..., ::-1], '.png', 'bayer_grbg8; png compressed bgr8')
    np.testing.assert_array_equal(decode_image(message), PLAIN)


def test_an_orientation_in_the_data_does_not_turn_the_image() -> None:
    message = compressed(SMOOTH[..., ::-1], '.jpg')
    # EXIF of one entry, orientation 6: to be shown turned by a quarter
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    segment = b'Exif\0\0' + tiff
    marked = b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment
    message.data = message.data[:2] + marked + message.data[2:]
    turned = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert turned.shape == (64, 48, 3)  # so the data says
    assert decode_image(message).shape == (48, 64, 3)


def test_compressed_depth_is_refused_by_name() -> None:
    message = compressed(sixteen_bit(GREY), '.png', '16UC1; compressedDepth png')
    message.data = bytes(12) + message.data
    with pytest.raises(ValueError, match=r"'16UC1; compressedDepth png'.*remap"):
        decode_image(message)


@pytest.mark.parametrize('data', [b'', b'not a picture', b'\xff\xd8', b'\x89PNG'])
def test_broken_compressed_data_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match='cannot be decoded'):
        decode_image(SimpleNamespace(header=header(), format='jpeg', data=data))


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_compressed_data_that_is_cut_short_is_refused(suffix: str) -> None:
    message = compressed(SMOOTH[..., ::-1], suffix)
    whole = message.data
    for lost in (2, 10, len(whole) // 2, len(whole) - 40):
        message.data = whole[:-lost]
        with pytest.raises(ValueError, match=f'{len(whole) - lost} bytes .*cut short'):
            decode_image(message)
    message.data = whole + bytes(100)  # as drivers with buffers of one length have it
    assert decode_image(message).shape == (48, 64, 3)


def test_data_that_lies_about_its_size_is_refused() -> None:
    message = compressed(RGB, '.png')
    lies = (2**30).to_bytes(4, 'big') * 2
    chunk = b'IHDR' + lies + message.data[24:29]
    message.data = message.data[:12] + chunk + crc32(chunk).to_bytes(4, 'big') + message.data[33:]
    with pytest.raises(ValueError, match='cannot be decoded'):
        decode_image(message)


# Depth


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


# The network's input, and the window


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


def fates(window: FrameWindow, *stamps_s: float) -> list[str]:
    """What becomes of frames, one after the other: how they continue, or why they do not."""

    def fate(stamp_s: float) -> str:
        try:
            return window.push(frame(stamp_s))
        except FrameRejected as rejection:
            return rejection.cause

    return [fate(stamp_s) for stamp_s in stamps_s]


def test_frames_swapped_on_the_way_are_single_losses() -> None:
    came = fates(FrameWindow(), 1.0, 1.2, 1.1, 1.3, 1.5, 1.4, 1.6)
    assert came[1:] == ['continued', 'late', 'continued', 'continued', 'late', 'continued']


def test_jitter_within_the_gap_goes_unnoticed() -> None:
    stamps_s = np.cumsum([1.0, 0.1, 0.02, 0.3, 0.01, 0.49])
    assert fates(FrameWindow(), *stamps_s) == ['first', *5 * ['continued']]


@pytest.mark.parametrize('ahead_s', [1000.0, 3.0, 0.3])
def test_a_frame_stamped_ahead_does_not_make_all_later_ones_late(ahead_s: float) -> None:
    came = fates(FrameWindow(), 1.0, 1.1, 1.1 + ahead_s, *np.arange(1.2, 1.85, 0.1))
    assert came[2] == ('gap' if ahead_s > 0.5 else 'continued')
    assert came.count('late') <= 2
    assert came[-3:] == 3 * ['continued']


@pytest.mark.parametrize('max_gap_s', [0.5, 60.0])
def test_a_bag_that_loops_starts_a_new_window_whatever_the_gap(max_gap_s: float) -> None:
    window = FrameWindow(WindowConfig(max_gap_s=max_gap_s))
    loop_s = np.arange(1.0, 2.95, 0.1)  # shorter than the longer gap
    assert fates(window, *loop_s)[1:] == 19 * ['continued']
    for _ in range(2):
        came = fates(window, *loop_s)
        assert came.count('clock') == 1
        assert came.count('late') == (0 if max_gap_s == 0.5 else 2)
        assert came[-10:] == 10 * ['continued']


def test_a_camera_that_repeats_itself_is_a_duplicate_for_ever() -> None:
    assert fates(FrameWindow(), *6 * [1.0]) == ['first', *5 * ['duplicate']]


def test_late_frames_of_a_second_publisher_do_not_add_up() -> None:
    came = fates(FrameWindow(), *[t for i in range(8) for t in (1 + i / 10, 0.8 + i / 10)])
    assert came[2::2] == 7 * ['continued']
    assert set(came[1::2]) == {'late'}


def test_a_reset_forgets_late_frames_too() -> None:
    window = FrameWindow()
    assert fates(window, 1.0, 0.9, 0.8) == ['first', 'late', 'late']
    window.reset()
    assert fates(window, 1.0, 0.9, 0.8) == ['first', 'late', 'late']


def test_a_frame_without_stamp_is_rejected_with_the_remedy_and_changes_nothing() -> None:
    window = FrameWindow()
    for _ in range(2):
        with pytest.raises(FrameRejected, match=r'stamp is 0: set header\.stamp') as caught:
            window.push(frame(0))
        assert caught.value.cause == 'unstamped'
    assert fates(window, 1.0, 0.0, 1.1) == ['first', 'unstamped', 'continued']
