"""ONNX of the streaming step: equal to the stream in torch, in onnxruntime, or no file at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_matching import TINY_MATCHING, pose
from test_network import TINY, camera_matrix, frames, lively

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.build import DepthNetwork
from tc_depth_ros.network.checkpoint import WeightsInfo, read_weights_info, save_weights
from tc_depth_ros.network.config import (
    KITTI_ATTENTION_INTRINSICS,
    DepthConfig,
    MonodepthConfig,
    TCDepthConfig,
)
from tc_depth_ros.network.encoder import EfficientNetLite0
from tc_depth_ros.network.keyframes import KeyframeBuffer
from tc_depth_ros.network.matching import MatchView
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.stream import open_stream
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training import export
from tc_depth_training.cli import main
from tc_depth_training.export import (
    MAX_DIFFERENCE,
    NEEDED,
    Export,
    ExportError,
    _Recording,
    describe,
    export_onnx,
)
from tc_depth_training.streaming_step import StreamingStep

REPOSITORY = Path(__file__).parents[1]
SIZE = (40, 48)
SCALE = 1.5
CAUSAL = replace(
    TINY, temporal='causal', blocks=2, attention_intrinsics=KITTI_ATTENTION_INTRINSICS
)
NETWORKS: dict[str, DepthConfig] = {
    'one block': TINY,
    'causal': CAUSAL,
    'window': replace(TINY, blocks=2),
    'no attention': replace(TINY, temporal_attention=False, spatial_attention=False),
    'monodepth': MonodepthConfig(decoder_channels=(8, 8, 8, 8, 8)),
}
STATES = {
    'one block': ['past_count', 'past_keys', 'past_values'],
    'causal': ['past_count', 'past_keys', 'past_values'],
    'window': ['past_count', 'past_features', 'past_coarse', 'past_K'],
    'no attention': [],
    'monodepth': [],
}
LAST = ['last_inverse_depth', 'last_frames', 'last_features']  # of networks with matching
modes = pytest.mark.parametrize('mode', NETWORKS)


def shorten_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block in each stage: the exporter's time goes by the number of operations."""
    stages = tuple((*sizes, 1, stride) for *sizes, _, stride in EfficientNetLite0.STAGES)
    monkeypatch.setattr(EfficientNetLite0, 'STAGES', stages)


@pytest.fixture
def short_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_encoder(monkeypatch)


def build(config: DepthConfig) -> DepthNetwork:
    """A random network whose disparities are neither all alike nor at the sigmoid's ends."""
    if isinstance(config, TCDepthConfig):
        network: DepthNetwork = lively(config)
        make_matching_lively(network)
    else:
        torch.manual_seed(1)
        network = Monodepth(config).eval()
    head, seen = network.decoder.disparity[0], []
    hook = head.register_forward_hook(lambda _, inputs, logits: seen.append(logits))
    with torch.inference_mode():
        open_stream(network).push(frames(1, *SIZE)[0], camera_matrix(*SIZE))
    hook.remove()
    spread, mean = torch.std_mean(seen[0].double())
    with torch.no_grad():
        head.weight.div_(spread)
        head.bias.sub_(mean).div_(spread)
    return network


def make_matching_lively(network: TCDepth) -> None:
    if network.matcher is None:
        return
    with torch.no_grad():
        for layer in (network.matcher.logits, network.matcher.trust):
            layer.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(5))


def weights_file(folder: Path, config: DepthConfig) -> Path:
    path = folder / 'weights.safetensors'
    info = WeightsInfo(config, *SIZE, metric=True, scale=SCALE, training_data='a room')
    save_weights(path, build(config), info)
    return path


def need_packages() -> None:
    for name in NEEDED:
        pytest.importorskip(name)


