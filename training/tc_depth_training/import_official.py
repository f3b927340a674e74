"""
From the files that the authors of TC-Depth, or of Monodepth2, published to one file of ours.

The tables of released_weights.py say which of their modules is which of ours. A file is unpickled
as tensors and numbers only; every key of it must be known, and every tensor of ours found.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tc_depth_ros.network.build import build_network
from tc_depth_ros.network.checkpoint import WeightsInfo, save_weights
from tc_depth_ros.network.config import PAPER, PoseNetConfig, TCDepthConfig
from tc_depth_ros.network.monodepth import MIN_SIDE
from tc_depth_ros.network.pose import PoseNet
from tc_depth_training import __version__
from tc_depth_training.released_weights import (
    ATTENTION,
    COARSE_DEPTH,
    ENCODER_FILE,
    POSE,
    POSE_LAYOUTS,
    RELEASED_MONODEPTH2,
    RELEASED_TC_DEPTH,
    SIGMAS,
    Layout,
    Release,
)

DEFAULT_SIZE = (192, 640)  # (height, width), where encoder.pth does not say it
COUNTER = '.num_batches_tracked'  # of batch normalisation; files of old PyTorch lack it

Values = dict[str, Any]  # of one file of theirs, by their key


class ImportOfficialError(ValueError):
    """Files that cannot be imported; the message names every problem, and in which file it is."""


def import_official(folder: Path, out: Path) -> WeightsInfo:
    """
    Convert a folder of the authors' .pth files, TC-Depth's or Monodepth2's, to a weights file.

    :param folder: encoder.pth and depth.pth; of TC-Depth also spa_temp.pth and ref_depth.pth; and
        pose_encoder.pth with pose.pth or neither
    :param out: the safetensors file to write
    :return: what the written file says of itself
    :raises ImportOfficialError: a file missing or unreadable, a key missing, unexpected or
        misshapen, a duplicate that differs, or constants that our network cannot have
    """
    files = _read_files(folder)
    release = _recognise(folder, files)
    network = build_network(release.network)
    pose_net = PoseNet(PoseNetConfig('resnet18')) if POSE.file in files else None
    parts: list[tuple[Layout, nn.Module]] = [(layout, network) for layout in release.layouts]
    if pose_net is not None:
        files[POSE.file] = _first_motion(files[POSE.file])
        parts += [(layout, pose_net) for layout in POSE_LAYOUTS]
    _refuse(folder, [p for layout, module in parts for p in _wrong_keys(layout, files, module)])
    _refuse(folder, _wrong_values(release, files, network))
    _fill(network, release.layouts, files)
    if pose_net is not None:
        _fill(pose_net, POSE_LAYOUTS, files)
    info = _describe(release, files, pose_net)
    save_weights(out, network, info, pose_net)
    return info


def _read_files(folder: Path) -> dict[str, Values]:
    """Contents of those files of the folder that have a name known here."""
    if not folder.is_dir():
        raise ImportOfficialError(f'{folder} is not a folder: give the one that holds encoder.pth')
    layouts = (*RELEASED_TC_DEPTH.layouts, *POSE_LAYOUTS)
    paths = [folder / layout.file for layout in layouts if (folder / layout.file).exists()]
    files: dict[str, Values] = {}
    problems = []
    for path in paths:
        try:
            files[path.name] = _read(path)
        except ImportOfficialError as error:
            problems.append(str(error))
    _refuse(folder, problems)
    return files


def _read(path: Path) -> Values:
    """Read a file of named tensors and numbers; code in it is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about how the file was pickled
            values = torch.load(path, map_location='cpu', weights_only=True)
        damaged = _damaged_part(path)
    except pickle.UnpicklingError as error:
        raise ImportOfficialError(
            f'{path.name}: damaged, or holds more than tensors and numbers, which is not loaded: '
            'copy it again from where it was published'
        ) from error
    # Bytes that are not what they claim to be make PyTorch raise errors of any class
    except Exception as error:
        reason = f'{type(error).__name__}: {error}'.splitlines()[0][:80]
        raise ImportOfficialError(
            f'{path.name}: not a readable PyTorch file ({reason}): copy it again'
        ) from error
    if damaged:
        raise ImportOfficialError(
            f'{path.name}: its part {damaged} fails the checksum: copy it again'
        )
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ImportOfficialError(
            f'{path.name}: holds a {type(values).__name__} that is not a table of named tensors'
        )
    return values


