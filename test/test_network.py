"""The depth network: its size, its symmetry, its stream; and the pose network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tc_depth_ros.network.attention import attention_intrinsics, distance_kernel
from tc_depth_ros.network.config import (
    KITTI_ATTENTION_INTRINSICS,
    PAPER,
    SMALL,
    PoseNetConfig,
    TCDepthConfig,
)
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.stream import DepthStream
from tc_depth_ros.network.tc_depth import TCDepth

TINY = TCDepthConfig(
    channels=24,
    key_channels=8,
    coarse_channels=8,
    coarse_bins=16,
    decoder_channels=(8, 8, 12, 16),
)


def lively(config: TCDepthConfig) -> TCDepth:
    """
    A random network whose answer depends strongly on image and neighbours, in eval mode.

    A fresh one hardly looks at its input, and equality of two such answers would prove nothing.
    """
    torch.manual_seed(1)
    network = TCDepth(config)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # one pass in training mode normalises every feature
            elif isinstance(module, torch.nn.Conv2d) and not name.startswith('encoder.backbone'):
                module.weight.mul_(4.0 if 'temporal' in name else 2.0)
        network(frames(3, 64, 64, batch=2), camera_matrix(64, 64).expand(2, 3, 3))
    return network.eval()


def camera_matrix(height: int, width: int) -> Tensor:
    return torch.tensor([[[width * 0.9, 0, width / 2], [0, width * 0.9, height / 2], [0, 0, 1]]])


def frames(count: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    return torch.rand(batch, count, 3, height, width, generator=torch.Generator().manual_seed(7))


def test_the_paper_network_has_the_papers_parameters() -> None:
    network = TCDepth(PAPER)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 29_281_319
    parts = {name: sum(p.numel() for p in m.parameters()) for name, m in network.named_children()}
    assert parts['encoder'] == pytest.approx(20.614e6, rel=1e-4)
    assert parts['coarse_depth'] == pytest.approx(1.770e6, rel=1e-3)
    assert parts['blocks'] == pytest.approx(5.819e6, rel=1e-4)


@pytest.mark.slow
def test_the_paper_network_runs_at_the_papers_size() -> None:
    network = TCDepth(PAPER).eval()
    with torch.inference_mode():
        output = network(torch.rand(1, 3, 3, 192, 640), camera_matrix(192, 640))
    shapes = [tuple(d.shape) for d in output.disparities]
    assert shapes == [
        (1, 3, 1, 192, 640),
        (1, 3, 1, 96, 320),
        (1, 3, 1, 48, 160),
        (1, 3, 1, 24, 80),
    ]
    assert output.coarse_inverse_depth.shape == (1, 3, 1, 24, 80)


@pytest.mark.parametrize('size', [(16, 16), (24, 40), (40, 24), (72, 136)])
def test_any_size_divisible_by_eight_is_taken(size: tuple[int, int]) -> None:
    height, width = size
    with torch.inference_mode():
        output = lively(TINY)(frames(3, height, width), camera_matrix(height, width))
    assert output.disparities[0].shape[-2:] == size
    assert output.disparities[3].shape[-2:] == (height // 8, width // 8)


@pytest.mark.parametrize('size', [(30, 48), (32, 44), (8, 48)])
def test_other_sizes_are_refused_by_name(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'{size[0]}x{size[1]}'):
        TCDepth(TINY)(frames(3, *size), camera_matrix(*size))


@pytest.mark.parametrize('blocks', [1, 3])
def test_permuting_frames_permutes_outputs(blocks: int) -> None:
    network, images, K = lively(replace(TINY, blocks=blocks)), frames(3), camera_matrix(32, 48)
    order = [2, 0, 1]
    with torch.inference_mode():
        straight = network(images, K).disparities[0]
        permuted = network(images[:, order], K).disparities[0]
    torch.testing.assert_close(permuted, straight[:, order], rtol=0, atol=1e-6)


def test_a_frame_is_changed_by_its_neighbours() -> None:
    network, images, K = lively(TINY), frames(3), camera_matrix(32, 48)
    other = images.clone()
    other[:, 2] = 1 - other[:, 2]
    with torch.inference_mode():
        difference = network(images, K).disparities[0] - network(other, K).disparities[0]
    assert difference[:, 0].abs().max() > 1e-2


def test_a_batch_equals_its_items_one_by_one() -> None:
    network, images, K = lively(TINY), frames(3, batch=2), camera_matrix(32, 48)
    wider = K * torch.tensor([[1.2], [1.2], [1.0]])
    with torch.inference_mode():
        together = network(images, torch.cat([K, wider])).disparities[0]
        alone = [network(images[i : i + 1], k).disparities[0] for i, k in enumerate((K, wider))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize('blocks', [1, 3])
def test_streaming_a_window_equals_predicting_it(blocks: int) -> None:
    network, images = lively(replace(TINY, blocks=blocks)), frames(6)
    K, stream = camera_matrix(32, 48), None
    stream = DepthStream(network)
    with torch.inference_mode():
        streamed = [stream.push(images[:, i], K) for i in range(6)]
        for newest in range(2, 6):
            whole = network(images[:, newest - 2 : newest + 1], K).disparities[0][:, 2]
            answer = streamed[newest]
            assert answer is not None and answer.frames_used == 3
            torch.testing.assert_close(answer.disparity, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize('blocks', [1, 3])
def test_streaming_causally_equals_predicting_the_whole_sequence(blocks: int) -> None:
    network = lively(replace(TINY, blocks=blocks, temporal='causal'))
    images, K, stream = frames(6), camera_matrix(32, 48), DepthStream(network)
    with torch.inference_mode():
        whole = network(images, K).disparities[0]
        for index in range(6):
            answer = stream.push(images[:, index], K)
            assert answer is not None
            torch.testing.assert_close(answer.disparity, whole[:, index], rtol=0, atol=1e-5)


def test_with_one_block_causal_and_window_are_the_same() -> None:
    window, causal = lively(TINY), lively(replace(TINY, temporal='causal'))
    images, K = frames(4), camera_matrix(32, 48)
    streams = DepthStream(window), DepthStream(causal)
    with torch.inference_mode():
        for index in range(4):
            a, b = (stream.push(images[:, index], K) for stream in streams)
            assert a is not None and b is not None
            torch.testing.assert_close(a.disparity, b.disparity, rtol=0, atol=1e-5)


def test_a_missing_neighbour_is_the_frame_itself() -> None:
    network, images, K = lively(replace(TINY, blocks=2)), frames(2), camera_matrix(32, 48)
    stream = DepthStream(network)
    with torch.inference_mode():
        first, second = stream.push(images[:, 0], K), stream.push(images[:, 1], K)
        alone = network(images[:, [0, 0, 0]], K).disparities[0][:, 0]
        pair = network(images[:, [0, 1, 1]], K).disparities[0][:, 1]
    assert first is not None and second is not None
    assert (first.frames_used, second.frames_used) == (1, 2)
    torch.testing.assert_close(first.disparity, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(second.disparity, pair, rtol=0, atol=1e-5)


def test_a_centred_stream_answers_for_the_frame_before() -> None:
    network, images, K = lively(TINY), frames(4), camera_matrix(32, 48)
    stream = DepthStream(network, 'centre')
    with torch.inference_mode():
        assert stream.push(images[:, 0], K) is None
        stream.push(images[:, 1], K)
        answer = stream.push(images[:, 2], K)
        whole = network(images[:, :3], K).disparities[0][:, 1]
    assert answer is not None
    torch.testing.assert_close(answer.disparity, whole, rtol=0, atol=1e-5)


def test_a_reset_stream_forgets() -> None:
    network, images, K = lively(TINY), frames(3), camera_matrix(32, 48)
    used, fresh = DepthStream(network), DepthStream(network)
    with torch.inference_mode():
        used.push(images[:, 0], K)
        used.push(images[:, 1], K)
        used.reset()
        a, b = used.push(images[:, 2], K), fresh.push(images[:, 2], K)
    assert a is not None and b is not None
    assert torch.equal(a.disparity, b.disparity)


def test_a_centred_stream_refuses_causal_weights() -> None:
    with pytest.raises(ValueError, match='newest'):
        DepthStream(TCDepth(replace(TINY, temporal='causal')), 'centre')


def test_the_kernel_is_a_softmax_of_distances() -> None:
    """Two cells 1 apart at depth 1: weights 1 and exp(-1 / (2 * 0.25)) over their sum."""
    K = torch.eye(3)[None]
    kernel = distance_kernel(torch.ones(1, 1, 1, 2), K, sigma=0.25)
    far = torch.exp(torch.tensor(-2.0)) / (1 + torch.exp(torch.tensor(-2.0)))
    torch.testing.assert_close(kernel[0, 0], torch.stack([1 - far, far]))
    torch.testing.assert_close(kernel, kernel.transpose(1, 2))


def test_the_kernel_is_exact_far_away() -> None:
    """The shortcut by matrix products errs by 2.6e-2 on a street; float64 is the truth here."""
    depth = torch.empty(1, 1, 24, 80).uniform_(3, 80, generator=torch.Generator().manual_seed(0))
    K = attention_intrinsics(camera_matrix(192, 640), 8, (24, 80), None)
    distance_error = distance_kernel(depth, K, 0.25) - _kernel_in_double(depth, K)
    assert distance_error.abs().max() < 2e-5


def _kernel_in_double(depth: Tensor, K: Tensor) -> Tensor:
    v, u = torch.meshgrid(torch.arange(24), torch.arange(80), indexing='ij')
    rays = (
        torch.linalg.inv(K.double())[0]
        @ torch.stack([u, v, torch.ones_like(u)]).flatten(1).double()
    )
    points = (rays.double() * depth.double().flatten()).T
    distance = (points[:, None] - points[None]).norm(dim=-1)
    return (-distance / 0.5).softmax(-1).float()[None]


def test_imported_weights_see_the_intrinsics_they_were_trained_with() -> None:
    K = attention_intrinsics(camera_matrix(99, 99), 8, (24, 80), KITTI_ATTENTION_INTRINSICS)
    torch.testing.assert_close(K[0], torch.tensor([[46.4, 0, 40], [0, 46.08, 12], [0, 0, 1]]))


def test_the_coarse_depth_stays_in_its_bins() -> None:
    network = lively(TINY)
    with torch.inference_mode():
        coarse = network(frames(3), camera_matrix(32, 48)).coarse_inverse_depth
    assert coarse.min() >= 1 / TINY.max_depth and coarse.max() <= 1 / TINY.min_depth


@pytest.mark.parametrize('spatial', [True, False])
@pytest.mark.parametrize('temporal', [True, False])
def test_either_attention_can_be_left_out(spatial: bool, temporal: bool) -> None:
    network = lively(replace(TINY, spatial_attention=spatial, temporal_attention=temporal))
    images, K = frames(3), camera_matrix(32, 48)
    changed = images.clone()
    changed[:, 0] = 0.5
    with torch.inference_mode():
        of_the_last = [network(x, K).disparities[0][:, 2] for x in (images, changed)]
        other_geometry = network(images, camera_matrix(32, 480)).disparities[0][:, 2]
        stream = DepthStream(network)
        streamed = [stream.push(image, K) for image in images.unbind(1)][-1]
    assert torch.equal(*of_the_last) == (not temporal)
    # K matters to the distances alone
    assert torch.equal(of_the_last[0], other_geometry) == (not spatial)
    torch.testing.assert_close(streamed.disparity, of_the_last[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize('encoder', ['resnet18', 'efficientnet_lite0'])
def test_the_pose_back_is_the_inverse_of_the_pose_forth(encoder: str) -> None:
    torch.manual_seed(0)
    pose_net = PoseNet(PoseNetConfig(encoder)).eval()  # type: ignore[arg-type]
    images = frames(3, 64, 64)
    with torch.inference_mode():
        forth, back = pose_net.between(images, 0, 2), pose_net.between(images, 2, 0)
    torch.testing.assert_close(forth @ back, torch.eye(4)[None], rtol=0, atol=1e-5)
    assert not torch.equal(forth, torch.eye(4)[None])


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'blocks': 0}, 'blocks'),
        ({'min_depth': 5.0, 'max_depth': 1.0}, 'min_depth'),
        ({'kernel_sigma': 0.0}, 'kernel_sigma'),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **wrong)