@modes
def test_the_step_is_the_stream_from_the_first_frame_on(mode: str) -> None:
    # In float64, for random weights make much of the last digits
    network = build(NETWORKS[mode]).double()
    stream, step = open_stream(network), StreamingStep(network, SCALE, SIZE)
    assert [port.name for port in step.state] == STATES[mode]
    images, disparities = frames(5, *SIZE).double(), []
    # What is said not to be there is not looked at
    state = [torch.full_like(port.zeros(), 0 if port.shape == (1,) else 9) for port in step.state]
    with torch.inference_mode():
        for index in range(5):
            stretch = torch.tensor([[1 + 0.3 * index], [1.0], [1.0]])
            K = (camera_matrix(*SIZE) * stretch).double()
            expected = stream.push(images[:, index], K)
            depth, disparity, *state = step(images[:, index], K, *state)
            assert expected is not None
            disparities.append(disparity)
            torch.testing.assert_close(disparity, expected.disparity, rtol=0, atol=1e-6)
            torch.testing.assert_close(depth, SCALE * depth_from_disparity(disparity, 0.1, 100))
            assert [tuple(x.shape) for x in state] == [port.shape for port in step.state]
    assert (disparities[1] - disparities[0]).std() > 0.02  # or all of this would prove little


@modes
@pytest.mark.usefixtures('short_encoder')
def test_onnxruntime_answers_as_the_stream_does(mode: str, tmp_path: Path) -> None:
    need_packages()
    import onnxruntime

    weights, out = weights_file(tmp_path, NETWORKS[mode]), tmp_path / 'new' / 'depth.onnx'
    exported = export_onnx(weights, out)
    assert exported.parity.worst < MAX_DIFFERENCE
    assert [file.name for file in out.parent.iterdir()] == ['depth.onnx']  # all in one file

    session = onnxruntime.InferenceSession(out, providers=['CPUExecutionProvider'])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [(x.name, tuple(x.shape)) for x in inputs] == [
        (port.name, port.shape) for port in exported.inputs
    ]
    assert [x.name for x in inputs] == ['image', 'K', *STATES[mode]]
    following = [f'next_{name}' for name in STATES[mode]]
    assert [x.name for x in outputs] == ['depth', 'disparity', *following]
    metadata = session.get_modelmeta().custom_metadata_map
    assert ('rectified' in metadata['K']) == (mode in ('one block', 'window'))

    stream, images, K = open_stream(build(NETWORKS[mode])), frames(4, *SIZE), camera_matrix(*SIZE)
    types = {'tensor(float)': np.float32, 'tensor(int64)': np.int64}
    feed = {x.name: np.zeros(x.shape, types[x.type]) for x in inputs}
    for index in range(4):
        feed |= {'image': images[:, index].numpy(), 'K': K.numpy()}
        answer = session.run(None, feed)
        with torch.inference_mode():
            expected = stream.push(images[:, index], K)
        assert expected is not None
        assert answer[1].std() > 0.05
        np.testing.assert_allclose(answer[1], expected.disparity, rtol=0, atol=MAX_DIFFERENCE)
        # Outputs are copied to inputs in their order: what a program in C++ does
        feed |= {x.name: value for x, value in zip(inputs[2:], answer[2:], strict=True)}
    if STATES[mode]:
        assert feed['past_count'].tolist() == [2]


# ---- matching -------------------------------------------------------------------------------


def matching_network() -> TCDepth:
    network = build(TINY_MATCHING)
    assert isinstance(network, TCDepth)
    return network


def without_matching(network: TCDepth) -> TCDepth:
    plain = TCDepth(replace(network.config, matching=None)).eval()
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith('matcher.')}
    plain.load_state_dict(kept)
    return plain


