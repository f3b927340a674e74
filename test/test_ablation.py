"""The ablation: what it leaves out is left out, and its table holds the evaluations' numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tc_depth_training import ablation
from tc_depth_training.ablation import COMMON, VARIANTS, Scene, table, train_variant
from tc_depth_training.bag_writer import write_bag
from tc_depth_training.config_file import load_config
from tc_depth_training.evaluate import evaluate
from tc_depth_training.synthetic import render_recording


def test_every_variant_leaves_out_what_it_says() -> None:
    whole, *lessened = (load_config(None, [*COMMON, *changes]) for changes in VARIANTS.values())
    assert whole.network.spatial_attention and whole.network.temporal_attention
    assert whole.loss.geometric_weight > 0 and whole.loss.cycle_kept == 0.7
    spatial, temporal, consistency, cycle, matching = lessened
    assert not spatial.network.spatial_attention and spatial.network.temporal_attention
    assert not temporal.network.temporal_attention and temporal.network.spatial_attention
    assert consistency.loss.geometric_weight == 0
    assert cycle.loss.cycle_kept == 1
    assert matching.network.matching and not whole.network.matching


def test_a_variant_is_trained_once_and_tabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = tmp_path / 'room'
    write_bag(bag, render_recording(frames=8, height=96, width=128))
    scene = Scene('room', [bag], bag, ('data.height=48', 'data.width=64', 'batch_size=2'))
    weights = train_variant(scene, 'no cycle mask', 0, 1, tmp_path)
    monkeypatch.setattr(ablation, 'train', pytest.fail)
    assert train_variant(scene, 'no cycle mask', 0, 1, tmp_path) == weights
    numbers = evaluate(bag, weights).to_dict()
    *_, row = table({'no cycle mask': [numbers, numbers]}).splitlines()
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[0] == 'no cycle mask'
    assert cells[1] == f'{numbers["depth"]["median"]["abs_rel"]:.4f} ± 0.0000'
    assert cells[4] == f'{numbers["temporal"]["tcm_abs"]:.4f} ± 0.0000'
