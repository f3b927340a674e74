"""The single-frame network: sizes, frames by themselves, its stream and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_network import TINY, camera_matrix, frames

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo, load_weights, save_weights
from tc_depth_ros.network.config import MONODEPTH, MONODEPTH2, MonodepthConfig
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.stream import open_stream
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.predictor import DepthPredictor


def network(config: MonodepthConfig = MONODEPTH) -> Monodepth:
    torch.manual_seed(2)
    return Monodepth(config).eval()


@pytest.mark.parametrize('config', [MONODEPTH, MONODEPTH2])
@pytest.mark.parametrize('size', [(64, 96), (40, 72)])
def test_it_answers_every_frame_at_four_scales(
    config: MonodepthConfig, size: tuple[int, int]
) -> None:
    height, width = size
    output = network(config)(frames(3, height, width, batch=2), camera_matrix(height, width))
    expected = [(2, 3, 1, height // 2**s, width // 2**s) for s in range(4)]
    assert [tuple(d.shape) for d in output.disparities] == expected
    assert output.coarse_inverse_depth is None
    assert all(d.min() > 0 and d.max() < 1 for d in output.disparities)


def test_resnet_and_decoder_have_monodepth2s_parameters() -> None:
    # ResNet-18 without its classifier 11,176,512, and Godard et al.'s decoder 3,152,724
    assert sum(p.numel() for p in network(MONODEPTH2).parameters()) == 11_176_512 + 3_152_724


def test_frames_do_not_see_each_other() -> None:
    images, K = frames(3, 48, 64), camera_matrix(48, 64)
    with torch.inference_mode():
        together = network()(images, K).disparities[0]
        alone = network()(images[:, 1:2], K).disparities[0]
        (streamed,) = [open_stream(network()).push(images[:, 1], K)]
    torch.testing.assert_close(together[:, 1:2], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(streamed.disparity, alone[:, 0], rtol=0, atol=1e-6)
    assert streamed.frames_used == 1


@pytest.mark.parametrize('size', [(60, 64), (32, 64)])
def test_other_sizes_are_refused_by_name(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'{size[0]}x{size[1]}'):
        network()(frames(1, *size), camera_matrix(*size))


def test_a_centred_stream_of_single_frames_is_refused() -> None:
    with pytest.raises(ValueError, match='single frames'):
        open_stream(network(), 'centre')


def test_its_file_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / 'teacher.safetensors'
    save_weights(file, network(), WeightsInfo(MONODEPTH, 64, 96, metric=False))
    loaded = load_weights(file)
    assert isinstance(loaded.network, Monodepth) and loaded.info.network == MONODEPTH
    save_weights(file, TCDepth(TINY), WeightsInfo(TINY, 32, 48, metric=False))
    assert isinstance(load_weights(file).network, TCDepth)


def test_the_predictor_takes_it() -> None:
    weights = Weights(network(), None, WeightsInfo(MONODEPTH, 64, 96, metric=False))
    image = np.random.default_rng(0).integers(0, 255, (48, 72, 3), dtype=np.uint8)
    K = np.array([[60.0, 0, 36], [0, 60, 24], [0, 0, 1]])
    prediction = DepthPredictor(weights).push(Frame(image, K, 1, 'camera'))
    assert prediction is not None and prediction.depth.shape == (48, 72)
