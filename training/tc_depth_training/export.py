"""
ONNX of the streaming step, compared with torch in onnxruntime before it gets its name.

What an exporter writes is not always what was meant, and a graph that is wrong by a little is
found late on a robot. So no file is left that does not agree over a few frames.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.geometry.transform import transform_from_axis_angle
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights
from tc_depth_ros.network.config import MonodepthConfig
from tc_depth_ros.network.keyframes import KeyframeBuffer
from tc_depth_ros.network.matching import MatchView
from tc_depth_ros.network.stream import open_stream
from tc_depth_ros.network.tc_depth import STRIDE
from tc_depth_training import __version__
from tc_depth_training.streaming_step import (
    COUNT,
    KEYFRAME_COUNT,
    LAST_FRAMES,
    NEXT,
    Port,
    StreamingStep,
)
from tc_depth_training.synthetic import render_recording

OPSET = 20
MAX_DIFFERENCE = 1e-4  # of disparity, from torch's
# Of a matched frame's pixels, those whose difference does not count. Whether a cell that falls on
# the very edge of a keyframe is in view is up to rounding. 1 of 57 frames had one, of 60 pixels,
# before similarities were averaged over neighbours; 0 of 46 since
EDGE_SHARE = 0.01
FRAMES = 5  # of each comparison: the state fills up, and is handed on
SIDEWAYS = 0.1  # of the network's depth, from one frame of noise to the next
TURN_RAD = 0.01  # about each axis, likewise
NEEDED = ('onnx', 'onnxscript', 'onnxruntime')
K_POLICY = (
    'of the rectified image, scaled with it to this size; the centre of the top left pixel is '
    "(0, 0): fx' = s fx, cx' = s (cx + 0.5) - 0.5"
)
Floats = NDArray[np.float32]
Array = NDArray[Any]
TYPES = {torch.float32: 'float32', torch.int64: 'int64'}


class ExportError(RuntimeError):
    """Weights that could not be exported; no file was written."""


@dataclass(frozen=True)
class Parity:
    """How far the exported graph is from torch: the largest difference of disparity."""

    random: float  # over frames of noise
    room: float  # over frames of a rendered room
    matched: int  # frames of both that had keyframes

    @property
    def worst(self) -> float:
        """The larger difference of the two; NaN if one is."""
        return float(np.max([self.random, self.room]))


@dataclass(frozen=True)
class Export:
    """An ONNX file that was written."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parity: Parity


def export_onnx(weights: Path, out: Path, size: tuple[int, int] | None = None) -> Export:
    """
    Write the streaming step of weights as ONNX, float32, of a fixed size.

    :param size: (height, width) of its images; None: as the weights were trained
    :raises ExportError: a package is missing, torch's exporter fails, or the graph disagrees
    :raises ValueError: the network cannot take this size
    """
    _check_packages()
    loaded = load_weights(weights)
    info = loaded.info
    size = size or (info.input_height, info.input_width)
    if any(side % STRIDE for side in size):
        raise ValueError(
            f'size is {size[0]}x{size[1]} (height x width); both must be divisible by {STRIDE}'
        )
    recordings = [make(loaded.network, info.scale, size) for make in (_noise, _room)]
    step = StreamingStep(loaded.network, info.scale, size).eval()
    if step.keyframes and not any(recording.matched for recording in recordings):
        raise ExportError(
            f'the matching of {weights} could not be compared with torch: none of '
            f'{len(recordings) * FRAMES} frames has a keyframe with parallax and overlap at the '
            'depth that it sees; nothing was written: train it first'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    try:
        _write(step, info, temporary)
        noise, room = (_difference(temporary, step, recording) for recording in recordings)
        parity = Parity(noise, room, sum(recording.matched for recording in recordings))
        if not parity.worst <= MAX_DIFFERENCE:
            raise ExportError(
                f'the ONNX of {weights} differs from torch by {parity.worst:.1e} of disparity, '
                f'more than {MAX_DIFFERENCE:.0e}; nothing was written: try other versions of '
                f'{", ".join(NEEDED)} and torch {torch.__version__}'
            )
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return Export(out, step.inputs, step.outputs, parity)


def describe(export: Export) -> str:
    """A few lines: what goes in and out, how well it agrees, how to run it."""
    lines = [
        f'wrote {export.path}, {export.path.stat().st_size / 1e6:.1f} MB',
        f'in:  {_listed(export.inputs)}',
        f'out: {_listed(export.outputs)}',
        f'differs from torch by {export.parity.worst:.1e} of disparity at most, over {FRAMES} '
        f'frames of noise and {FRAMES} of a room',
    ]
    names = [port.name for port in export.inputs]
    if KEYFRAME_COUNT in names:
        lines[-1] += (
            f', {export.parity.matched} of them matched ({EDGE_SHARE:.0%} of the pixels of each '
            'left out, for rounding at the edge of the view)'
        )
        lines += [
            'keyframe_features are features that came out before: keep and choose them as '
            'tc_depth_ros/network/keyframes.py does',
            f'zero in {KEYFRAME_COUNT}: not matched; zeros in {LAST_FRAMES}: not fused with the '
            'frame before',
        ]
    if COUNT in names:
        lines.append(f'zeros for past_* begin a stream; then each {NEXT}past_* is the next past_*')
    return '\n'.join(lines)


def _listed(ports: Sequence[Port]) -> str:
    return ', '.join(f'{port.name} {"x".join(map(str, port.shape))}' for port in ports)


def _check_packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f'export needs {", ".join(missing)}: pip install tc-depth-training[onnx]'
        )


