"""
Time the network and the predictor; ``make bench``.

Milliseconds belong to the machine and the moment; compare the ratios of one run. Variants take
turns, so that a busy moment hits them all.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import torch

from tc_depth_ros.frames.frame import Frame, decode_image
from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.geometry.cloud import organised_cloud
from tc_depth_ros.network.config import PAPER, SMALL, MatchingConfig
from tc_depth_ros.network.stream import DepthStream
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.pictures import colour_depth, depth_range
from tc_depth_ros.pipeline import DepthPipeline
from tc_depth_ros.predictor import DepthPredictor
from tc_depth_training.synthetic import render_recording

ROUNDS = 10


def time_in_turns(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each variant, after a warm-up."""
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: float(np.median(values)) for name, values in times.items()}


def show(title: str, times: dict[str, float]) -> None:
    """Print times and their ratio to the first."""
    first = next(iter(times.values()))
    print(f'\n{title}')
    for name, milliseconds in times.items():
        print(f'  {name:<44} {milliseconds:9.1f} ms  {milliseconds / first:6.2f}')


def networks() -> dict[str, float]:
    """A streamed frame against the window predicted whole, for both configurations."""
    variants: dict[str, Callable[[], object]] = {}
    for name, config, (height, width) in (
        ('small', SMALL, (192, 256)),
        ('paper', PAPER, (192, 640)),
    ):
        network = TCDepth(config).eval()
        stream, images = DepthStream(network), torch.rand(1, 3, 3, height, width)
        K = torch.tensor([[[width * 0.9, 0, width / 2], [0, width * 0.9, height / 2], [0, 0, 1]]])
        size = f'{name} {height}x{width}'
        variants[f'{size}, whole window of 3'] = lambda n=network, i=images, k=K: n(i, k)
        variants[f'{size}, streamed frame'] = lambda s=stream, i=images, k=K: s.push(i[:, 0], k)
    with torch.inference_mode():
        return time_in_turns(variants)


def matching() -> dict[str, float]:
    """A streamed frame of `small` without and with matching, with two keyframes each time."""
    images = torch.from_numpy(np.stack([v.image for v in render_recording(8, 192, 256)]))
    shown = images.permute(0, 3, 1, 2)[:, None].float() / 255
    K = torch.tensor([[[230.0, 0, 128], [0, 230, 96], [0, 0, 1]]])
    turn = itertools.cycle(range(8))
    variants: dict[str, Callable[[], object]] = {}
    for name, config in (
        ('without matching', SMALL),
        ('with matching', replace(SMALL, matching=MatchingConfig())),
    ):
        stream = DepthStream(TCDepth(config).eval())

        def push(stream: DepthStream = stream) -> object:
            index = next(turn)
            pose = np.eye(4)
            pose[0, 3] = 0.005 * index  # untrained, it answers 0.2 m
            step = np.eye(4)
            step[0, 3] = 0.005
            answer = stream.push(shown[index], K, CameraPose(pose, 'odometry', 1.0, step))
            assert answer is not None
            return answer.keyframes_used

        with torch.inference_mode():
            used = [push() for _ in range(8)][-1]
        assert used == (2 if config.matching else 0)
        variants[f'small 192x256, streamed frame, {name}'] = push
    with torch.inference_mode():
        return time_in_turns(variants)


def node_path() -> dict[str, float]:
    """What a frame of 640x480 costs on its way through the node."""
    views = render_recording(4, 480, 640)
    stamps = iter(range(10**9, 10**12, 10**8))
    turn = itertools.cycle(views)

    def frame() -> Frame:
        view = next(turn)
        return Frame(view.image, view.K, next(stamps), '')

    predictor = DepthPredictor.from_weights(device='cpu')
    plain, sure = (DepthPipeline(DepthPredictor.from_weights(device='cpu')) for _ in range(2))
    plain.push(frame(), wants_confidence=False)
    sure.push(frame(), wants_confidence=True)
    prediction = predictor.push(frame())
    assert prediction is not None
    depth, shown = prediction.depth, prediction.frame
    image, K = shown.image, shown.K
    _, data = cv2.imencode('.jpg', image[..., ::-1])
    jpeg = SimpleNamespace(data=data.tobytes(), format='jpeg')
    return time_in_turns(
        {
            'predictor.push, embedded weights': lambda: predictor.push(frame()),
            'pipeline.push: motion, consistency': lambda: plain.push(
                frame(), wants_confidence=False
            ),
            'pipeline.push: confidence too': lambda: sure.push(frame(), wants_confidence=True),
            'decode a JPEG': lambda: decode_image(jpeg),
            'organised cloud': lambda: organised_cloud(depth, image, K),
            'organised cloud, stride 2': lambda: organised_cloud(depth, image, K, 2),
            'colour map': lambda: colour_depth(depth, depth_range(depth)),
        }
    )


def messages_out() -> dict[str, float]:
    """What it costs to make messages of 640x480, the largest being 4.9 MB."""
    from tc_depth_ros.ros import messages

    (view,) = render_recording(1, 480, 640)
    frame = Frame(view.image, view.K, 1, '')
    cloud = organised_cloud(view.depth, view.image, view.K)
    return time_in_turns(
        {
            'depth image, 32FC1': lambda: messages.depth_image(view.depth, frame),
            'depth image, 16UC1': lambda: messages.depth_image_mm(view.depth, frame),
            'cloud': lambda: messages.organised_points(cloud, frame),
        }
    )


if __name__ == '__main__':
    print(f'{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}')
    show('network, one answer', networks())
    show('matching', matching())
    show('node path, 640x480', node_path())
    show('messages, 640x480', messages_out())
