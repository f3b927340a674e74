"""Matching along the epipolar line: geometry, keyframes, the stream, and what it learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_network import TINY, camera_matrix, frames, lively
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.geometry.depth import inverse_depth_from_disparity
from tc_depth_ros.geometry.reprojection import pixel_rays
from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights, save_weights
from tc_depth_ros.network.config import (
    MatchingConfig,
    depth_config_from_dict,
    depth_config_to_dict,
)
from tc_depth_ros.network.keyframes import KEPT, TRACKS, KeyframeBuffer
from tc_depth_ros.network.matching import (
    MAX_SEARCH_FACTOR,
    Matcher,
    MatchView,
    Sweep,
    correct,
    sweep,
)
from tc_depth_ros.network.stream import DepthStream
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.losses.matching import depth_loss, disturbed, inexact

MATCHING = MatchingConfig(channels=8, hypotheses=16, hidden=8)
TINY_MATCHING = replace(TINY, matching=MATCHING)
SKIPS = (16, 24, 40)
H, W = 16, 24  # cells
K = camera_matrix(4 * H, 4 * W)
CELL_K = camera_matrix(H, W)


def random_features(channels: int = 8, width: int = W) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(1, channels, H, width, generator=generator), dim=1)


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Tensor:
    """Motion past_T_target of a camera that has moved by (x, y, z)."""
    motion = torch.eye(4)[None].clone()
    motion[0, :3, 3] = torch.tensor([x, y, z])
    return motion


def pose(x: float, track: str = 'odometry') -> CameraPose:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return CameraPose(matrix, track)


def swept(features: Tensor, view: MatchView, hypotheses: Tensor) -> Sweep:
    return sweep(features, pixel_rays(H, W, CELL_K), view, hypotheses, CELL_K)


def at_depth(depth: float) -> Tensor:
    return torch.full((1, 1, 4 * H, 4 * W), 1 / depth)


# ---- the volume -----------------------------------------------------------------------------


@pytest.mark.parametrize('cells', [-3, 2, 4])
def test_a_plane_fits_best_where_it_is(cells: int) -> None:
    """A plane at 2 m, seen by a camera that moved sideways so far that it shifts whole cells."""
    depth, width = 2.0, W + 10
    wide = random_features(width=width)
    target, past = wide[..., 5 : 5 + W], wide[..., 5 - cells : 5 - cells + W]
    shift = cells * depth / float(CELL_K[0, 0, 0])
    ratios = torch.linspace(-1, 1, 17).exp()
    hypotheses = (ratios / depth)[None, :, None, None].expand(1, 17, H, W)
    view = MatchView(past, moved(x=shift))
    volume = swept(target, view, hypotheses).similarity
    inner = volume[..., 2:-2, 6:-6]
    assert (inner.argmax(dim=1) == 8).float().mean() > 0.98
    torch.testing.assert_close(inner[:, 8], torch.ones_like(inner[:, 8]), atol=1e-4, rtol=0)


def test_what_is_out_of_view_or_behind_the_camera_does_not_fit() -> None:
    hypotheses = torch.full((1, 1, H, W), 0.5)
    features = random_features()
    for motion in (moved(x=100.0), moved(z=-3.0)):
        compared = swept(features, MatchView(features, motion), hypotheses)
        assert not compared.similarity.any() and not compared.in_view.any()


def test_a_turn_alone_tells_no_depth() -> None:
    angle = torch.tensor(0.1)
    turn = torch.eye(4)[None].clone()
    turn[0, :3, :3] = torch.tensor(
        [
            [angle.cos(), 0, angle.sin()],
            [0, 1, 0],
            [-angle.sin(), 0, angle.cos()],
        ]
    )
    features = random_features()
    hypotheses = torch.linspace(0.1, 2, 9)[None, :, None, None].expand(1, 9, H, W)
    similarity = swept(features, MatchView(features, turn), hypotheses).similarity
    spread = similarity.amax(dim=1) - similarity.amin(dim=1)
    torch.testing.assert_close(spread, torch.zeros_like(spread), atol=1e-4, rtol=0)


def lively_matcher() -> Matcher:
    torch.manual_seed(2)
    matcher = Matcher(MATCHING, SKIPS).eval()
    with torch.no_grad():
        for layer in (matcher.logits, matcher.trust):
            layer.weight.normal_(std=0.5)
    return matcher


@pytest.mark.parametrize('there', [[0], [2], [0, 2], [0, 1, 2], []])
def test_views_that_are_not_there_count_for_nothing(there: list[int]) -> None:
    matcher, context = lively_matcher(), torch.randn(1, 24, H, W)
    wide = random_features(width=W + 10)
    target, guess = wide[..., 5 : 5 + W], at_depth(1.0)
    # All the views say 2 m: the one factor is searched, and found
    cell_m = 2.0 / float(CELL_K[0, 0, 0])
    views = [MatchView(wide[..., 5 - c : 5 - c + W], moved(x=c * cell_m)) for c in (2, 4, -3)]
    present = torch.tensor([i in there for i in range(3)])
    with torch.inference_mode():
        match = matcher(target, guess, context, views, K, present)
        if not there:
            assert match.log_factor.isfinite().all() and match.trust.isfinite().all()
            return
        expected = matcher(target, guess, context, [views[i] for i in there], K)
        every = matcher(target, guess, context, views, K)
    assert expected.log_factor.abs().max() > 0.3
    for found, wanted in zip(vars(match).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert len(there) == 3 or (every.log_factor - match.log_factor).abs().max() > 1e-3


def test_no_number_is_read_out_of_a_tensor() -> None:
    """It would make the CPU wait for the GPU, and has no ONNX."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        match = lively_matcher()(
            random_features(),
            at_depth(1),
            torch.randn(1, 24, H, W),
            [MatchView(random_features(), moved(x=0.1))],
            K,
            torch.tensor([True]),
        )
    assert match.trust.shape == (1, 1, H, W)


