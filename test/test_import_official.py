"""
Published .pth files to a weights file: every tensor in its place, every fault by its name.

No file of the authors is here. What their files look like is written out below from the names
alone, the other way round than the product's tables: our tensors are given their names, saved,
and must come back.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from test_network import camera_matrix, frames
from torch import Tensor, nn

from tc_depth_ros.network.checkpoint import load_weights
from tc_depth_ros.network.config import (
    KITTI_ATTENTION_INTRINSICS,
    MONODEPTH2,
    PAPER,
    PoseNetConfig,
)
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.cli import main
from tc_depth_training.import_official import ImportOfficialError, import_official

SIGMA = 0.375
Files = dict[str, Any]
Module = TypeVar('Module', bound=nn.Module)

DRN_STAGES = ['conv1', 'bn1', *(f'layer{n}' for n in range(1, 9))]
RESNET_STAGES = ['conv1', 'bn1', *(f'layer{n}' for n in range(1, 5))]
# Ours, in the order in which they number theirs
TC_DEPTH_DECODER = [
    *(f'decoder.{step}{size}.conv' for size in (8, 4, 2, 1) for step in ('reduce', 'join')),
    *(f'decoder.disparity.{scale}' for scale in (3, 2, 1, 0)),
]
MONODEPTH2_DECODER = [
    *(f'decoder.{step}.{scale}.conv' for scale in (4, 3, 2, 1, 0) for step in ('reduce', 'join')),
    *(f'decoder.disparity.{scale}' for scale in (0, 1, 2, 3)),
]
POSE_DECODER = ['squeeze', 'hidden1', 'hidden2', 'motion']


def lively(module: Module, seed: int) -> Module:
    """Give every tensor values of its own, so that no two can be mistaken for each other."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in module.state_dict().items():
        if key.endswith('num_batches_tracked'):
            value.random_(1, 10_000, generator=generator)
        elif key.endswith('running_var') or value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return module.eval()