def _damaged_part(path: Path) -> str | None:
    """Name of a part that fails its checksum, which PyTorch does not look at; None: all fit."""
    if not zipfile.is_zipfile(path):
        return None  # as PyTorch wrote before 1.6, without checksums
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _recognise(folder: Path, files: Mapping[str, Values]) -> Release:
    """Say whose files these are; raises unless all needed ones are there."""
    lacking = {
        release.name: [name for name in release.files if name not in files]
        for release in (RELEASED_TC_DEPTH, RELEASED_MONODEPTH2)
    }
    dilated = any(_is_under(key, 'encoder.layer8') for key in files.get(ENCODER_FILE, {}))
    is_tc_depth = dilated or ATTENTION.file in files or COARSE_DEPTH.file in files
    release = RELEASED_TC_DEPTH if is_tc_depth else RELEASED_MONODEPTH2
    if not is_tc_depth and lacking[release.name]:
        both = ' nor '.join(f'{name} (missing {", ".join(gap)})' for name, gap in lacking.items())
        raise ImportOfficialError(f'{folder} holds neither {both}')
    problems = [f'{name}: missing, and {release.name} needs it' for name in lacking[release.name]]
    pair = [layout.file for layout in POSE_LAYOUTS]
    absent = [name for name in pair if name not in files]
    if len(absent) == 1:
        problems.append(f'{absent[0]}: missing; give both of {" and ".join(pair)}, or none')
    _refuse(folder, problems)
    return release


def _first_motion(values: Values) -> Values:
    """Of a pose decoder that answers two motions (12 numbers), the first, which alone is used."""
    last = {key: values.get(key) for key in ('net.3.weight', 'net.3.bias')}
    if all(isinstance(v, Tensor) and v.ndim and len(v) == 12 for v in last.values()):
        return values | {key: value[:6] for key, value in last.items() if value is not None}
    return values


def _is_under(key: str, name: str) -> bool:
    return key == name or key.startswith(f'{name}.')


