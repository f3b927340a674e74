"""What the losses and the attention saw in one window, as pictures for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tc_depth_ros.network.attention_maps import attention_of_cell
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.tc_depth import STRIDE, TCDepth
from tc_depth_ros.pictures import (
    RGBImage,
    colour_depth,
    contact_sheet,
    depth_range,
    encode_picture,
)
from tc_depth_training.files import write_atomically
from tc_depth_training.losses.objective import ObjectiveMaps

BRIGHTEST_ERROR = 0.3  # photometric, the upper end of its colours
COLUMNS = 5  # of the sheet
PICTURE_WIDTH = 320  # px, on the sheet
FOLDER = 'pictures'  # within the run's


def loss_pictures(maps: ObjectiveMaps) -> dict[str, RGBImage]:
    """
    Pictures of the first window of a batch, (H, W, 3) each, by what they show.

    Disparities have the colours of :func:`colour_depth`, each over its own range; the error is
    dark at 0 and bright from 0.3 on; masks are white where a pixel is used.
    """
    pictures = {'target': _rgb(maps.target[0])}
    for number, warped in enumerate(maps.warped, 1):
        pictures[f'source {number}, warped'] = _rgb(warped[0])
    pictures['disparity'] = _inverse_depth(maps.disparity[0, 0])
    if maps.coarse_inverse_depth is not None:
        size = maps.target.shape[-2:]
        coarse = F.interpolate(maps.coarse_inverse_depth[:1], size, mode='nearest')
        pictures['coarse disparity'] = _inverse_depth(coarse[0, 0])
    error = maps.reprojection_error[0, 0].float() / BRIGHTEST_ERROR
    pictures['reprojection error'] = _heat(_array(error.clamp(0, 1)))
    pictures['auto mask'] = _mask(maps.auto_mask[0, 0])
    for number, cycle_mask in enumerate(maps.cycle_masks, 1):
        pictures[f'cycle mask {number}'] = _mask(cycle_mask[0, 0])
    pictures['motion mask'] = _mask(maps.static_mask[0, 0])
    return pictures


def attention_pictures(
    network: DepthNetwork, images: Tensor, K: Tensor, target: int
) -> dict[str, RGBImage]:
    """
    Where one cell of the target looks, in the first window of a batch.

    The cell is marked; the brightest has the largest weight, and a cell that is all dark has none.
    The network is left as it was. A network without attention gives no picture.

    :param images: RGB in [0, 1] in time order, (B, F, 3, H, W)
    :param K: intrinsics in pixels of H x W, (B, 3, 3)
    :param target: the frame that the cell is of
    """
    if not isinstance(network, TCDepth):
        return {}
    cell = busiest_cell(images[0, target])
    with _judging(network):
        maps = attention_of_cell(network, images[:1], K[:1], target, cell)
    pictures = {}
    if maps.spatial is not None:
        pictures['spatial attention'] = _mark(_over(images[0, target], maps.spatial), cell)
    for frame, weights in zip(maps.frames, maps.temporal, strict=True):
        name = f'temporal attention, frame {frame - target:+d}'
        pictures[name] = _mark(_over(images[0, frame], weights), cell)
    return pictures


def busiest_cell(image: Tensor) -> tuple[int, int]:
    """
    Choose the cell at 1/8 with the most contrast, in the middle half of an image (3, H, W).

    :return: (row, column)
    """
    grey = image.float().mean(dim=0)[None, None]
    mean = F.avg_pool2d(grey, STRIDE)
    variance = (F.avg_pool2d(grey * grey, STRIDE) - mean * mean)[0, 0]
    height, width = variance.shape
    top, left = height // 4, width // 4
    middle = variance[top : height - top, left : width - left]
    row, column = divmod(int(middle.argmax()), middle.shape[1])
    return top + row, left + column


def training_sheet(pictures: Mapping[str, RGBImage]) -> RGBImage:
    """Lay pictures of equal size out in rows of five, a title over each."""
    named = iter(pictures.items())
    rows = []
    while row := list(islice(named, COLUMNS)):
        titles = [name for name, _ in row] + [''] * (COLUMNS - len(row))
        shown = [_sized(picture) for _, picture in row]
        shown += [np.zeros_like(shown[0])] * (COLUMNS - len(row))
        rows.append(contact_sheet([shown], titles))
    return np.concatenate(rows)


def write_training_sheet(folder: Path, step: int, pictures: Mapping[str, RGBImage]) -> Path:
    """Write ``pictures/step_000500.png`` into a run's folder; raises OSError."""
    path = folder / FOLDER / f'step_{step:06d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_picture(training_sheet(pictures), '.png'))
    return path


def latest_training_sheet(folder: Path, last_step: int) -> Path | None:
    """The newest sheet in a run's folder; those of an earlier, longer run do not count."""
    found = {int(path.stem.removeprefix('step_')): path for path in _sheets(folder)}
    steps = [step for step in found if step <= last_step]
    return found[max(steps)] if steps else None


def _sheets(folder: Path) -> Iterator[Path]:
    return (folder / FOLDER).glob('step_[0-9]*[0-9].png')


@contextmanager
def _judging(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and every part of it back as it was: some may be frozen."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


def _rgb(image: Tensor) -> RGBImage:
    """An image (3, H, W) in [0, 1]."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def _inverse_depth(values: Tensor) -> RGBImage:
    """A disparity, which is linear in inverse depth, or an inverse depth itself, (H, W)."""
    depth = np.reciprocal(_array(values))
    return colour_depth(depth, depth_range(depth))


def _mask(mask: Tensor) -> RGBImage:
    return _rgb(mask.expand(3, -1, -1))


def _heat(level: NDArray[Any]) -> RGBImage:
    """Levels (H, W) in [0, 1] from black over red to bright yellow."""
    bgr = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(bgr[..., ::-1])


def _over(image: Tensor, weights: Tensor) -> RGBImage:
    """Weights (h, w), in colours up to their largest, over an image (3, H, W), grey and dark."""
    height, width = image.shape[-2:]
    level = _array(weights / weights.max())
    shown = _heat(cv2.resize(level, (width, height), interpolation=cv2.INTER_NEAREST))
    grey = _rgb(image.float().mean(dim=0).expand(3, -1, -1))
    return np.maximum(shown, grey // 3)


def _mark(picture: RGBImage, cell: tuple[int, int]) -> RGBImage:
    """Draw a frame around a cell, white within black."""
    top, left = (STRIDE * index for index in cell)
    for wider, colour in ((3, (0, 0, 0)), (2, (255, 255, 255))):
        start = (left - wider, top - wider)
        end = (left + STRIDE - 1 + wider, top + STRIDE - 1 + wider)
        cv2.rectangle(picture, start, end, colour, 1)
    return picture


def _sized(picture: RGBImage) -> RGBImage:
    height, width = picture.shape[:2]
    size = (PICTURE_WIDTH, round(PICTURE_WIDTH * height / width))
    method = cv2.INTER_AREA if width > PICTURE_WIDTH else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=method), dtype=np.uint8)