@pytest.mark.parametrize('factor', [0.01, 7.0, 1000.0])
def test_scaling_motion_and_guess_scales_the_answer(factor: float) -> None:
    matcher, context = lively_matcher(), torch.randn(1, 24, H, W)
    features, past = random_features(), random_features().flip(-1)
    guess = 0.2 + torch.rand(1, 1, 4 * H, 4 * W)
    views = [MatchView(past, moved(x=0.1, z=0.05)), MatchView(past, moved(y=-0.2))]
    scaled = [
        MatchView(v.features, moved(*(factor * v.past_T_target[0, :3, 3]).tolist())) for v in views
    ]
    with torch.inference_mode():
        match = matcher(features, guess, context, views, K)
        again = matcher(features, guess / factor, context, scaled, K)
    assert match.log_factor.abs().max() > 0.05
    torch.testing.assert_close(
        correct(guess, match) / factor, correct(guess / factor, again), rtol=2e-3, atol=0
    )


@pytest.mark.parametrize('guess', [0.5, 1.0, 1.5, 2.0, 7.0])
def test_an_untrained_matcher_goes_where_the_images_fit(guess: float) -> None:
    """A plane at 2 m that the single frame sees elsewhere, and be it far off."""
    config = MatchingConfig(channels=8, hypotheses=33, max_factor=2.0, hidden=8)
    matcher = Matcher(config, SKIPS).eval()
    wide = random_features(width=W + 10)
    target, past = wide[..., 5 : 5 + W], wide[..., 1 : 1 + W]
    view = MatchView(past, moved(x=4 * 2.0 / float(CELL_K[0, 0, 0])))
    with torch.inference_mode():
        match = matcher(target, at_depth(guess), torch.zeros(1, 24, H, W), [view], K)
    found = (match.log_factor / match.trust)[..., 2:-2, 6:-6].exp()
    assert float(found.median()) == pytest.approx(2.0 / guess, rel=0.1)


def test_the_answer_lies_within_what_was_tried() -> None:
    matcher = lively_matcher()
    view = MatchView(random_features(), moved(x=0.1))
    with torch.inference_mode():
        match = matcher(random_features(), at_depth(1), torch.randn(1, 24, H, W), [view], K)
    assert match.log_factor.abs().max() <= np.log(MATCHING.max_factor * MAX_SEARCH_FACTOR)
    assert ((match.trust >= 0) & (match.trust <= 1)).all()


@pytest.mark.parametrize(
    'wrong', [{'hypotheses': 1}, {'channels': 0}, {'views': 0}, {'max_factor': 1.0}]
)
def test_a_matching_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        MatchingConfig(**wrong)  # type: ignore[arg-type]


# ---- which frames ---------------------------------------------------------------------------


def filled(positions: list[float], track: str = 'odometry') -> KeyframeBuffer:
    buffer = KeyframeBuffer()
    for x in positions:
        buffer.add(pose(x, track), torch.full((1, 1), x), at_depth(2), K)
    return buffer


