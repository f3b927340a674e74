"""Training through its front doors: a step learns, a run writes weights, the commands answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from test_network import TINY, lively

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import (
    WeightsError,
    WeightsInfo,
    load_weights,
    save_weights,
)
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_training import train as training
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.config import ConfigError, TrainingConfig
from tc_depth_training.config_file import load_config
from tc_depth_training.data.bag import Bag
from tc_depth_training.pretrained import PACKAGE, imagenet_file
from tc_depth_training.starting_model import (
    network_dtype,
    resumed_model,
    start_info,
    starting_model,
)
from tc_depth_training.step import TrainingModel
from tc_depth_training.synthetic import render_recording

REPOSITORY = Path(__file__).parents[1]
SMOKE = [
    'data.height=48',
    'data.width=64',
    'data.time_steps_s=[0.1, 0.2]',
    'network.imagenet=false',
    'network.initial_depth=4.5',
    'loss.scales=[0, 2]',
    'warm_up_steps=2',
    'batch_size=2',
    'watch.tensorboard=false',
]


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, render_recording(frames=16, height=120, width=160))
    return path


def log_of(out: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    return [entry for entry in entries if 'total' in entry]


def settings(*more: str) -> list[str]:
    return [part for value in [*SMOKE, *more] for part in ('--set', value)]


@pytest.mark.parametrize(
    ('pose', 'source'),
    [
        ('odometry', 'odometry, which gave the motion'),
        ('both', 'odometry, which gave the motion'),
        ('learned', 'depth of /camera/depth/image_rect_raw, fitted'),
    ],
)
def test_a_run_writes_weights_that_the_predictor_loads(
    bag: Path, tmp_path: Path, pose: str, source: str
) -> None:
    status = main(
        ['train', str(bag), '--out', str(tmp_path), *settings('steps=3', f'pose={pose}')]
    )
    assert status == 0
    loaded = load_weights(tmp_path / 'weights.safetensors')
    assert loaded.info.metric and loaded.info.scale_source.startswith(source)
    assert (loaded.info.scale != 1) == (pose == 'learned')
    assert (loaded.pose_net is not None) == (pose != 'odometry')
    assert loaded.info.training_data == 'room'
    predictor = DepthPredictor.from_weights(tmp_path / 'weights.safetensors', 'cpu')
    with Bag(bag) as opened:
        prediction = predictor.push(next(opened.frames(opened.find_camera())))
    assert prediction is not None and np.isfinite(prediction.depth).all()
    assert [entry['step'] for entry in log_of(tmp_path)] == [1, 2, 3]
    assert (load_config(tmp_path / 'config.yaml').steps, loaded.info.notes['steps']) == (3, 3)


def test_the_same_seed_gives_the_same_run(bag: Path, tmp_path: Path) -> None:
    config = load_config(None, [*SMOKE, 'steps=2', 'pose=odometry'])
    for name in ('a', 'b'):
        training.train([bag], config, tmp_path / name)
    assert log_of(tmp_path / 'a') == log_of(tmp_path / 'b')


@pytest.mark.slow
def test_training_learns_the_depth_of_the_synthetic_room(bag: Path, tmp_path: Path) -> None:
    """
    From a flat start and in 120 steps the depth must beat the best constant of every image.

    The network never sees the measured depth: it can only come from motion.
    """
    pytest.importorskip(PACKAGE)
    more = ['steps=120', 'pose=odometry', 'learning_rate=1e-3', 'network.imagenet=true']
    config = load_config(None, [*SMOKE, *more])
    training.train([bag], config, tmp_path)
    predictor = DepthPredictor.from_weights(tmp_path / 'weights.safetensors', 'cpu')
    with Bag(bag) as opened:
        truth = {d.stamp_ns: d.depth for d in opened.depth_maps('/camera/depth/image_rect_raw')}
        frames = list(opened.frames(opened.find_camera()))
    error, constant_error = [], []
    for frame in frames:
        prediction, true = predictor.push(frame), truth[frame.stamp_ns]
        assert prediction is not None
        error.append(np.mean(np.abs(prediction.depth - true) / true))
        constant = np.median(true)
        constant_error.append(np.mean(np.abs(constant - true) / true))
    print(f'abs rel {np.mean(error):.3f}, of the best constant {np.mean(constant_error):.3f}')
    assert np.mean(error) < 0.5 * np.mean(constant_error)


@pytest.mark.slow
def test_a_wrong_focal_length_is_found(tmp_path: Path) -> None:
    """A CameraInfo with a focal length 12 % too long, beside poses that are right."""
    pytest.importorskip(PACKAGE)
    wrong = np.array([[1.12, 1, 1], [1, 1.12, 1], [1, 1, 1]])
    views = render_recording(frames=16, height=120, width=160)
    write_bag(tmp_path / 'bag', [replace(view, K=view.K * wrong) for view in views])
    more = ['steps=100', 'pose=odometry', 'learning_rate=1e-3', 'network.imagenet=true']
    config = load_config(None, [*SMOKE, *more, 'fit_focal_length=true'])
    training.train([tmp_path / 'bag'], config, tmp_path / 'out')
    found = log_of(tmp_path / 'out')[-1]['focal_factors']['bag']
    print(f'focal factor {found:.3f}, true {1 / 1.12:.3f}')
    assert found == pytest.approx(1 / 1.12, abs=0.03)


def test_a_network_starts_at_the_depth_asked_for() -> None:
    config = load_config(None, ['network.imagenet=false', 'network.initial_depth=7'])
    network = starting_model(config).network.eval()
    with torch.inference_mode():
        images = torch.rand(1, 3, 3, 32, 48)
        output = network(images, torch.tensor([[[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]]))
    config = network.config
    depth = depth_from_disparity(output.disparities[0], config.min_depth, config.max_depth)
    assert depth.median().item() == pytest.approx(7, rel=0.05)
    assert (1 / output.coarse_inverse_depth).median().item() == pytest.approx(7, rel=0.3)


def test_a_run_can_start_from_the_embedded_weights(bag: Path, tmp_path: Path) -> None:
    embedded = load_weights(DEFAULT_WEIGHTS).network.state_dict()
    config = load_config(None, ['init=default', 'pose=both', 'network.imagenet=false'])
    model = starting_model(config)
    assert model.pose_net is not None
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, embedded[name]), name


@pytest.mark.parametrize('encoder', ['efficientnet_lite0', 'resnet18'])
def test_resumed_networks_are_those_of_the_start(tmp_path: Path, encoder: str) -> None:
    """Its pose network, which no setting says, among them."""
    embedded, file = load_weights(DEFAULT_WEIGHTS), tmp_path / 'w.safetensors'
    pose = PoseNetConfig(encoder)
    save_weights(file, embedded.network, replace(embedded.info, pose=pose), PoseNet(pose))
    config = load_config(None, [f'init={file}'])
    started, info = starting_model(config), start_info(config)
    file.unlink()
    shapes, expected = (
        {name: value.shape for name, value in model.state_dict().items()}
        for model in (resumed_model(config, info), started)
    )
    assert shapes == expected


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        (['network.temporal=causal'], 'temporal window, not causal'),
        (['network.name=monodepth'], 'tc_depth, not monodepth'),
        (['network.name=paper'], 'encoder efficientnet_lite0, not drn_c_26'),
    ],
)
def test_weights_of_another_network_are_no_start(more: list[str], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        starting_model(load_config(None, ['init=default', *more]))


def test_a_start_that_is_not_there_is_known_before_the_bags_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['train', 'no_bag', '--out', str(tmp_path / 'out'), '--init', 'nowhere.safetensors']
    assert main(command) == 1
    assert 'init nowhere.safetensors does not exist: give --init' in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(config: TrainingConfig, device: torch.device) -> TrainingModel:
        model = starting_model(config, device)
        with torch.no_grad():
            model.network.decoder.disparity[0].bias.fill_(math.nan)  # type: ignore[union-attr]
        return model

    monkeypatch.setattr(training, 'starting_model', poisoned)
    status = main(
        ['train', str(bag), '--out', str(tmp_path), *settings('steps=3', 'pose=odometry')]
    )
    assert status == 1
    said = capsys.readouterr().err
    assert 'nan at step 1' in said and '--init' not in said  # there is nothing to go on from
    assert not (tmp_path / 'weights.safetensors').exists()


def test_imagenet_weights_fit_the_encoder() -> None:
    pytest.importorskip(PACKAGE)
    assert imagenet_file().suffix == '.pth'
    network = starting_model(load_config(None)).network
    torch.manual_seed(0)
    fresh = starting_model(load_config(None, ['network.imagenet=false'])).network
    loaded_stem = network.encoder.backbone.stem[0].weight  # type: ignore[union-attr]
    fresh_stem = fresh.encoder.backbone.stem[0].weight  # type: ignore[union-attr]
    assert not torch.equal(loaded_stem, fresh_stem)


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (['inspect', 'nowhere'], 1, 'nowhere does not exist'),
        (['train', 'nowhere'], 1, 'nowhere does not exist'),
        (['train', 'x', '--set', 'steps=many', '--set', 'colour=red'], 2, '2 mistakes'),
        (['train', 'x', '--config', 'nowhere.yaml'], 2, 'nowhere.yaml does not exist'),
        (
            ['train', 'x', '--config', '.'],
            2,
            '. is a folder: give a file, or the name of a preset',
        ),
        (['predict', 'x', '--out', 'x', '--weights', 'w'], 1, 'w do not exist: give --weights a'),
        (['refine', 'x', '--out', 'x', '--weights', 'w'], 1, 'w do not exist: give --weights a'),
        (['demo', '--weights', 'w'], 1, 'w do not exist: give --weights a'),
        (['export', 'w', '--onnx', 'x'], 1, 'w do not exist: give WEIGHTS a'),
        (['predict', '--out', 'x'], 2, 'give a BAG'),
        (['predict', '--out', 'x', '--images', 'a.png'], 2, '--intrinsics'),
    ],
)
def test_wrong_use_is_answered_with_the_remedy(
    arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    assert words in capsys.readouterr().err


def test_inspect_says_what_a_bag_holds(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['inspect', str(bag)]) == 0
    text = capsys.readouterr().out
    for words in ('/camera/color/image_raw/compressed', '10.0 Hz', '160x120', 'usable', '/odom'):
        assert words in text, text


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / 'w.safetensors'
    save_weights(path, lively(TINY), WeightsInfo(TINY, 48, 64, metric=False))
    return path


def test_predict_writes_depth_and_pictures_of_a_bag(
    bag: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    assert main(['predict', str(bag), '--weights', str(weights), '--out', str(out)]) == 0
    depths = sorted((out / 'depth').glob('*.npy'))
    assert len(depths) == 16 == len(list((out / 'color').glob('*.png')))
    assert np.load(depths[0]).shape == (120, 160)
    assert cv2.imread(str(out / 'contact_sheet.png')) is not None


def test_a_bag_with_two_cameras_asks_which_and_takes_the_answer(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = tmp_path / 'stereo', tmp_path / 'out'
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for side in ('left', 'right'):
            write_bag(tmp_path / side, render_recording(3, 48, 64), camera=f'/{side}', depth=False)
            with AnyReader([tmp_path / side]) as reader:
                store = get_typestore(Stores.ROS2_JAZZY)
                added = {
                    c.id: writer.add_connection(c.topic, c.msgtype, typestore=store)
                    for c in reader.connections
                    if side in c.topic
                }
                for connection, stamp, raw in reader.messages():
                    if connection.id in added:
                        writer.write(added[connection.id], stamp, raw)
    command = ['predict', str(bag), '--weights', str(weights), '--out', str(out)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert '/left/color/image_raw/compressed' in said and 'choose one with --image' in said
    assert main([*command, '--image', '/right/color/image_raw/compressed']) == 0
    assert len(list((out / 'depth').glob('*.npy'))) == 3


def test_predict_takes_folders_and_videos_with_intrinsics(
    bag: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, video = tmp_path / 'images', tmp_path / 'video.avi'
    folder.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*'MJPG'), 10, (160, 120))
    for index, view in enumerate(render_recording(frames=3, height=120, width=160)):
        cv2.imwrite(str(folder / f'{index}.png'), view.image[..., ::-1])
        writer.write(np.ascontiguousarray(view.image[..., ::-1]))
    writer.release()
    K = ['--intrinsics', '130', '130', '80', '60']
    for source in (folder, video):
        out = tmp_path / f'out_{source.name}'
        command = ['predict', str(source), '--weights', str(weights), '--out', str(out)]
        assert main(command) == 1
        assert 'give --intrinsics' in capsys.readouterr().err
        assert main([*command, *K]) == 0
        assert len(list((out / 'depth').glob('*.npy'))) == 3


def test_predict_of_three_frames_writes_their_disparity_in_order(
    weights: Path, tmp_path: Path
) -> None:
    views = render_recording(frames=3, height=48, width=64)
    paths = [tmp_path / f'{index}.png' for index in range(3)]
    for path, view in zip(paths, views, strict=True):
        cv2.imwrite(str(path), view.image[..., ::-1])
    K = views[0].K
    intrinsics = [str(x) for x in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])]
    command = ['predict', '--weights', str(weights), '--out', str(tmp_path), '--intrinsics']
    assert main([*command, *intrinsics, '--images', *map(str, paths)]) == 0
    disparity = np.load(tmp_path / 'disparity.npy')
    images = np.stack([view.image for view in views]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = lively(TINY)(
            torch.from_numpy(images)[None].float() / 255, torch.from_numpy(K)[None].float()
        ).disparities[0]
    assert disparity.dtype == np.float32 and disparity.shape == (3, 48, 64)
    np.testing.assert_allclose(disparity, expected[0, :, 0].numpy(), atol=1e-5)


def test_predict_of_frames_resizes_them_and_their_K_to_the_weights(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = render_recording(frames=2, height=48, width=64)
    paths = [str(tmp_path / f'{index}.png') for index in range(2)]
    for path, view in zip(paths, views, strict=True):
        cv2.imwrite(path, view.image[..., ::-1].repeat(2, axis=0).repeat(2, axis=1))
    command = ['predict', '--weights', str(weights), '--out', str(tmp_path), '--intrinsics']
    command += ['120', '110', '63', '47', '--images']
    assert main([*command, *paths]) == 0
    images = np.stack([view.image for view in views]).transpose(0, 3, 1, 2)
    K = torch.tensor([[[60, 0, 31.25], [0, 55, 23.25], [0, 0, 1]]])
    with torch.inference_mode():
        expected = lively(TINY)(torch.from_numpy(images)[None].float() / 255, K).disparities[0]
    found = np.load(tmp_path / 'disparity.npy')
    np.testing.assert_allclose(found, expected[0, :, 0].numpy(), atol=1e-5)
    assert main([*command, paths[0]]) == 1
    assert 'alone has no neighbour' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('device', 'capability', 'expected'),
    [
        ('cpu', None, torch.float32),
        ('cuda', (9, 0), torch.bfloat16),
        ('cuda', (7, 5), torch.float16),
    ],
)
def test_the_precision_suits_the_hardware(device, capability, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: capability)
    assert network_dtype('auto', torch.device(device)) == expected
    assert network_dtype('float32', torch.device(device)) == torch.float32


# Matching on top of weights that do not match


def test_matching_grows_onto_weights_without() -> None:
    config = load_config(
        None,
        ['init=default', 'network.matching=true', 'learns=matching', 'pose=odometry'],
    )
    grown = starting_model(config).network
    embedded = load_weights(DEFAULT_WEIGHTS).network
    assert isinstance(grown, TCDepth) and grown.matcher is not None
    for key, value in embedded.state_dict().items():
        assert torch.equal(grown.state_dict()[key], value), key


@pytest.mark.parametrize(
    'overrides, said',
    [
        (['learns=matching'], 'needs network.matching: true and init'),
        (['learns=matching', 'network.matching=true'], 'needs network.matching: true and init'),
        (['data.learned_depth_topics=[/depth]'], 'needs pose: odometry or both'),
    ],
)
def test_settings_of_matching_that_do_not_go_together_are_told(
    overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, overrides)
