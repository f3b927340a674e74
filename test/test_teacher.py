"""Teachers, epochs, schedules and presets: what makes a run the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_monodepth import network as a_teacher
from test_network import camera_matrix, frames

from tc_depth_ros.geometry.depth import depth_from_disparity
from tc_depth_ros.network.checkpoint import WeightsError, WeightsInfo, load_weights, save_weights
from tc_depth_ros.network.config import MONODEPTH
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.predictor import DepthPredictor
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.config_file import load_config
from tc_depth_training.data.bag import Bag
from tc_depth_training.data.windows import Batch
from tc_depth_training.run import Run, TakenStep
from tc_depth_training.schedule import Schedule
from tc_depth_training.synthetic import render_recording
from tc_depth_training.teacher import Teacher, epoch_file
from tc_depth_training.train import train

SMOKE = [
    'data.height=48',
    'data.width=64',
    'data.time_steps_s=[0.2]',
    'network.imagenet=false',
    'network.initial_depth=4.5',
    'loss.scales=[0]',
    'warm_up_steps=0',
    'batch_size=4',
    'pose=odometry',
]
INFO = WeightsInfo(MONODEPTH, 48, 64, metric=True)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of eight windows: an epoch has two steps."""
    path = tmp_path_factory.mktemp('bags') / 'room'
    write_bag(path, render_recording(frames=12, height=120, width=160))
    return path


def constant_teacher(depth: float) -> Monodepth:
    """A teacher that answers one depth everywhere."""
    network = a_teacher()
    layer = network.decoder.disparity[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(float(torch.logit(torch.tensor((1 / depth - 0.01) / 9.99))))
    return network


def log_of(out: Path) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines())
    return [entry for entry in lines if 'total' in entry]


def test_a_teacher_answers_for_the_target_in_its_own_range(tmp_path: Path) -> None:
    network = a_teacher()
    save_weights(tmp_path / 't.safetensors', network, INFO)
    images, K = frames(3, 48, 64), camera_matrix(48, 64)
    depth = Teacher(tmp_path / 't.safetensors').depth(images, K, target=2)
    disparity = network(images, K).disparities[0][:, 2]
    torch.testing.assert_close(depth, depth_from_disparity(disparity, 0.1, 100.0))
    assert not depth.requires_grad


def test_the_teacher_of_an_epoch_is_the_one_of_that_epoch(tmp_path: Path) -> None:
    for epoch, depth in enumerate((2.0, 3.0)):
        save_weights(epoch_file(tmp_path, epoch), constant_teacher(depth), INFO)
    teacher, answers = Teacher(tmp_path), []
    for epoch in (0, 1, 7, 0):
        teacher.begin_epoch(epoch)
        depth = teacher.depth(frames(3, 48, 64), camera_matrix(48, 64), 1)
        answers.append(float(depth.mean()))
    # Beyond its last epoch a teacher stays as it is
    assert answers == pytest.approx([2, 3, 3, 2], rel=1e-4)


def test_a_teacher_that_is_not_there_is_named_before_bags_are_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match='save_every_epoch'):
        Teacher(tmp_path)
    config = load_config(None, [f'teacher={tmp_path / "nobody.safetensors"}'])
    with pytest.raises(WeightsError, match='nobody.safetensors does not exist: set teacher to'):
        train([tmp_path / 'no_bag'], config, tmp_path / 'out')


def test_a_teacher_is_heard_in_its_epochs_only_and_learns_nothing(
    bag: Path, tmp_path: Path
) -> None:
    file = tmp_path / 't.safetensors'
    save_weights(file, constant_teacher(1.5), INFO)
    before = file.read_bytes()
    more = ['epochs=3', 'teacher_epochs=2', f'teacher={file}']
    train([bag], load_config(None, [*SMOKE, *more]), tmp_path / 'out')
    log = log_of(tmp_path / 'out')
    # The student starts at 4.5 m, thrice the teacher's
    assert [entry['motion'] > 0.1 for entry in log] == [True] * 4 + [False] * 2
    assert [entry['static_share'] for entry in log[4:]] == [1, 1]
    assert file.read_bytes() == before
    assert not any('teacher' in key for key in load_weights_keys(tmp_path / 'out'))