@pytest.mark.parametrize('count', [0, 1, 2])
def test_a_step_matches_with_the_keyframes_that_are_there(count: int) -> None:
    network, image, K = matching_network(), frames(1, *SIZE)[0], camera_matrix(*SIZE)
    step, plain = (StreamingStep(net, SCALE, SIZE) for net in (network, without_matching(network)))
    noise = torch.randn(1, 2, 8, 10, 12, generator=torch.Generator().manual_seed(3))
    features, motions = F.normalize(noise, dim=2), torch.eye(4).repeat(1, 2, 1, 1)
    motions[0, :, :3, 3] = torch.tensor([[0.1, 0.02, 0.0], [-0.1, 0.0, 0.05]])
    views = [MatchView(features[:, i], motions[:, i].clone()) for i in range(count)]
    motions[0, :, :3, 3] *= SCALE  # given in the unit of depth
    given = features.clone()
    given[:, count:], motions[:, count:] = torch.nan, torch.nan  # is not looked at
    past = [port.zeros() for port in plain.state]
    last = [port.zeros() for port in step.state[len(past) :]]
    unknown = torch.full((1, 4, 4), torch.nan)  # is not looked at
    with torch.inference_mode():
        _, expected, *following = plain(image, K, *past)
        encoded = network.encode(image, K)
        assert encoded.matching is not None
        if views:
            unmatched = expected
            expected, _ = network.match(unmatched, encoded.matching, encoded.skips[1], views, K)
            assert (expected - unmatched).abs().max() > 0.01
        depth, disparity, own, *state = step(
            image, K, given, motions, torch.tensor([count]), unknown, *past, *last
        )
    torch.testing.assert_close(disparity, expected, rtol=0, atol=1e-5 if views else 0)
    torch.testing.assert_close(depth, SCALE * depth_from_disparity(disparity, 0.1, 100))
    assert torch.equal(own, encoded.matching)
    assert all(torch.equal(a, b) for a, b in zip(state, following, strict=False))
    inverse_depth, seen, features = state[len(following) :]
    torch.testing.assert_close(inverse_depth, network.inverse_depth(disparity))
    assert torch.equal(seen, torch.ones_like(seen)) and torch.equal(features, own)


def test_no_nan_of_a_state_gets_through_zeros_in_last_frames() -> None:
    network, image, K = matching_network(), frames(1, *SIZE)[0], camera_matrix(*SIZE)
    step = StreamingStep(network, SCALE, SIZE)
    given = {port.name: port.zeros() for port in step.inputs} | {'image': image, 'K': K}
    broken = {name: torch.full_like(given[name], torch.nan) for name in LAST}
    broken['last_frames'] = torch.zeros_like(given['last_frames'])
    with torch.inference_mode():
        clean, mended = (step(*(given | more).values()) for more in ({}, broken))
    for a, b in zip(clean, mended, strict=True):
        assert torch.equal(a, b) and b.isfinite().all()


@pytest.fixture(scope='module')
def matching_export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    need_packages()
    folder = tmp_path_factory.mktemp('matching')
    with pytest.MonkeyPatch.context() as monkeypatch:
        shorten_encoder(monkeypatch)
        yield export_onnx(weights_file(folder, TINY_MATCHING), folder / 'depth.onnx')


def test_a_matching_graph_says_what_it_takes(matching_export: Export) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(matching_export.path)
    inputs = {x.name: tuple(x.shape) for x in session.get_inputs()}
    assert list(inputs) == [
        *('image', 'K', 'keyframe_features', 'keyframe_T_target', 'keyframe_count'),
        *('last_T_target', *STATES['one block'], *LAST),
    ]
    assert inputs['keyframe_features'] == (1, 2, 8, 10, 12)
    assert inputs['keyframe_T_target'] == (1, 2, 4, 4) and inputs['keyframe_count'] == (1,)
    outputs = {x.name: tuple(x.shape) for x in session.get_outputs()}
    following = [f'next_{name}' for name in (*STATES['one block'], *LAST)]
    assert list(outputs) == ['depth', 'disparity', 'features', *following]
    assert outputs['features'] == inputs['last_features'] == (1, 8, 10, 12)

    metadata = session.get_modelmeta().custom_metadata_map
    assert list(json.loads(metadata['state'])) == following  # keyframes are the caller's
    described = json.loads(metadata['inputs'])
    assert 'network/keyframes.py' in described['keyframe_features']['meaning']
    assert 'unit of depth' in described['keyframe_T_target']['meaning']
    assert described['keyframe_count']['type'] == 'int64'
    assert '0 to 2; 0: not matched' in described['keyframe_count']['meaning']
    assert 'keyframe' in json.loads(metadata['outputs'])['features']['meaning']
    assert matching_export.parity.worst < MAX_DIFFERENCE
    assert matching_export.parity.matched >= 6
    told = describe(matching_export)
    assert f'{matching_export.parity.matched} of them matched' in told
    assert 'zero in keyframe_count: not matched' in told


