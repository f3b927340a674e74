"""The front door, whole, on random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_network import TINY, lively

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.frames.preprocessing import network_input, network_size
from tc_depth_ros.frames.window import FrameRejected
from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import Weights, WeightsInfo, save_weights
from tc_depth_ros.network.stream import StreamedDisparity
from tc_depth_ros.predictor import DepthPredictor, PredictorConfig, full_size_depth

INFO = WeightsInfo(TINY, 48, 64, metric=True, scale=2.0)
NETWORK = lively(TINY)


def predictor(config: PredictorConfig | None = None) -> DepthPredictor:
    return DepthPredictor(Weights(NETWORK, None, INFO), config)


def frame(index: int, size: tuple[int, int] = (90, 120), period_s: float = 0.1) -> Frame:
    pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    K = np.array([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]])
    return Frame(pixels, K, round((1 + index * period_s) * 1e9), 'optical')


def test_depth_stands_at_the_cameras_size_and_carries_its_frame() -> None:
    pushed = frame(0)
    prediction = predictor().push(pushed)
    assert prediction is not None
    assert prediction.frame is pushed
    assert prediction.depth.shape == (90, 120) and prediction.depth.dtype == np.float32
    assert prediction.metric and prediction.frames_used == 1 and prediction.continuity == 'first'


def test_the_depth_is_the_networks_times_the_scale() -> None:
    """At a size that the network can take as it is, nothing is resized."""
    pushed = frame(0, (48, 64))
    prediction = predictor().push(pushed)
    assert prediction is not None
    image, K = network_input(pushed, (48, 64))
    with torch.inference_mode():
        window = image[:, None].expand(-1, 3, -1, -1, -1)
        disparity = NETWORK(window, K).disparities[0][0, 0, 0]
        depth = depth_from_disparity(disparity, TINY.min_depth, TINY.max_depth)
    np.testing.assert_allclose(prediction.depth, 2 * depth.numpy(), rtol=1e-4)


def test_the_window_fills_and_a_gap_empties_it() -> None:
    streaming = predictor()
    indices = (0, 1, 2, 3, 23)
    used = [streaming.push(frame(index)).frames_used for index in indices]  # type: ignore[union-attr]
    assert used == [1, 2, 3, 3, 1]


def test_after_a_gap_size_or_intrinsics_change_the_past_is_forgotten() -> None:
    changes = {
        'gap': frame(40),
        'size': frame(3, (60, 80)),
        'intrinsics': Frame(
            frame(3).image, frame(3).K * [[1.1], [1], [1]], frame(3).stamp_ns, 'optical'
        ),
        'clock': Frame(frame(3).image, frame(3).K, 1, 'optical'),
    }
    for cause, changed in changes.items():
        streaming = predictor()
        for index in range(3):
            streaming.push(frame(index))
        after, fresh = streaming.push(changed), predictor().push(changed)
        assert after is not None and fresh is not None
        assert after.continuity == cause
        np.testing.assert_array_equal(after.depth, fresh.depth)


def test_a_rejected_frame_leaves_the_stream_as_it_was() -> None:
    disturbed, undisturbed = predictor(), predictor()
    for index in range(3):
        disturbed.push(frame(index))
        undisturbed.push(frame(index))
    with pytest.raises(FrameRejected):
        disturbed.push(frame(1))
    a, b = disturbed.push(frame(3)), undisturbed.push(frame(3))
    assert a is not None and b is not None
    np.testing.assert_array_equal(a.depth, b.depth)


def test_a_centred_predictor_answers_for_the_frame_before() -> None:
    streaming = predictor(PredictorConfig(output='centre'))
    first, second = frame(0), frame(1)
    assert streaming.push(first) is None
    answer = streaming.push(second)
    assert answer is not None and answer.frame is first


@pytest.mark.parametrize('output', ['newest', 'centre'])
def test_after_a_failure_answers_belong_to_their_frames(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = predictor(PredictorConfig(output=output))  # type: ignore[arg-type]
    for index in range(3):
        streaming.push(frame(index))
    with monkeypatch.context() as broken:
        broken.setattr(NETWORK, 'encode', lambda *_: (_ for _ in ()).throw(RuntimeError('full')))
        with pytest.raises(RuntimeError, match='full'):
            streaming.push(frame(3))
    fresh = predictor(PredictorConfig(output=output))  # type: ignore[arg-type]
    for index in range(4, 8):
        answer, expected = streaming.push(frame(index)), fresh.push(frame(index))
        assert (answer is None) == (expected is None)
        if answer is not None and expected is not None:
            assert answer.frame.stamp_ns == expected.frame.stamp_ns
            np.testing.assert_array_equal(answer.depth, expected.depth)


def test_near_depth_is_nan_and_far_depth_is_inf() -> None:
    plain = predictor().push(frame(0))
    assert plain is not None
    near, far = np.quantile(plain.depth, [0.3, 0.6])
    ranged = predictor(PredictorConfig(min_range=float(near), max_range=float(far))).push(frame(0))
    assert ranged is not None
    assert np.array_equal(np.isnan(ranged.depth), plain.depth < near)
    assert np.array_equal(np.isposinf(ranged.depth), plain.depth > far)
    kept = np.isfinite(ranged.depth)
    assert np.array_equal(ranged.depth[kept], plain.depth[kept])


@pytest.mark.parametrize('size', [(50, 70), (91, 33), (17, 200)])
def test_any_camera_size_is_resized_and_undone(size: tuple[int, int]) -> None:
    prediction = predictor().push(frame(0, size))
    assert prediction is not None and prediction.depth.shape == size
    assert np.isfinite(prediction.depth).all()


def test_a_ramp_stays_where_it_was_through_resizing() -> None:
    """What the predictor changes on the way in it undoes: no shift, whatever the size."""
    size = (100, 140)
    height, width = network_size(size, (48, 64))
    # A disparity that is linear in the camera's column, as the network would see it
    columns = (np.arange(width) + 0.5) * size[1] / width - 0.5
    disparity = np.broadcast_to(0.2 + 0.002 * columns, (height, width)).astype(np.float32)
    depth = full_size_depth(disparity, size, INFO)
    nearest, farthest = 1 / TINY.min_depth, 1 / TINY.max_depth
    recovered = (2.0 / depth - farthest) / (nearest - farthest)
    inner = slice(3, -3)
    np.testing.assert_allclose(
        recovered[50, inner], 0.2 + 0.002 * np.arange(140)[inner], atol=2e-5
    )


def test_a_factor_applies_before_the_range() -> None:
    plain = predictor(PredictorConfig(max_range=1e9, min_range=0.0)).push(frame(0))
    assert plain is not None
    limit = float(np.median(plain.depth))
    config = PredictorConfig(min_range=0.0, max_range=3 * limit)
    scaled = predictor(config).push(frame(0), factor=3.0)
    assert scaled is not None
    near = plain.depth < 0.999 * limit
    np.testing.assert_allclose(scaled.depth[near], 3 * plain.depth[near], rtol=1e-6)
    assert np.isposinf(scaled.depth[plain.depth > 1.001 * limit]).all()


@pytest.mark.parametrize(('value', 'cause'), [(0, 'dark'), (255, 'overexposed')])
def test_an_image_that_shows_nothing_is_refused_and_changes_nothing(
    value: int, cause: str
) -> None:
    streaming = predictor()
    for index in range(2):
        streaming.push(frame(index))
    blank = replace(frame(2), image=np.full((90, 120, 3), value, dtype=np.uint8))
    with pytest.raises(FrameRejected, match='look at the lens') as caught:
        streaming.push(blank)
    assert caught.value.cause == cause
    following = streaming.push(frame(3))
    assert following is not None and following.frames_used == 3


def spoil(streaming: DepthPredictor, share: float) -> None:
    """Make the network answer NaN for some rows of its next answer."""
    whole = streaming._stream.push

    def push(*given: object) -> StreamedDisparity | None:
        streaming._stream.push = whole  # type: ignore[method-assign]
        answer = whole(*given)  # type: ignore[arg-type]
        assert answer is not None
        rows = round(share * answer.disparity.shape[-2])
        answer.disparity[..., :rows, :] = torch.nan
        return answer

    streaming._stream.push = push  # type: ignore[method-assign]


def test_a_few_pixels_without_number_are_nan_and_the_past_is_forgotten() -> None:
    streaming = predictor()
    streaming.push(frame(0))
    spoil(streaming, 0.125)
    prediction = streaming.push(frame(1))
    assert prediction is not None
    assert np.isnan(prediction.depth[:10]).all() and np.isfinite(prediction.depth[14:]).all()
    following = streaming.push(frame(2))
    assert following is not None and following.frames_used == 1


def test_a_frame_of_many_pixels_without_number_is_refused() -> None:
    streaming = predictor()
    spoil(streaming, 0.5)
    with pytest.raises(FrameRejected, match='no number for 50 %') as caught:
        streaming.push(frame(0))
    assert caught.value.cause == 'not finite'
    following = streaming.push(frame(1))
    assert following is not None and following.frames_used == 1


def run_out(streaming: DepthPredictor, times: int) -> None:
    """Let the network run out of memory some times, from now on."""
    whole, left = streaming._stream.push, [times]

    def push(*given: object) -> StreamedDisparity | None:
        if left[0] > 0:
            left[0] -= 1
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return whole(*given)  # type: ignore[arg-type]

    streaming._stream.push = push  # type: ignore[method-assign]


def test_out_of_memory_is_tried_once_more_without_the_past() -> None:
    streaming = predictor()
    for index in range(3):
        streaming.push(frame(index))
    run_out(streaming, 1)
    retried, fresh = streaming.push(frame(3)), predictor().push(frame(3))
    assert retried is not None and fresh is not None
    assert retried.frames_used == 1
    np.testing.assert_array_equal(retried.depth, fresh.depth)
    following = streaming.push(frame(4))
    assert following is not None and following.frames_used == 2


def test_out_of_memory_twice_is_an_error_from_which_it_recovers() -> None:
    streaming = predictor()
    run_out(streaming, 2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        streaming.push(frame(0))
    following = streaming.push(frame(1))
    assert following is not None and following.continuity == 'first'


def test_weights_load_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / 'w.safetensors'
    save_weights(file, NETWORK, INFO)
    loaded = DepthPredictor.from_weights(file, device='cpu').push(frame(0))
    direct = predictor().push(frame(0))
    assert loaded is not None and direct is not None
    np.testing.assert_array_equal(loaded.depth, direct.depth)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'abacus'"):
        DepthPredictor.from_weights('unused.safetensors', device='abacus')
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='no CUDA'):
            DepthPredictor.from_weights('unused.safetensors', device='cuda')