def test_a_camera_that_stands_keeps_its_neighbours() -> None:
    buffer = filled([0.0, 0.2, 0.4] + [0.6] * 100)
    assert len(buffer) == 4
    views = buffer.choose(pose(0.6), at_depth(2), K, 2)
    assert len(views) == 2 and all(abs(float(v.past_T_target[0, 0, 3])) > 0.1 for v in views)


def test_a_fast_camera_fills_the_buffer_as_a_slow_one_does() -> None:
    """30 images over one way, or 300: the keyframes stand as far apart."""
    few, many = (filled(np.linspace(0, 3, count).tolist()) for count in (31, 301))
    for buffer in (few, many):
        steps = np.diff([k.track_T_camera[0, 3] for k in buffer._tracks['odometry']])
        assert len(buffer) == KEPT and steps.min() > 0.08 and steps.max() < 0.25


def test_frames_without_parallax_or_overlap_are_not_matched_with() -> None:
    assert not filled([0.0]).choose(pose(0.001), at_depth(2), K, 2)
    assert not filled([0.0]).choose(pose(50.0), at_depth(2), K, 2)
    assert not filled([0.0]).choose(pose(0.2, 'images 1'), at_depth(2), K, 2)
    assert filled([0.0]).choose(pose(0.2), at_depth(2), K, 2)


def test_what_is_kept_is_bounded() -> None:
    buffer = KeyframeBuffer()
    for index in range(100):
        buffer.add(pose(0.3 * index, f'track {index // 30}'), torch.zeros(1), at_depth(2), K)
    assert len(buffer) <= KEPT * TRACKS
    assert not buffer.choose(pose(0.0, 'track 0'), at_depth(2), K, 2)


def test_a_tracks_unit_is_turned_into_that_of_depth() -> None:
    buffer = filled([0.0])
    in_feet = CameraPose(pose(1.0).track_T_camera, 'odometry', 0.3048)
    (view,) = buffer.choose(in_feet, at_depth(2), K, 2)
    assert float(view.past_T_target[0, 0, 3]) == pytest.approx(0.3048)
    assert in_feet.in_units_of(2.0).unit == pytest.approx(0.1524)


# ---- the network and its stream ---------------------------------------------------------------


@pytest.fixture(scope='module')
def network() -> TCDepth:
    network = lively(TINY_MATCHING)
    assert network.matcher is not None
    with torch.no_grad():
        for layer in (network.matcher.logits, network.matcher.trust):
            layer.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(5))
    return network


def stream_of(network: TCDepth, poses: list[CameraPose | None]) -> list[Tensor]:
    stream, images = DepthStream(network), frames(len(poses), 64, 96)
    with torch.inference_mode():
        answers = [stream.push(images[:, i], K, poses[i]) for i in range(len(poses))]
    return [answer.disparity for answer in answers if answer is not None]


def test_without_a_pose_it_is_the_network_without_matching(network: TCDepth) -> None:
    plain = TCDepth(TINY).eval()
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith('matcher.')}
    plain.load_state_dict(kept)
    for ours, theirs in zip(
        stream_of(network, [None] * 4), stream_of(plain, [None] * 4), strict=True
    ):
        assert torch.equal(ours, theirs)
    # A network without matching takes poses, and has no use for them
    assert torch.equal(stream_of(plain, [pose(0.3 * i) for i in range(4)])[-1], theirs)


def test_a_stream_equals_all_frames_encoded_anew(network: TCDepth) -> None:
    poses = [pose(0.15 * i) for i in range(4)]
    streamed = stream_of(network, list(poses))
    images = frames(4, 64, 96)
    matching = TINY_MATCHING.matching
    assert matching is not None
    with torch.inference_mode():
        encoded = [network.encode(images[:, i], K) for i in range(4)]
        buffer = KeyframeBuffer()
        for i, plain in enumerate(stream_of(network, [None] * 4)):
            inverse_depth = inverse_depth_from_disparity(plain, TINY.min_depth, TINY.max_depth)
            views = buffer.choose(poses[i], inverse_depth, K, matching.views)
            expected, features = plain, encoded[i].matching
            assert features is not None
            if views:
                expected, _ = network.match(plain, features, encoded[i].skips[1], views, K)
                inverse_depth = inverse_depth_from_disparity(
                    expected, TINY.min_depth, TINY.max_depth
                )
            buffer.add(poses[i], features, inverse_depth, K)
            torch.testing.assert_close(streamed[i], expected, atol=1e-5, rtol=0)
        assert views and not torch.allclose(expected, plain, atol=1e-4)


