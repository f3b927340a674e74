"""Matched depth through the front doors: evaluate, predict, and the table of harm."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_matching import TINY_MATCHING
from test_network import TINY, lively

from tc_depth_ros.network.checkpoint import WeightsInfo, load_weights, save_weights
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.cli import main
from tc_depth_training.data.stretch import Stretch
from tc_depth_training.evaluation import predictions
from tc_depth_training.evaluation.predictions import Way, predict, predict_ways
from tc_depth_training.evaluation.sequence import Topics, read_sequence
from tc_depth_training.harm import MOTIONS, _stopped, harm, table
from tc_depth_training.synthetic import render_recording

FRAMES, HEIGHT, WIDTH = 6, 96, 128


@pytest.fixture(scope='module')
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('bags')
    # Every third of the frames: hand-held, so that neighbours have parallax
    views = render_recording(3 * FRAMES, HEIGHT, WIDTH)[::3]
    write_bag(folder / 'room', views, image_format='png', depth_encoding='32FC1')
    write_bag(folder / 'no_odom', views, image_format='png', odometry=False)
    return {'room': folder / 'room', 'no_odom': folder / 'no_odom'}


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('weights')
    network = lively(TINY_MATCHING)
    assert network.matcher is not None
    with torch.no_grad():
        for layer in (network.matcher.logits, network.matcher.trust):
            layer.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(5))
    plain = TCDepth(TINY)
    own = network.state_dict()
    plain.load_state_dict({k: v for k, v in own.items() if not k.startswith('matcher.')})
    info = WeightsInfo(TINY_MATCHING, 48, 64, metric=True)
    save_weights(folder / 'matching.safetensors', network, info)
    save_weights(folder / 'plain.safetensors', plain.eval(), replace(info, network=TINY))
    unmetric = replace(info, metric=False)
    save_weights(folder / 'unmetric.safetensors', network, unmetric)
    return {path.stem: path for path in folder.iterdir()}


def evaluated(bag: Path, weights: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / 'out.json'
    command = ['evaluate', str(bag), '--weights', str(weights), '--json', str(file)]
    assert main([*command, *options]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_column_shows_depth_without_motion_and_the_source_is_named(
    bags, weights, tmp_path, capsys
) -> None:
    numbers = evaluated(bags['room'], weights['matching'], tmp_path)
    said = capsys.readouterr().out
    assert 'no motion' in said and 'matched by motion of: none 1, odometry 5' in said
    assert numbers['motions'] == {'none': 1, 'odometry': FRAMES - 1}
    without = numbers['without_motion']['depth']['global']['abs_rel']
    assert numbers['depth']['global']['abs_rel'] != without
    plain = evaluated(bags['room'], weights['plain'], tmp_path)
    assert plain['depth']['global']['abs_rel'] == without
    assert plain['motions'] == {} and plain['without_motion'] is None


@pytest.mark.parametrize('case', ['no_odom', 'unmetric', 'none'])
def test_without_odometry_that_can_be_used_it_is_matched_by_the_images(
    bags, weights, tmp_path, case
) -> None:
    bag = bags['no_odom' if case == 'no_odom' else 'room']
    file = weights['unmetric' if case == 'unmetric' else 'matching']
    options = ['--odom', 'none'] if case == 'none' else []
    numbers = evaluated(bag, file, tmp_path, *options)
    assert 'odometry' not in numbers['motions']


def test_ways_predicted_together_are_as_if_each_were_predicted_alone(
    bags, weights, tmp_path, monkeypatch
) -> None:
    loaded = load_weights(weights['matching'])
    sequence = read_sequence(bags['room'], Topics(), tmp_path)
    sequence.images[3] = sequence.images[2]  # which could be taken for each other
    calls: Counter[str] = Counter()
    for name in ('encoder', 'decoder'):
        part = getattr(loaded.network, name)
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    options: list[dict[str, bool]] = [{}, {'by_motion': False}, {'alone': True}]
    ways = [Way(tmp_path / str(i), **chosen) for i, chosen in enumerate(options)]
    together = predict_ways(sequence, loaded, ways)
    # One picture comes twice; the first frame is a single one to all, and only the single frames
    # are decoded by themselves
    assert calls == {'encoder': FRAMES - 1, 'decoder': 2 * FRAMES - 1}
    assert not {'encode', 'decoder'} & vars(loaded.network).keys()
    monkeypatch.setattr(predictions, 'share', lambda network: network)
    for chosen, found in zip(options, together, strict=True):
        expected = predict(sequence, loaded, tmp_path / 'expected', **chosen)
        np.testing.assert_array_equal(found.depths, expected.depths)
        assert found.motions == expected.motions
    for one, other in combinations(together, 2):
        assert all(
            not np.allclose(a, b) for a, b in zip(one.depths[1:], other.depths[1:], strict=True)
        )


def test_predict_writes_what_evaluate_scores(bags, weights, tmp_path) -> None:
    out = tmp_path / 'out'
    command = ['predict', str(bags['room']), '--weights', str(weights['matching'])]
    assert main([*command, '--out', str(out)]) == 0
    scored = evaluated(
        bags['room'], weights['matching'], tmp_path, '--predictions', str(out / 'depth')
    )
    own = evaluated(bags['room'], weights['matching'], tmp_path)
    for scaling in ('median', 'global', 'none'):
        assert scored['depth'][scaling]['abs_rel'] == pytest.approx(
            own['depth'][scaling]['abs_rel'], rel=1e-3
        )
    alone = tmp_path / 'alone'
    assert main([*command, '--out', str(alone), '--odom', 'none']) == 0
    last = sorted((out / 'depth').iterdir())[-1].name
    assert not np.allclose(np.load(out / 'depth' / last), np.load(alone / 'depth' / last))


def test_the_table_of_harm_has_a_row_for_every_motion(bags, weights) -> None:
    rows = harm(bags['room'], load_weights(weights['matching']), Stretch())
    standing = 'the camera stops half-way'
    assert [row.name for row in rows] == ['single frame', 'withheld', *MOTIONS, standing]
    by_name = {row.name: row for row in rows}
    assert by_name['withheld'].matched == f'none {FRAMES}'
    assert 'odometry' in by_name['as recorded'].matched
    # What says that nothing moves has no parallax, and leaves depth to the images
    assert by_name['standing still'].matched.startswith('none')
    assert '| every step reversed |' in table(rows)
    # Its frames are others, and so is what single frames reach on them
    assert by_name[standing].alone != by_name['withheld'].alone == rows[0].errors.overall.abs_rel


def test_a_camera_that_stops_sees_the_middle_frame_from_then_on(bags, tmp_path) -> None:
    sequence = read_sequence(bags['room'], Topics(), tmp_path)
    stopped = _stopped(sequence, tmp_path)
    middle, poses = FRAMES // 2, sequence.world_T_camera
    for index in range(FRAMES):
        source = min(index, middle)
        np.testing.assert_array_equal(stopped.truth[index], sequence.truth[source])
        np.testing.assert_array_equal(stopped.world_T_camera[index], poses[source])
        noise = stopped.images[index].astype(int) - sequence.images[source]
        assert 1.0 < noise.std() < 3.0
    assert (stopped.images[middle] != stopped.images[-1]).any()


def test_motions_are_wrong_in_the_way_that_they_are_called() -> None:
    poses = np.stack([view.world_T_camera for view in render_recording(4, 16, 16)])
    steps = {
        name: [np.linalg.inv(a) @ b for a, b in zip(p, p[1:], strict=False)]
        for name, p in ((name, change(poses)) for name, change in MOTIONS.items())
    }
    for true, back in zip(steps['as recorded'], steps['every step reversed'], strict=True):
        np.testing.assert_allclose(true @ back, np.eye(4), atol=1e-9)
    for true, far in zip(steps['as recorded'], steps['ten times too long'], strict=True):
        np.testing.assert_allclose(far[:3, 3], 10 * true[:3, 3])
        np.testing.assert_allclose(far[:3, :3], true[:3, :3])
    for turn, still in zip(steps['turning only'], steps['standing still'], strict=True):
        np.testing.assert_allclose(turn[:3, 3], 0, atol=1e-9)
        np.testing.assert_allclose(still, np.eye(4), atol=1e-9)
    for step in steps['noise']:
        np.testing.assert_allclose(step[:3, :3] @ step[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(step[:3, :3]) > 0