@pytest.mark.usefixtures('short_encoder')
def test_onnxruntime_matches_as_the_stream_does(matching_export: Export) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(matching_export.path)
    names = [x.name for x in session.get_outputs()]
    network = matching_network()
    matched, unmatched = open_stream(network), open_stream(network)
    # Faint, so that all of it looks alike and is fused
    images, K = 0.5 + 0.1 * (frames(5, *SIZE) - 0.5), camera_matrix(*SIZE)
    feed = {port.name: port.zeros().numpy() for port in matching_export.inputs}
    keyframes, counts = KeyframeBuffer(), []
    before = pose(0.0)
    for index in range(5):
        here = pose(0.1 * index)  # in the unit of depth
        here.track_T_camera[:3, :3] = [[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]
        if index:
            here = replace(here, last_T_this=here.past_T_this(before.track_T_camera))
            feed['last_T_target'] = here.last_T_this[None].astype(np.float32)
        before = here
        feed |= {'image': images[:, index].numpy(), 'K': K.numpy()}
        feed['keyframe_count'] = np.array([0])
        alone = feed | {'last_frames': np.zeros_like(feed['last_frames'])}
        plain = dict(zip(names, session.run(None, alone), strict=True))
        views = keyframes.choose(here, torch.from_numpy(1 / plain['depth']), K, 2)
        for i, view in enumerate(views):
            feed['keyframe_features'][:, i] = view.features
            feed['keyframe_T_target'][:, i] = view.past_T_target
        feed['keyframe_count'] = np.array([len(views)])
        answer = dict(zip(names, session.run(None, feed), strict=True))
        inverse_depth = torch.from_numpy(1 / answer['depth'])
        keyframes.add(here, torch.from_numpy(answer['features']), inverse_depth, K)
        counts.append(len(views))
        feed |= {name: answer[f'next_{name}'] for name in (*STATES['one block'], *LAST)}

        with torch.inference_mode():
            with_pose = matched.push(images[:, index], K, here.in_units_of(SCALE))
            without = unmatched.push(images[:, index], K)
        assert with_pose is not None and without is not None
        assert with_pose.keyframes_used == len(views)
        for found, expected in ((answer, with_pose), (plain, without)):
            np.testing.assert_allclose(
                found['disparity'], expected.disparity, rtol=0, atol=MAX_DIFFERENCE
            )
        depth = SCALE * depth_from_disparity(with_pose.disparity, 0.1, 100)
        np.testing.assert_allclose(answer['depth'], depth, rtol=5e-3)
        assert not views or np.abs(answer['disparity'] - plain['disparity']).max() > 0.01
    assert counts[0] == 0 and counts[-1] == 2
    assert feed['last_frames'].max() > 1.5  # fused


@pytest.mark.parametrize('wrong', ['unit', 'order', 'count'])
@pytest.mark.usefixtures('short_encoder')
def test_a_graph_that_matches_otherwise_is_found(
    matching_export: Export, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    right = export._keyframe_inputs

    def mistaken(step: StreamingStep, views: Sequence[MatchView]) -> Mapping[str, np.ndarray]:
        given = right(step, views)
        if wrong == 'unit':
            given['keyframe_T_target'][:, :, :3, 3] *= SCALE
        elif wrong == 'order':
            given['keyframe_T_target'][:] = given['keyframe_T_target'][:, ::-1].copy()
        else:
            given['keyframe_count'][:] = min(len(views), 1)
        return given

    network = matching_network()
    step = StreamingStep(network, SCALE, SIZE)
    recordings = [make(network, SCALE, SIZE) for make in (export._noise, export._room)]

    def worst() -> float:
        path = matching_export.path
        return max(export._difference(path, step, recording) for recording in recordings)

    assert worst() < MAX_DIFFERENCE
    monkeypatch.setattr(export, '_keyframe_inputs', mistaken)
    assert worst() > 0.01


@pytest.mark.parametrize(('side', 'found'), [(4, False), (8, True)])
def test_a_few_pixels_at_an_edge_do_not_count_and_more_do(
    monkeypatch: pytest.MonkeyPatch, side: int, found: bool
) -> None:
    network = matching_network()
    recording = export._noise(network, SCALE, SIZE)
    wrong = recording.disparities.copy()
    wrong[2, :, :side, :side] += 0.1
    monkeypatch.setattr(export, '_streamed', lambda *_: list(wrong))
    step, path = StreamingStep(network, SCALE, SIZE), Path('x.onnx')
    assert (export._difference(path, step, recording) > MAX_DIFFERENCE) == found
    wrong[2, :, 0, 0] = np.nan
    assert np.isnan(export._difference(path, step, recording))
    plain = StreamingStep(without_matching(network), SCALE, SIZE)
    wrong[2, :, 0, 0] = 0
    assert export._difference(path, plain, recording) > MAX_DIFFERENCE


def test_matching_that_could_not_be_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_packages()
    monkeypatch.setattr(KeyframeBuffer, 'choose', lambda *_: [])
    with pytest.raises(ExportError, match='none of 10 frames has a keyframe'):
        export_onnx(weights_file(tmp_path, TINY_MATCHING), tmp_path / 'x.onnx')
    assert not (tmp_path / 'x.onnx').exists()


# ---- what is refused, and told --------------------------------------------------------------


@pytest.mark.parametrize('difference', [2e-4, float('nan'), None])
def test_a_graph_that_disagrees_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float | None
) -> None:
    need_packages()
    weights, out = weights_file(tmp_path, NETWORKS['monodepth']), tmp_path / 'out' / 'depth.onnx'
    out.parent.mkdir()
    out.write_text('the old one')

    def write(step: StreamingStep, info: WeightsInfo, path: Path) -> None:
        path.write_text('a graph')

    def streamed(path: Path, step: StreamingStep, recording: _Recording) -> list[np.ndarray]:
        assert path.read_text() == 'a graph'
        return [disparity + (difference or 0.0) for disparity in recording.disparities]

    monkeypatch.setattr(export, '_write', write)
    monkeypatch.setattr(export, '_streamed', streamed)
    if difference is None:
        export_onnx(weights, out)
        assert out.read_text() == 'a graph'
    else:
        with pytest.raises(ExportError, match='differs from torch by'):
            export_onnx(weights, out)
        assert out.read_text() == 'the old one'
    assert len(list(out.parent.iterdir())) == 1


def test_a_missing_package_is_answered_by_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, 'NEEDED', ('onnx_of_nobody', 'json'))
    weights = weights_file(tmp_path, TINY)
    assert main(['export', str(weights), '--onnx', str(tmp_path / 'x.onnx')]) == 1
    expected = 'export needs onnx_of_nobody: pip install tc-depth-training[onnx]'
    assert expected in capsys.readouterr().err
    assert not (tmp_path / 'x.onnx').exists()