def _places(layout: Layout, ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Their key of every tensor of ours that the file should hold: our key."""
    return {
        theirs + key.removeprefix(here): key
        for theirs, here in layout.renames.items()
        for key in ours
        if _is_under(key, here)
    }


def _copies(layout: Layout, keys: Sequence[str]) -> dict[str, str]:
    """Their key of every duplicate: their key of what it repeats."""
    return {
        copy + key.removeprefix(original): key
        for copy, original in layout.duplicates.items()
        for key in keys
        if _is_under(key, original)
    }


def _wrong_keys(layout: Layout, files: Mapping[str, Values], module: nn.Module) -> list[str]:
    """Keys of a file that are missing, unexpected or misshapen."""
    values, ours = files[layout.file], module.state_dict()
    shapes = {theirs: tuple(ours[key].shape) for theirs, key in _places(layout, ours).items()}
    shapes |= {copy: shapes[key] for copy, key in _copies(layout, list(shapes)).items()}
    shapes |= layout.constants
    problems = [f'missing {k}' for k in shapes if k not in values and not k.endswith(COUNTER)]
    problems += [
        f'unexpected {key}'
        for key in values
        if key not in shapes and not any(_is_under(key, name) for name in layout.unused)
    ]
    problems += [
        f'{key} is {_shape(values[key])}, expected {shape}'
        for key, shape in shapes.items()
        if key in values and _shape(values[key]) != shape
    ]
    return [f'{layout.file}: {problem}' for problem in problems]


def _shape(value: object) -> tuple[int, ...] | str:
    """Shape of a tensor, or what is there in its place."""
    return tuple(value.shape) if isinstance(value, Tensor) else f'a {type(value).__name__}'


def _wrong_values(release: Release, files: Mapping[str, Values], network: nn.Module) -> list[str]:
    """Say what our network cannot take over, in files whose keys are right."""
    ours = network.state_dict()
    problems = [
        f'{layout.file}: {copy} differs from {key}, which it should repeat'
        for layout in release.layouts
        for copy, key in _copies(layout, list(_places(layout, ours))).items()
        if not _same(files[layout.file].get(copy), files[layout.file].get(key))
    ]
    problems += _wrong_size(files[ENCODER_FILE])
    if release is RELEASED_TC_DEPTH:
        problems += _wrong_sigmas(files[ATTENTION.file])
        problems += _wrong_bins(files[COARSE_DEPTH.file]['ref_disp'])
    return problems


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and torch.equal(a, b)


def _wrong_sigmas(values: Values) -> list[str]:
    sigmas = [values[key].item() for key in SIGMAS]
    if len(set(sigmas)) > 1:
        said = ', '.join(f'{key} is {s:.6g}' for key, s in zip(SIGMAS, sigmas, strict=True))
        return [f'{ATTENTION.file}: {said}; one kernel serves all blocks, so they must agree']
    if not (math.isfinite(sigmas[0]) and sigmas[0] > 0):
        return [f'{ATTENTION.file}: sigma_3d is {sigmas[0]}, expected a positive number']
    return []


def _wrong_bins(bins: Tensor) -> list[str]:
    nearest, farthest = 1 / PAPER.min_depth, 1 / PAPER.max_depth
    expected = torch.linspace(farthest, nearest, PAPER.coarse_bins)
    right = torch.isclose(bins.flatten().float(), expected, rtol=1e-5, atol=1e-6)
    if bool(right.all()):
        return []
    first = int((~right).nonzero()[0])
    return [
        f'{COARSE_DEPTH.file}: ref_disp[{first}] is {bins.flatten()[first]:.6g}, expected '
        f'{expected[first]:.6g}, of {PAPER.coarse_bins} even steps from {farthest} to {nearest}: '
        'these weights have another range of depths'
    ]


def _wrong_size(values: Values) -> list[str]:
    return [
        f'{ENCODER_FILE}: {key} is {values[key]!r}, expected a multiple of 8 pixels from '
        f'{MIN_SIDE} on'
        for key in ('height', 'width')
        if key in values and not _is_side(values[key])
    ]


def _is_side(value: object) -> bool:
    """Whether a stored height or width is one to run at."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return isinstance(number, int | float) and number >= MIN_SIDE and number % 8 == 0


def _fill(module: nn.Module, layouts: Sequence[Layout], files: Mapping[str, Values]) -> None:
    """Put the files' tensors in their places; counters that they lack stay at zero."""
    ours = module.state_dict()
    found = {
        key: files[layout.file].get(theirs, ours[key])
        for layout in layouts
        for theirs, key in _places(layout, ours).items()
    }
    module.load_state_dict(found, strict=True)


def _describe(
    release: Release, files: Mapping[str, Values], pose_net: PoseNet | None
) -> WeightsInfo:
    network = release.network
    if isinstance(network, TCDepthConfig):
        network = replace(network, kernel_sigma=files[ATTENTION.file][SIGMAS[0]].item())
    height, width = DEFAULT_SIZE
    return WeightsInfo(
        network,
        int(files[ENCODER_FILE].get('height', height)),
        int(files[ENCODER_FILE].get('width', width)),
        metric=False,
        pose=None if pose_net is None else pose_net.config,
        training_data=f"{release.name}'s weights, as their authors published them (their terms "
        'apply)',
        code_version=__version__,
        notes={'imported_from': sorted(files)},
    )


def _refuse(folder: Path, problems: Sequence[str]) -> None:
    """Raise unless there are no problems."""
    if len(problems) == 1:
        raise ImportOfficialError(f'cannot import {folder}: {problems[0]}')
    if problems:
        raise ImportOfficialError(
            f'cannot import {folder}, {len(problems)} problems:\n  ' + '\n  '.join(problems)
        )
