"""One file of weights that knows all it needs to be used: safetensors with JSON metadata."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tc_depth_ros.network.build import DepthNetwork, build_network
from tc_depth_ros.network.config import (
    DepthConfig,
    PoseNetConfig,
    depth_config_from_dict,
    depth_config_to_dict,
)
from tc_depth_ros.network.pose import PoseNet

FORMAT = 'tc_depth/1'
CHECKSUM_KEY = 'sha256'


class WeightsError(ValueError):
    """A weights file that cannot be used; the message names the file, the cause, the remedy."""


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says of itself."""

    network: DepthConfig
    input_height: int  # pixels, as trained
    input_width: int
    metric: bool  # depth is in metres times ``scale``
    scale: float = 1.0  # metres per network unit; means nothing unless metric
    scale_source: str = ''  # how the scale is known, or why it is not, in words
    pose: PoseNetConfig | None = None  # None: the file has no pose network
    training_data: str = ''
    code_version: str = ''
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no network can be run with."""
        for name in ('input_height', 'input_width'):
            side = getattr(self, name)
            if not isinstance(side, int) or side < 16 or side % 8:
                raise ValueError(f'{name} is {side!r}; it must be a multiple of 8 from 16 on')
        if not isinstance(self.metric, bool):
            raise ValueError(f'metric is {self.metric!r}; it must be true or false')
        if not isinstance(self.scale, int | float) or not self.scale > 0:
            raise ValueError(f'scale is {self.scale!r}; it must be positive')

    def to_json(self) -> str:
        """All fields, for the file's metadata."""
        values = asdict(self) | {'network': depth_config_to_dict(self.network)}
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> WeightsInfo:
        """Parse the file's metadata; unknown or missing keys raise TypeError or KeyError."""
        values = json.loads(text)
        values['network'] = depth_config_from_dict(values['network'])
        values['pose'] = PoseNetConfig(**values['pose']) if values['pose'] else None
        return cls(**values)


class Weights(NamedTuple):
    """A loaded file: networks in eval mode, and what the file says of itself."""

    network: DepthNetwork
    pose_net: PoseNet | None
    info: WeightsInfo


def save_weights(
    path: Path, network: DepthNetwork, info: WeightsInfo, pose_net: PoseNet | None = None
) -> None:
    """
    Write a weights file; a crash on the way leaves the old file, never half a new one.

    Equal weights are equal files, byte for byte.
    """
    tensors = _prefixed('depth', network)
    if pose_net is not None:
        tensors |= _prefixed('pose', pose_net)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        metadata = {'format': FORMAT, 'info': info.to_json(), CHECKSUM_KEY: checksum(tensors)}
        with temporary.open('wb') as file:
            for part in _with_sorted_metadata(save(tensors, metadata)):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may keep the name and lose the contents
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path, device: torch.device | str = 'cpu') -> Weights:
    """
    Rebuild the networks that a file describes, and fill them, strictly.

    :raises WeightsError: missing, corrupt, of another format, or a weight missing, unexpected or
        misshapen; every such name is listed
    """
    info, tensors = _read(path)
    try:
        network = build_network(info.network)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f'weights {path} describe a network that cannot be built ({error}): use weights and '
            'code of the same version'
        ) from error
    _fill(network, _part('depth', tensors), path)
    pose_net = PoseNet(info.pose) if info.pose else None
    if pose_net is not None:
        _fill(pose_net, _part('pose', tensors), path)
        pose_net.to(device).eval()
    return Weights(network.to(device).eval(), pose_net, info)


def read_weights_info(path: Path) -> WeightsInfo:
    """What a weights file says of itself, without its weights; raises as load_weights."""
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise WeightsError(
            f'weights {path} do not exist: set weights to a file that does'
        ) from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f'weights {path} are not a readable safetensors file ({error}): copy the file again, '
            'or convert a .pth with tc-depth import-official'
        ) from error
    if metadata.get('format') != FORMAT:
        raise WeightsError(
            f"weights {path} are of format '{metadata.get('format')}', expected '{FORMAT}': "
            'use a file that tc-depth wrote'
        )
    try:
        return WeightsInfo.from_json(metadata['info'])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f'weights {path} describe a network that this version does not know ({error}): '
            'use weights and code of the same version'
        ) from error


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents; safetensors itself does not look at these."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)};'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[WeightsInfo, dict[str, Tensor]]:
    info = read_weights_info(path)
    with safe_open(path, framework='pt') as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        expected = file.metadata().get(CHECKSUM_KEY)
    if expected not in (None, checksum(tensors)):  # files written before had none
        raise WeightsError(
            f'weights {path} are damaged: their contents do not fit their checksum; copy the file '
            'again'
        )
    return info, tensors


def _with_sorted_metadata(saved: bytes) -> tuple[bytes, memoryview]:
    """Header and tensors of a safetensors file, whose library writes metadata in any order."""
    end = 8 + int.from_bytes(saved[:8], 'little')
    header = json.loads(saved[8:end])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, 'little') + text, memoryview(saved)[end:]


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {
        f'{prefix}.{key}': value.detach().cpu().contiguous()
        for key, value in module.state_dict().items()
    }


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f'{prefix}.'
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    expected = module.state_dict()
    problems = [f'missing {key}' for key in expected if key not in tensors]
    problems += [f'unexpected {key}' for key in tensors if key not in expected]
    problems += [
        f'{key} is {tuple(tensors[key].shape)}, expected {tuple(value.shape)}'
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        raise WeightsError(f'weights {path} do not fit their own network: {"; ".join(problems)}')
    module.load_state_dict(tensors, strict=True)
