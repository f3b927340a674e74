"""Weights files: whole, strict, and clear about what is wrong with them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_network import TINY

from tc_depth_ros.network.checkpoint import (
    WeightsError,
    WeightsInfo,
    load_weights,
    read_weights_info,
    save_weights,
)
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth

INFO = WeightsInfo(TINY, 48, 64, metric=True, scale=1.5, training_data='a bag')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / 'w.safetensors'
    save_weights(file, TCDepth(TINY), INFO)
    return file


def rewrite(
    path: Path, change_metadata: dict[str, str] | None = None, **tensors: torch.Tensor
) -> None:
    metadata = {'format': 'tc_depth/1', 'info': INFO.to_json()} | (change_metadata or {})
    save_file(load_file(path) | tensors, path, metadata=metadata)


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    network, pose_net = TCDepth(TINY), PoseNet(PoseNetConfig())
    file = tmp_path / 'w.safetensors'
    info = WeightsInfo(TINY, 48, 64, metric=False, pose=PoseNetConfig(), notes={'seed': 3})
    save_weights(file, network, info, pose_net)
    loaded = load_weights(file)
    assert loaded.info == info and not loaded.network.training
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key
    assert loaded.pose_net is not None
    for key, value in pose_net.state_dict().items():
        assert torch.equal(loaded.pose_net.state_dict()[key], value), key


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    network = TCDepth(TINY)
    for index in range(8):  # the library's order changes from one file to the next
        save_weights(tmp_path / f'{index}.safetensors', network, INFO)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    header = (tmp_path / '0.safetensors').read_bytes()[:8]
    assert int.from_bytes(header, 'little') % 8 == 0


def test_everybody_may_read_a_weights_file(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match='nowhere.safetensors do not exist'):
        load_weights(tmp_path / 'nowhere.safetensors')


@pytest.mark.parametrize('size', [0, 5, 1000])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match='not a readable safetensors file'):
        load_weights(path)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    file = tmp_path / 'w.pth'
    torch.save({'a': torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match='import-official'):
        load_weights(file)


def test_every_wrong_tensor_is_named(path: Path) -> None:
    rewrite(
        path, **{'depth.extra': torch.zeros(1), 'depth.blocks.0.spatial.gamma': torch.zeros(2)}
    )
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert 'unexpected extra' in str(caught.value)
    assert 'blocks.0.spatial.gamma is (2,), expected (1,)' in str(caught.value)


def test_a_missing_tensor_is_named(path: Path) -> None:
    tensors = load_file(path)
    del tensors['depth.coarse_depth.logits.bias']
    save_file(tensors, path, metadata={'format': 'tc_depth/1', 'info': INFO.to_json()})
    with pytest.raises(WeightsError, match=r'missing coarse_depth\.logits\.bias'):
        load_weights(path)


def test_another_format_and_an_unknown_field_are_refused(path: Path) -> None:
    rewrite(path, {'format': 'other/9'})
    with pytest.raises(WeightsError, match='other/9'):
        read_weights_info(path)
    values = json.loads(INFO.to_json()) | {'surprise': 1}
    rewrite(path, {'info': json.dumps(values)})
    with pytest.raises(WeightsError, match='surprise'):
        read_weights_info(path)


def test_a_write_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError('power cut')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='power cut'):
        save_weights(path, TCDepth(TINY), INFO)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # no file grows beyond it
    try:
        with pytest.raises(OSError, match='File too large'):
            save_weights(path, TCDepth(TINY), INFO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_flipped_bit_shows(tmp_path: Path) -> None:
    """Which safetensors alone would load as another weight."""
    file = tmp_path / 'w.safetensors'
    save_weights(file, TCDepth(TINY), INFO)
    load_weights(file)
    whole = bytearray(file.read_bytes())
    whole[-100] ^= 1
    file.write_bytes(whole)
    with pytest.raises(WeightsError, match='do not fit their checksum; copy the file again'):
        load_weights(file)