def below(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """Everything of one module of ours, under their name of it."""
    found = {
        theirs + key[len(ours) :]: value
        for key, value in state.items()
        if key.startswith(f'{ours}.')
    }
    assert found, ours
    return found


def encoder_file(state: dict[str, Tensor], stages: Iterable[str]) -> Files:
    values: Files = {'encoder.fc.weight': torch.zeros(3, 512), 'encoder.fc.bias': torch.zeros(3)}
    for stage in stages:
        values |= below(state, f'encoder.{stage}', f'encoder.{stage}')
    return values


def decoder_file(state: dict[str, Tensor], order: list[str]) -> Files:
    values: Files = {}
    for number, ours in enumerate(order):
        wrapped = 'conv' if 'disparity' in ours else 'conv.conv'
        values |= below(state, ours, f'decoder.{number}.{wrapped}')
    return values


def block_file(state: dict[str, Tensor], sigma: float) -> Files:
    values: Files = {}
    for n in range(3):
        ours, theirs = f'blocks.{n}', f'module.{n}'
        spatial, temporal = f'{theirs}.spatial_attn', f'{theirs}.temp_attn'
        values[f'{spatial}.gamma'] = state[f'{ours}.spatial.gamma']
        values[f'{spatial}.sigma_3d'] = torch.tensor([sigma])
        values |= below(state, f'{ours}.spatial.value', f'{spatial}.value_conv')
        values |= below(state, f'{ours}.spatial.own', f'{spatial}.context_conv')
        values |= below(state, f'{ours}.spatial.mixed', f'{spatial}.ca_conv')
        values |= below(state, f'{ours}.spatial.fuse', f'{spatial}.conv1')
        values |= below(state, f'{ours}.temporal.key', f'{temporal}.f_key')
        values |= below(state, f'{ours}.temporal.key', f'{temporal}.f_query')
        values |= below(state, f'{ours}.temporal.value', f'{temporal}.f_value')
        values |= below(state, f'{ours}.temporal.out', f'{temporal}.f_out')
        values |= below(state, f'{ours}.temporal.fuse', f'{temporal}.fuse_layer')
    return values


def tc_depth_files(network: TCDepth) -> dict[str, Files]:
    state = network.state_dict()
    encoder = encoder_file(state, DRN_STAGES)
    encoder |= below(state, 'encoder.conv1', 'conv.0') | below(state, 'encoder.bn1', 'conv.1')
    for n, stage in enumerate(('layer5', 'layer6', 'layer7')):
        encoder |= below(state, f'encoder.{stage}', f'degrid.{n}')
    coarse: Files = {'ref_disp': torch.linspace(0.01, 10, 256).view(1, 256, 1, 1)}
    coarse |= below(state, 'coarse_depth.hidden.conv', 'conv.conv.conv')
    coarse |= below(state, 'coarse_depth.logits', 'ddv.conv')
    return {
        'encoder.pth': encoder | {'height': 96, 'width': 320, 'use_stereo': False},
        'depth.pth': decoder_file(state, TC_DEPTH_DECODER),
        'spa_temp.pth': block_file(state, SIGMA),
        'ref_depth.pth': coarse,
    }


def monodepth2_files(network: Monodepth) -> dict[str, Files]:
    state = network.state_dict()
    return {
        'encoder.pth': encoder_file(state, RESNET_STAGES),
        'depth.pth': decoder_file(state, MONODEPTH2_DECODER),
    }


def pose_files(pose_net: PoseNet, motions: int) -> dict[str, Files]:
    state = pose_net.state_dict()
    pose: Files = {}
    for number, ours in enumerate(POSE_DECODER):
        pose |= below(state, ours, f'net.{number}')
    for leaf in ('weight', 'bias'):
        first = pose[f'net.3.{leaf}']
        pose[f'net.3.{leaf}'] = torch.cat([first + 7 * n for n in range(motions)])
    return {'pose_encoder.pth': encoder_file(state, RESNET_STAGES), 'pose.pth': pose}


def save(folder: Path, files: dict[str, Files]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in files.items():
        torch.save(values, folder / name)
    return folder


@pytest.fixture(scope='module')
def paper() -> TCDepth:
    config = replace(PAPER, attention_intrinsics=KITTI_ATTENTION_INTRINSICS, kernel_sigma=SIGMA)
    return lively(TCDepth(config), seed=1)


@pytest.fixture(scope='module')
def pose_net() -> PoseNet:
    return lively(PoseNet(PoseNetConfig('resnet18')), seed=2)


@pytest.fixture
def monodepth() -> Monodepth:
    return lively(Monodepth(MONODEPTH2), seed=3)


@pytest.fixture(scope='module')
def published(tmp_path_factory: pytest.TempPathFactory, paper: TCDepth) -> Path:
    """A folder as the authors' trainer writes it, without the pose networks."""
    return save(tmp_path_factory.mktemp('published'), tc_depth_files(paper))


def changed(published: Path, folder: Path, changes: dict[str, Callable[[Files], object]]) -> Path:
    """The published folder with some of its files changed."""
    folder.mkdir()
    for path in published.iterdir():
        if path.name in changes:
            values = torch.load(path, weights_only=True)
            changes[path.name](values)
            torch.save(values, folder / path.name)
        else:
            os.symlink(path, folder / path.name)
    return folder


def assert_same_tensors(found: nn.Module | None, expected: nn.Module) -> None:
    assert found is not None
    ours = found.state_dict()
    assert ours.keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(ours[key], value), key


def test_tc_depth_comes_over_whole(
    published: Path, paper: TCDepth, pose_net: PoseNet, tmp_path: Path
) -> None:
    folder, out = changed(published, tmp_path / 'folder', {}), tmp_path / 'w.safetensors'
    save(folder, pose_files(pose_net, motions=2))
    assert main(['import-official', str(folder), str(out)]) == 0
    network, found_pose_net, info = load_weights(out)
    assert_same_tensors(network, paper)
    assert_same_tensors(found_pose_net, pose_net)
    assert info.network == paper.config and info.pose == PoseNetConfig('resnet18')
    assert (info.input_height, info.input_width, info.metric) == (96, 320, False)
    assert 'their terms apply' in info.training_data
    names = ['depth.pth', 'encoder.pth', 'pose.pth', 'pose_encoder.pth', 'ref_depth.pth']
    assert info.notes['imported_from'] == [*names, 'spa_temp.pth']
    images, K = frames(3, 48, 64), camera_matrix(48, 64)
    with torch.inference_mode():
        found, expected = network(images, K).disparities[0], paper(images, K).disparities[0]
    assert torch.equal(found, expected)


def test_monodepth2_comes_over_whole(
    monodepth: Monodepth, pose_net: PoseNet, tmp_path: Path
) -> None:
    files = monodepth2_files(monodepth) | pose_files(pose_net, motions=1)
    files['encoder.pth'] |= {'height': torch.tensor(320), 'width': torch.tensor(1024)}
    out = tmp_path / 'teacher.safetensors'
    info = import_official(save(tmp_path / 'folder', files), out)
    assert (info.input_height, info.input_width) == (320, 1024)
    network, found_pose_net, loaded_info = load_weights(out)
    assert loaded_info == info and info.network == MONODEPTH2
    assert "Monodepth2's weights" in info.training_data
    assert_same_tensors(network, monodepth)
    assert_same_tensors(found_pose_net, pose_net)


def test_old_files_without_counters_and_size_are_taken(
    monodepth: Monodepth, tmp_path: Path
) -> None:
    files = {
        name: {key: v for key, v in values.items() if 'num_batches' not in key}
        for name, values in monodepth2_files(monodepth).items()
    }
    out = tmp_path / 'teacher.safetensors'
    info = import_official(save(tmp_path / 'folder', files), out)
    assert (info.input_height, info.input_width) == (192, 640)
    found = load_weights(out).network.state_dict()
    for key, value in monodepth.state_dict().items():
        assert torch.equal(found[key], value * (not key.endswith('num_batches_tracked'))), key


def test_every_wrong_key_of_every_file_is_named_at_once(
    published: Path, pose_net: PoseNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Callable[[Files], object]] = {
        'encoder.pth': lambda v: (
            v.pop('encoder.layer8.0.bn2.bias'),
            v.pop('degrid.1.0.bn1.bias'),
        ),
        'depth.pth': lambda v: v.update({'decoder.12.conv.weight': torch.zeros(1)}),
        'spa_temp.pth': lambda v: (
            v.pop('module.2.spatial_attn.sigma_3d'),
            v.update({'module.0.spatial_attn.gamma': torch.zeros(2)}),
        ),
        'ref_depth.pth': lambda v: v.update({'ref_disp': torch.zeros(1, 64, 1, 1), 'ddv': 'x'}),
    }
    folder, out = changed(published, tmp_path / 'folder', changes), tmp_path / 'w.safetensors'
    files = pose_files(pose_net, motions=2)
    files['pose.pth']['net.3.bias'] = torch.zeros(6)
    files['pose.pth']['net.0.bias'] = 'not a tensor'
    save(folder, files)
    out.write_text('the file before')
    assert main(['import-official', str(folder), str(out)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in said[1:]] == [
        'encoder.pth: missing encoder.layer8.0.bn2.bias',
        'encoder.pth: missing degrid.1.0.bn1.bias',
        'depth.pth: unexpected decoder.12.conv.weight',
        'spa_temp.pth: missing module.2.spatial_attn.sigma_3d',
        'spa_temp.pth: module.0.spatial_attn.gamma is (2,), expected (1,)',
        'ref_depth.pth: unexpected ddv',
        'ref_depth.pth: ref_disp is (1, 64, 1, 1), expected (1, 256, 1, 1)',
        'pose.pth: net.0.bias is a str, expected (256,)',
        'pose.pth: net.3.weight is (12, 256, 1, 1), expected (6, 256, 1, 1)',
    ]
    assert '9 problems' in said[0]
    assert out.read_text() == 'the file before'


def test_values_that_cannot_be_taken_over_are_named_at_once(
    published: Path, tmp_path: Path
) -> None:
    changes: dict[str, Callable[[Files], object]] = {
        'encoder.pth': lambda v: v.update(
            {'conv.1.bias': v['conv.1.bias'] + 1, 'height': 100, 'width': '640'}
        ),
        'spa_temp.pth': lambda v: v.update(
            {
                'module.1.spatial_attn.sigma_3d': torch.tensor([0.5]),
                'module.2.temp_attn.f_query.0.weight': torch.zeros(64, 512, 1, 1),
            }
        ),
        'ref_depth.pth': lambda v: v.update(
            {'ref_disp': torch.linspace(0.02, 10, 256).view(1, 256, 1, 1)}
        ),
    }
    folder = changed(published, tmp_path / 'folder', changes)
    with pytest.raises(ImportOfficialError) as caught:
        import_official(folder, tmp_path / 'w.safetensors')
    said = str(caught.value)
    for words in (
        '6 problems',
        'encoder.pth: conv.1.bias differs from encoder.bn1.bias',
        'encoder.pth: height is 100, expected a multiple of 8',
        "encoder.pth: width is '640'",
        'spa_temp.pth: module.2.temp_attn.f_query.0.weight differs from '
        'module.2.temp_attn.f_key.0.weight',
        'module.0.spatial_attn.sigma_3d is 0.375, module.1.spatial_attn.sigma_3d is 0.5',
        'ref_depth.pth: ref_disp[0] is 0.02, expected 0.01',
    ):
        assert words in said
    assert not list(tmp_path.glob('*.safetensors'))


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        (
            [],
            'neither TC-Depth (missing encoder.pth, depth.pth, spa_temp.pth, ref_depth.pth) nor ',
        ),
        (['depth.pth'], 'Monodepth2 (missing encoder.pth)'),
        (['encoder.pth', 'depth.pth', 'ref_depth.pth'], 'spa_temp.pth: missing, and TC-Depth'),
        (['encoder.pth', 'depth.pth', 'pose.pth'], 'pose_encoder.pth: missing; give both'),
        (['encoder.pth', 'depth.pth', 'pose_encoder.pth'], ' pose.pth: missing; give both'),
    ],
)
def test_a_folder_that_lacks_files_is_told_which(
    files: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / 'folder', {name: {} for name in files})
    assert main(['import-official', str(folder), str(tmp_path / 'w.safetensors')]) == 1
    assert words in capsys.readouterr().err


def test_a_dilated_encoder_alone_is_known_as_tc_depths(tmp_path: Path) -> None:
    encoder = {'encoder.layer8.0.conv1.weight': torch.zeros(1)}
    folder = save(tmp_path / 'folder', {'encoder.pth': encoder, 'depth.pth': {}})
    with pytest.raises(ImportOfficialError, match=r'(?s)spa_temp.*ref_depth.pth: missing'):
        import_official(folder, tmp_path / 'w.safetensors')


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ImportOfficialError, match='nowhere is not a folder'):
        import_official(tmp_path / 'nowhere', tmp_path / 'w.safetensors')