def test_the_single_frames_unit_can_be_had_back(network: TCDepth) -> None:
    stream, images = DepthStream(network), frames(2, 64, 96)
    with torch.inference_mode():
        plain = stream_of(network, [None] * 2)[1]
        first, second = (stream.push(images[:, i], K, pose(0.2 * i)) for i in range(2))
    assert first is not None and second is not None
    assert first.guess_ratio == 1 and second.keyframes_used == 1
    guess, matched = (
        inverse_depth_from_disparity(x, TINY.min_depth, TINY.max_depth)
        for x in (plain, second.disparity)
    )
    expected = float((matched / guess).median())
    assert second.guess_ratio == pytest.approx(expected, rel=0.05) and abs(expected - 1) > 0.01


def test_a_reset_forgets_the_keyframes(network: TCDepth) -> None:
    stream, images = DepthStream(network), frames(3, 64, 96)
    used = []
    with torch.inference_mode():
        for i in range(3):
            if i == 2:
                stream.reset()
            answer = stream.push(images[:, i], K, pose(0.2 * i))
            assert answer is not None
            used.append(answer.keyframes_used)
    assert used == [0, 1, 0]


def test_a_file_keeps_the_matching_and_files_without_load(tmp_path: Path) -> None:
    for config in (TINY_MATCHING, TINY):
        network = TCDepth(config)
        save_weights(tmp_path / 'w.safetensors', network, WeightsInfo(config, 48, 64, metric=True))
        loaded = load_weights(tmp_path / 'w.safetensors')
        assert loaded.info.network == config
        assert loaded.network.state_dict().keys() == network.state_dict().keys()
    old = depth_config_to_dict(TINY)
    del old['matching']  # as files written before say nothing of it
    assert depth_config_from_dict(old) == TINY


# ---- what it learns from ------------------------------------------------------------------------


def test_motions_are_disturbed_in_the_share_asked_for() -> None:
    torch.manual_seed(0)
    motions = [moved(x=0.1).expand(4000, 4, 4), moved(z=0.2).expand(4000, 4, 4)]
    replaced, right = disturbed(motions, 0.25, torch.ones(4000, dtype=torch.bool))
    assert float(right.float().mean()) == pytest.approx(0.75, abs=0.03)
    for before, after in zip(motions, replaced, strict=True):
        same = (before == after).flatten(1).all(dim=1)
        assert torch.equal(same, right)  # never a wrong one that is right by chance
        rotations = after[:, :3, :3]
        identity = torch.eye(3).expand_as(rotations)
        torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)


def test_an_unknown_motion_counts_as_wrong() -> None:
    known = torch.tensor([True, False])
    _, right = disturbed([moved(x=0.1).expand(2, 4, 4)], 0.0, known)
    assert right.tolist() == [True, False]


def test_motions_are_inexact_in_the_share_asked_for_and_by_little() -> None:
    torch.manual_seed(0)
    motions = [moved(x=0.1).expand(4000, 4, 4)]
    (off,) = inexact(motions, 0.5)
    changed = (off != motions[0]).flatten(1).any(dim=1)
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((off - motions[0])[:, :3, 3].norm(dim=1).max()) < 0.03
    trace = off[:, :3, :3].diagonal(dim1=1, dim2=2).sum(dim=1)
    turned = ((trace[changed] - 1) / 2).clamp(max=1).acos()
    assert 0.003 < float(turned.mean()) < 0.03
    rotations = off[:, :3, :3]
    identity = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)
    (same,) = inexact(motions, 0.0)
    assert torch.equal(same, motions[0])


def test_the_depth_loss_is_the_logarithm_where_the_truth_is_known() -> None:
    depth = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)
    truth = torch.tensor([[[[4.0, torch.nan], [0.0, 2.0]]]])
    loss = depth_loss(depth, truth)
    assert float(loss.detach()) == pytest.approx(np.log(2) / 2)
    (gradient,) = torch.autograd.grad(loss, depth)
    assert gradient.isfinite().all() and not gradient[0, 0, 0, 1] and not gradient[0, 0, 1, 0]
    assert float(depth_loss(depth, torch.full_like(truth, torch.nan))) == 0