def test_a_size_that_no_network_takes_is_refused(tmp_path: Path) -> None:
    need_packages()
    with pytest.raises(ValueError, match='size is 36x48'):
        export_onnx(weights_file(tmp_path, TINY), tmp_path / 'x.onnx', (36, 48))


@pytest.mark.slow
def test_the_command_says_little_and_the_file_all_that_is_needed(tmp_path: Path) -> None:
    need_packages()
    import onnxruntime

    out = tmp_path / 'small.onnx'
    command = [sys.executable, '-m', 'tc_depth_training.cli', 'export', str(DEFAULT_WEIGHTS)]
    told = subprocess.run(  # a process of its own, or pytest would take the exporter's log
        [*command, '--onnx', str(out), '--size', '96', '128'],
        env=os.environ | {'PYTHONPATH': f'{REPOSITORY}:{REPOSITORY / "training"}'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stderr == ''
    wrote, inputs, _, parity, *_ = told.stdout.splitlines()
    assert wrote == f'wrote {out}, {out.stat().st_size / 1e6:.1f} MB'
    assert 'image 1x3x96x128' in inputs and 'past_keys 1x2x1x192x64' in inputs
    assert float(parity.split()[4]) < 1e-5

    session = onnxruntime.InferenceSession(out, providers=['CPUExecutionProvider'])
    metadata = session.get_modelmeta().custom_metadata_map
    info = read_weights_info(DEFAULT_WEIGHTS)
    assert WeightsInfo.from_json(metadata['weights']) == info
    assert (metadata['height'], metadata['width']) == ('96', '128')
    assert (metadata['metric'], metadata['depth_unit']) == ('true', 'm')
    assert float(metadata['scale']) == info.scale
    assert json.loads(metadata['inputs'])['image']['shape'] == [1, 3, 96, 128]
    assert json.loads(metadata['outputs'])['depth']['meaning'] == 'z, network units times scale'
    assert json.loads(metadata['state'])['next_past_keys'] == 'past_keys'