# Writing


def _write(step: StreamingStep, info: WeightsInfo, path: Path) -> None:
    image, _, *others = step.inputs
    with _quiet():
        program = torch.onnx.export(
            step,
            (torch.rand(image.shape), torch.eye(3)[None], *(port.zeros() for port in others)),
            input_names=[port.name for port in step.inputs],
            output_names=[port.name for port in step.outputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten._cdist_forward.default: _distances},
        )
        assert program is not None  # it is None of the exporter before dynamo's
        program.model.metadata_props.update(_metadata(step, info))
        program.save(path, external_data=False)


def _distances(a: Any, b: Any, p: float, compute_mode: int | None = None) -> Any:
    """Euclidean distances of all pairs, (B, N, 3) and (B, M, 3) to (B, N, M), without shortcut."""
    from onnxscript import opset20

    assert p == 2
    op: Any = opset20  # typed as if it took no Python lists
    apart = op.Sub(op.Unsqueeze(a, [2]), op.Unsqueeze(b, [1]))
    return op.Sqrt(op.ReduceSumSquare(apart, [3], keepdims=0))


def _metadata(step: StreamingStep, info: WeightsInfo) -> dict[str, str]:
    """All that a program needs to know to run it, as ONNX keeps it: strings."""
    height, width = step.size
    return {
        'format': 'tc_depth_onnx/1',
        'written_by': f'tc-depth {__version__}, torch {torch.__version__}',
        'weights': info.to_json(),
        'height': str(height),
        'width': str(width),
        'metric': json.dumps(info.metric),
        'scale': str(info.scale),
        'depth_unit': 'm' if info.metric else 'unknown: depth is up to a factor',
        'K': K_POLICY if _looks_at_K(info) else 'not looked at: anything will do',
        'inputs': _ports_json(step.inputs),
        'outputs': _ports_json(step.outputs),
        'state': json.dumps({NEXT + port.name: port.name for port in step.state}),
    }


def _looks_at_K(info: WeightsInfo) -> bool:
    network = info.network
    if isinstance(network, MonodepthConfig):
        return False
    kernel_does = network.spatial_attention and network.attention_intrinsics is None
    return kernel_does or network.matching is not None


def _ports_json(ports: Sequence[Port]) -> str:
    described = {
        port.name: {'shape': port.shape, 'type': TYPES[port.dtype], 'meaning': port.meaning}
        for port in ports
    }
    return json.dumps(described)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own affairs to itself; its errors are raised."""
    logger = logging.getLogger('torch.onnx')
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(before)


# Comparing


@dataclass(frozen=True)
class _Recording:
    """Frames, and what torch's own stream makes of them."""

    images: Tensor  # (F, 3, H, W), RGB in [0, 1]
    K: Tensor  # (1, 3, 3)
    poses: list[CameraPose]  # in the unit of depth
    disparities: Floats  # (F, 1, H, W)
    matched: int  # how many of the frames had keyframes

    @classmethod
    def of(
        cls,
        network: DepthNetwork,
        scale: float,
        images: Tensor,
        K: Tensor,
        poses: Sequence[CameraPose],
    ) -> _Recording:
        """Stream the frames through the network."""
        stream, found, matched = open_stream(network), [], 0
        with torch.inference_mode():
            for image, pose in zip(images.split(1), poses, strict=True):
                answer = stream.push(image, K, pose.in_units_of(scale))
                assert answer is not None  # the stream answers for the newest frame
                found.append(answer.disparity)
                matched += answer.keyframes_used > 0
        return cls(images, K, list(poses), torch.cat(found).numpy(), matched)


def _noise(network: DepthNetwork, scale: float, size: tuple[int, int]) -> _Recording:
    """Frames of noise, seen by a camera that moves by a share of the network's depth."""
    height, width = size
    images = torch.rand(FRAMES, 3, height, width, generator=torch.Generator().manual_seed(0))
    K = torch.tensor([[[width, 0.0, width / 2], [0.0, width, height / 2], [0, 0, 1]]])
    frame = torch.arange(FRAMES, dtype=torch.float64)[:, None]
    step = SIDEWAYS * _median_depth(network, images[:1], K)
    moved = frame * torch.tensor([step, 0.0, 0.0], dtype=torch.float64)
    turned = (frame * TURN_RAD).expand(FRAMES, 3)
    poses = transform_from_axis_angle(turned, moved).numpy()
    tracked = _tracked(list(poses), 'noise', scale)
    return _Recording.of(network, scale, images, K, tracked)