def load_weights_keys(out: Path) -> list[str]:
    return list(load_weights(out / 'weights.safetensors').network.state_dict())


def test_the_teachers_batch_norm_does_not_drift(bag: Path, tmp_path: Path) -> None:
    network = a_teacher()
    save_weights(tmp_path / 't.safetensors', network, INFO)
    teacher = Teacher(tmp_path / 't.safetensors')
    images, K = frames(3, 48, 64), camera_matrix(48, 64)
    first = teacher.depth(images, K, 1)
    for _ in range(3):
        teacher.depth(frames(3, 48, 64, batch=2), K.expand(2, 3, 3), 0)
    assert torch.equal(first, teacher.depth(images, K, 1))


@pytest.mark.parametrize('pose', ['odometry', 'learned'])
def test_a_teacher_is_trained_on_the_same_bags_and_teaches(
    bag: Path, tmp_path: Path, pose: str
) -> None:
    teacher, student = tmp_path / 'teacher', tmp_path / 'student'
    common = [part for value in [*SMOKE, f'pose={pose}'] for part in ('--set', value)]
    command = ['train', str(bag), *common, '--set', 'epochs=2', '--set', 'save_every_epoch=true']
    assert main([*command, '--model', 'monodepth', '--out', str(teacher)]) == 0
    assert sorted(p.name for p in (teacher / 'epochs').iterdir()) == [
        'weights_0000.safetensors',
        'weights_0001.safetensors',
    ]
    assert all(entry['geometric'] > 0 and entry['coarse'] == 0 for entry in log_of(teacher))
    loaded = load_weights(teacher / 'weights.safetensors')
    assert isinstance(loaded.network, Monodepth)
    predictor = DepthPredictor.from_weights(teacher / 'weights.safetensors', 'cpu')
    with Bag(bag) as opened:
        assert predictor.push(next(opened.frames(opened.find_camera()))) is not None
    taught = ['train', str(bag), *common, '--set', 'steps=1', '--set', f'teacher={teacher}']
    assert main([*taught, '--out', str(student)]) == 0
    assert 'static_share' in log_of(student)[0]


def test_a_single_frame_network_is_trained_as_monodepth2_unless_told_otherwise() -> None:
    config = load_config(None, ['network.name=monodepth'])
    assert config.loss.geometric_weight == 0 and config.single_frame_share == 0
    told = load_config(None, ['network.name=monodepth', 'loss.geometric_weight=0.2'])
    assert told.loss.geometric_weight == 0.2


def test_the_papers_learning_rate_falls_at_its_epochs() -> None:
    schedule = Schedule(load_config(Path('paper')), epoch_steps=10)
    rates = {epoch: 1e-4 * schedule.rate(10 * epoch) for epoch in (0, 14, 15, 19, 20, 29)}
    assert schedule.steps == 300
    assert list(rates.values()) == pytest.approx([1e-4, 1e-4, 2.5e-5, 2.5e-5, 6.25e-6, 6.25e-6])
    assert schedule.rate(149) == 1 and schedule.rate(150) == 0.25


def test_the_default_rate_warms_up_and_falls_to_a_rest() -> None:
    schedule = Schedule(load_config(None, ['steps=1000', 'warm_up_steps=10']), epoch_steps=7)
    rates = [schedule.rate(step) for step in range(1000)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1 and rates[505] == pytest.approx(0.51) and rates[-1] < 0.021
    assert [schedule.epoch(step) for step in (0, 6, 7)] == [0, 0, 1]
    assert [schedule.ends_epoch(step) for step in (5, 6, 7, 13)] == [False, True, False, True]


@pytest.mark.parametrize(('target', 'expected'), [('centre', {1}), ('random', {0, 1, 2})])
def test_the_centre_is_the_only_target_where_asked(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, expected: set[int]
) -> None:
    learn, targets = Run.learn, []

    def watched(run: Run, batch: Batch) -> TakenStep:
        taken = learn(run, batch)
        targets.append(taken.target)
        return taken

    monkeypatch.setattr(Run, 'learn', watched)
    config = load_config(None, [*SMOKE, 'steps=12', f'target={target}', 'gradient_norm=null'])
    assert train([bag], config, tmp_path).finished
    assert set(targets) == expected
