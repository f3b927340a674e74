"""
The node's depth as depth_image_proc's users take it: their cloud is ours.

The arithmetic here is written from what depth_image_proc documents (point_cloud_xyzrgb), not from
our cloud: the pinhole of CameraInfo's ``p``, a point per pixel of the depth image, row by row,
NaN where the depth is not finite, 16UC1 in millimetres with 0 for no depth.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from numpy.typing import NDArray
from ros_harness import Camera, Client, node_command, ros_world, running, write_weights
from sensor_msgs.msg import CameraInfo, Image

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.predictor import DepthPredictor

pytestmark = pytest.mark.ros

CAMERA = Camera(96, 72)
FRAMES = 3
REGISTERED = ('depth/image', 'depth/camera_info', 'points')


@dataclass(frozen=True)
class RegisteredCloud:
    """What depth_image_proc would publish."""

    stamp: Any
    frame_id: str
    height: int
    width: int
    xyz: NDArray[np.float64]  # (H, W, 3), m
    rgb: NDArray[np.uint32]  # (H, W), r << 16 | g << 8 | b


def depth_in_m(message: Image, u: int, v: int) -> float:
    """z of one pixel; NaN where there is none."""
    order = '>' if message.is_bigendian else '<'
    if message.encoding == '32FC1':
        (z,) = struct.unpack_from(f'{order}f', message.data, v * message.step + 4 * u)
        return float(z) if math.isfinite(z) else math.nan
    assert message.encoding == '16UC1', message.encoding
    (millimetres,) = struct.unpack_from(f'{order}H', message.data, v * message.step + 2 * u)
    return millimetres / 1000 if millimetres else math.nan


def colour(message: Image, u: int, v: int) -> int:
    """Colour of one pixel, packed."""
    first, second, third = message.data[v * message.step + 3 * u :][:3]
    red, green, blue = {
        'rgb8': (first, second, third),
        'bgr8': (third, second, first),
    }[message.encoding]
    return int(red) << 16 | int(green) << 8 | int(blue)


def register(depth: Image, info: CameraInfo, image: Image) -> RegisteredCloud:
    """Make a cloud of a depth image, its CameraInfo and a colour image of the same stamp."""
    assert depth.header == info.header  # or its synchroniser would not bring them together
    assert depth.header == image.header
    assert (depth.height, depth.width) == (image.height, image.width)
    fx, fy, cx, cy = info.p[0], info.p[5], info.p[2], info.p[6]
    points = []
    for v in range(depth.height):
        for u in range(depth.width):
            z = depth_in_m(depth, u, v)
            points.append(((u - cx) * z / fx, (v - cy) * z / fy, z, colour(image, u, v)))
    table = np.array(points).reshape(depth.height, depth.width, 4)
    return RegisteredCloud(
        depth.header.stamp,
        depth.header.frame_id,
        depth.height,
        depth.width,
        table[..., :3],
        table[..., 3].astype(np.uint32),
    )


def ranges(folder: Path) -> dict[str, float]:
    """Ranges that make some of the random depth too near and some too far."""
    predictor = DepthPredictor.from_weights(folder / 'tiny.safetensors', 'cpu')
    prediction = predictor.push(Frame(CAMERA.picture(), CAMERA.K, 1, ''))
    assert prediction is not None
    near, far = np.quantile(prediction.depth, (0.2, 0.8))
    return {'min_range': round(float(near), 4), 'max_range': round(float(far), 4)}


@dataclass(frozen=True)
class Exchange:
    """One image, and what the node made of it."""

    image: Image
    outputs: dict[str, Any]


@pytest.fixture(scope='module')
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Exchange]]:
    """Show images to a node of its own, over DDS."""
    folder = tmp_path_factory.mktemp('registered')
    write_weights(folder / 'tiny.safetensors')
    parameters = {'weights': folder / 'tiny.safetensors', **ranges(folder)}
    with ros_world(folder), ExitStack() as stack:
        stack.enter_context(running(node_command(parameters), folder / 'node.txt'))
        client = stack.enter_context(closing(Client()))
        client.listen(*REGISTERED)
        client.meet(CAMERA.raw(CAMERA.picture()), CAMERA.info())
        answered = []
        for index in range(FRAMES):
            image = CAMERA.raw(CAMERA.picture(index), ('bgr8', 'rgb8')[index % 2])
            answered.append(Exchange(image, client.ask(image, CAMERA.info())))
        yield answered


def test_depth_image_proc_would_make_our_cloud(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        depth, info, ours = (exchange.outputs[output] for output in REGISTERED)
        theirs = register(depth, info, exchange.image)
        assert (ours.header.stamp, ours.header.frame_id) == (theirs.stamp, theirs.frame_id)
        assert (ours.height, ours.width) == (theirs.height, theirs.width)
        assert not ours.is_dense and not ours.is_bigendian
        fields = {field.name: field for field in ours.fields}
        values = np.ndarray(
            (ours.height, ours.width),
            np.dtype(
                {
                    'names': list(fields),
                    'formats': ['<f4', '<f4', '<f4', '<u4'],
                    'offsets': [field.offset for field in fields.values()],
                    'itemsize': ours.point_step,
                }
            ),
            bytes(ours.data),
            strides=(ours.row_step, ours.point_step),
        )
        valid = np.isfinite(theirs.xyz[..., 2])
        assert 0.2 < valid.mean() < 0.9  # else one half of what follows says nothing
        for axis, name in enumerate('xyz'):
            np.testing.assert_allclose(values[name], theirs.xyz[..., axis], rtol=1e-6)  # NaN too
        np.testing.assert_array_equal(values['rgb'], theirs.rgb)


def test_the_depth_is_one_that_depth_image_proc_takes(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        depth, info = exchange.outputs['depth/image'], exchange.outputs['depth/camera_info']
        assert depth.encoding in ('32FC1', '16UC1')
        assert (info.height, info.width) == (depth.height, depth.width)
        assert info.p[0] > 0 and info.p[5] > 0
        assert info.p[3] == info.p[7] == info.p[11] == 0  # no baseline
        assert not any(info.d)  # it does not rectify
        np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))


def test_millimetres_are_read_as_depth_image_proc_reads_them() -> None:
    """Of the arithmetic above: known points of a 16UC1 image."""
    camera = Camera(2, 1)
    depth = Image(height=1, width=2, encoding='16UC1', step=4)
    depth.data = array('B', struct.pack('<HH', 0, 1500))
    cloud = register(depth, camera.info(), camera.raw(np.full((1, 2, 3), (1, 2, 3), np.uint8)))
    K = camera.K
    expected = (1 - K[0, 2]) * 1.5 / K[0, 0], (0 - K[1, 2]) * 1.5 / K[1, 1], 1.5
    np.testing.assert_allclose(cloud.xyz[0, 1], expected)
    assert np.isnan(cloud.xyz[0, 0]).all()
    np.testing.assert_array_equal(cloud.rgb, 0x010203)