def _tracked(poses: Sequence[NDArray[np.float64]], track: str, unit: float) -> list[CameraPose]:
    """Poses that tell the motions between them too."""
    tracked = [CameraPose(poses[0], track, unit)]
    for before, now in itertools.pairwise(poses):
        pose = CameraPose(now, track, unit)
        tracked.append(replace(pose, last_T_this=pose.past_T_this(before)))
    return tracked


def _median_depth(network: DepthNetwork, image: Tensor, K: Tensor) -> float:
    """Of a first frame, in the network's unit."""
    config = network.config
    with torch.inference_mode():
        answer = open_stream(network).push(image, K)
    assert answer is not None  # as above
    depth = depth_from_disparity(answer.disparity, config.min_depth, config.max_depth)
    return float(depth.median())


def _room(network: DepthNetwork, scale: float, size: tuple[int, int]) -> _Recording:
    """A walk through a rendered room, in metres."""
    views = render_recording(FRAMES, *size)
    images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
    K = torch.from_numpy(views[0].K).float()[None]
    poses = _tracked([view.world_T_camera for view in views], 'room', 1.0)
    return _Recording.of(network, scale, images.float() / 255, K, poses)


def _difference(path: Path, step: StreamingStep, recording: _Recording) -> float:
    """
    Largest difference of disparity from torch's, over all frames; NaN if there is one.

    With matching, a share of each frame's pixels does not count: see :data:`EDGE_SHARE`.
    """
    apart = np.abs(np.stack(_streamed(path, step, recording)) - recording.disparities)
    counted = 1 - EDGE_SHARE if step.keyframes else 1.0
    return float(np.quantile(apart, counted, axis=(1, 2, 3)).max())


def _streamed(path: Path, step: StreamingStep, recording: _Recording) -> list[Floats]:
    """
    Disparities of the frames in onnxruntime, (1, H, W) each.

    A user hands on the state so, and keeps keyframes so. Only a frame's own depth tells which of
    them are the best for it, as in torch; so each frame runs once without, and then with them.
    """
    run = _Graph(path, step)
    state = {port.name: port.zeros().numpy() for port in step.state}
    keyframes, found = KeyframeBuffer(), []
    for image, pose in zip(recording.images.split(1), recording.poses, strict=True):
        frame = {'image': image.numpy(), 'K': recording.K.numpy(), **state}
        # By itself: the depth that keyframes are chosen with
        answer = run(frame | _without_last(state))
        if step.keyframes:
            most = step.keyframes[0].shape[1]
            views = keyframes.choose(pose, _inverse_depth(answer), recording.K, most)
            if pose.last_T_this is not None:
                frame['last_T_target'] = pose.last_T_this[None].astype(np.float32)
            answer = run(frame, views)
            features = torch.from_numpy(answer['features'])
            keyframes.add(pose, features, _inverse_depth(answer), recording.K)
        found.append(answer['disparity'][0])
        state = {port.name: answer[NEXT + port.name] for port in step.state}
    return found


class _Graph:
    """The exported step in onnxruntime."""

    def __init__(self, path: Path, step: StreamingStep) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        self._step = step

    def __call__(
        self, frame: Mapping[str, Array], views: Sequence[MatchView] = ()
    ) -> dict[str, Array]:
        """
        All that comes out, by name.

        :param frame: image, K and state, by name
        :param views: keyframes to match with
        """
        given = {port.name: port.zeros().numpy() for port in self._step.inputs}
        given.update(frame)
        given.update(_keyframe_inputs(self._step, views))
        answer = self._session.run(None, given)
        return dict(zip((port.name for port in self._step.outputs), answer, strict=True))


def _without_last(state: Mapping[str, Array]) -> dict[str, Array]:
    """State that begins the mean of depths anew, where a network takes one."""
    return {name: np.zeros_like(x) for name, x in state.items() if name == LAST_FRAMES}


def _keyframe_inputs(step: StreamingStep, views: Sequence[MatchView]) -> dict[str, Array]:
    """Keyframes as the graph takes them: those that are there, then zeros."""
    if not step.keyframes:
        return {}
    features, past_T_target, count = inputs = [port.zeros() for port in step.keyframes]
    count[0] = len(views)
    for index, view in enumerate(views):
        features[:, index], past_T_target[:, index] = view
    return {port.name: x.numpy() for port, x in zip(step.keyframes, inputs, strict=True)}


def _inverse_depth(answer: Mapping[str, Array]) -> Tensor:
    return torch.from_numpy(1 / answer['depth'])