class Malicious:
    """Creates a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def _whole_file(path: Path) -> bytes:
    torch.save({'encoder.conv1.weight': torch.rand(50, 50)}, path)
    return path.read_bytes()


def _write_malicious(path: Path) -> None:
    torch.save({'encoder.conv1.weight': Malicious(path.parent / 'run')}, path)


def _write_malicious_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(path.parent / 'run')))


def _write_half(path: Path) -> None:
    path.write_bytes(_whole_file(path)[:6000])


def _write_little(path: Path) -> None:
    path.write_bytes(_whole_file(path)[:100])


def _write_nothing(path: Path) -> None:
    path.write_bytes(b'')


def _write_text(path: Path) -> None:
    path.write_text('<html>not found</html>')


def _write_flipped_bit(path: Path) -> None:
    content = bytearray(_whole_file(path))
    content[len(content) // 2] ^= 1  # within the tensor
    path.write_bytes(content)


def _write_list(path: Path) -> None:
    torch.save([torch.zeros(1)], path)


def _write_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ('write', 'words'),
    [
        (_write_malicious, 'holds more than tensors'),
        (_write_malicious_pickle, 'holds more than tensors'),
        (_write_half, 'not a readable PyTorch file'),
        (_write_little, 'not a readable PyTorch file'),
        (_write_nothing, 'not a readable PyTorch file'),
        (_write_text, 'encoder.pth'),
        (_write_flipped_bit, 'fails the checksum'),
        (_write_list, 'holds a list'),
        (_write_folder, 'not a readable PyTorch file'),
    ],
)
def test_a_bad_file_is_refused_in_one_line_and_not_run(
    write: Callable[[Path], None],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / 'encoder.pth')
    assert main(['import-official', str(tmp_path), str(tmp_path / 'w.safetensors')]) == 1
    said = capsys.readouterr().err
    assert words in said and 'encoder.pth' in said
    assert said.count('\n') == 1 and 'Traceback' not in said
    assert not (tmp_path / 'run').exists() and not (tmp_path / 'w.safetensors').exists()


def test_the_malice_is_real(tmp_path: Path) -> None:
    _write_malicious(tmp_path / 'encoder.pth')
    torch.load(tmp_path / 'encoder.pth', weights_only=False)
    assert (tmp_path / 'run').exists()


def test_wrong_use_exits_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(['import-official', 'only_a_folder'])
    assert caught.value.code == 2
