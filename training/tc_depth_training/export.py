"""
ONNX of the streaming step, compared with torch in onnxruntime before it gets its name.

What an exporter writes is not always what was meant, and a graph that is wrong by a little is
found late on a robot. So no file is left that does not agree over a few frames.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights
from tc_depth_ros.network.config import MonodepthConfig
from tc_depth_ros.network.stream import open_stream
from tc_depth_ros.network.tc_depth import STRIDE
from tc_depth_training import __version__
from tc_depth_training.streaming_step import NEXT, Port, StreamingStep
from tc_depth_training.synthetic import render_recording

OPSET = 20
MAX_DIFFERENCE = 1e-4  # of disparity, from torch's
FRAMES = 5  # of each comparison: the state fills up, and is handed on
NEEDED = ('onnx', 'onnxscript', 'onnxruntime')
K_POLICY = (
    'of the rectified image, scaled with it to this size; the centre of the top left pixel is '
    "(0, 0): fx' = s fx, cx' = s (cx + 0.5) - 0.5"
)
TYPES = {torch.float32: 'float32', torch.int64: 'int64'}


class ExportError(RuntimeError):
    """Weights that could not be exported; no file was written."""


@dataclass(frozen=True)
class Parity:
    """How far the exported graph is from torch: the largest difference of disparity."""

    random: float  # over frames of noise
    room: float  # over frames of a rendered room

    @property
    def worst(self) -> float:
        """The larger of the two; NaN if one is."""
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
    recordings = [_Recording.of(loaded.network, *frames) for frames in (_noise(size), _room(size))]
    step = StreamingStep(loaded.network, info.scale, size).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    try:
        _write(step, info, temporary)
        parity = Parity(*(_difference(temporary, step, recording) for recording in recordings))
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
    if len(export.inputs) > 2:
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
    examples = (*(torch.rand(p.shape) for p in step.inputs[:1]), torch.eye(3)[None])
    with _quiet():
        program = torch.onnx.export(
            step,
            (*examples, *(port.zeros() for port in step.state)),
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
    return network.spatial_attention and network.attention_intrinsics is None


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
    disparities: NDArray[np.float32]  # (F, 1, H, W)

    @classmethod
    def of(cls, network: DepthNetwork, images: Tensor, K: Tensor) -> _Recording:
        """Stream the frames through the network."""
        stream, found = open_stream(network), []
        with torch.inference_mode():
            for image in images.split(1):
                answer = stream.push(image, K)
                assert answer is not None  # the stream answers for the newest frame
                found.append(answer.disparity)
        return cls(images, K, torch.cat(found).numpy())


def _noise(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    height, width = size
    images = torch.rand(FRAMES, 3, height, width, generator=torch.Generator().manual_seed(0))
    return images, torch.tensor([[[width, 0.0, width / 2], [0.0, width, height / 2], [0, 0, 1]]])


def _room(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    views = render_recording(FRAMES, *size)
    images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
    return images.float() / 255, torch.from_numpy(views[0].K).float()[None]


def _difference(path: Path, step: StreamingStep, recording: _Recording) -> float:
    """Largest difference of disparity from torch's, over all frames; NaN if there is one."""
    apart = np.stack(_streamed(path, step, recording)) - recording.disparities
    return float(np.abs(apart).max())


def _streamed(path: Path, step: StreamingStep, recording: _Recording) -> list[NDArray[np.float32]]:
    """Disparities of the frames in onnxruntime, (1, H, W) each; a user hands on the state so."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    state = {port.name: port.zeros().numpy() for port in step.state}
    found = []
    for image in recording.images.split(1):
        answer = session.run(None, {'image': image.numpy(), 'K': recording.K.numpy(), **state})
        named = dict(zip((port.name for port in step.outputs), answer, strict=True))
        found.append(named['disparity'][0])
        state = {port.name: named[NEXT + port.name] for port in step.state}
    return found
