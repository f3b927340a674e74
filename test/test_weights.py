"""The embedded model: what ships, and that it has learned depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import shared_bag

from tc_depth_ros.network.checkpoint import load_weights
from tc_depth_ros.predictor import DEFAULT_WEIGHTS, DepthPredictor
from tc_depth_training.data.bag import Bag

MAX_BYTES = 20_000_000


def test_the_embedded_weights_are_small_enough_and_load_strictly() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < MAX_BYTES
    info = load_weights(DEFAULT_WEIGHTS).info
    assert info.training_data
    assert info.network.encoder == 'efficientnet_lite0'


def test_the_model_card_names_training_data_and_terms() -> None:
    card = (DEFAULT_WEIGHTS.parent / 'README.md').read_text()
    for words in (DEFAULT_WEIGHTS.name, 'kitchen_train', 'non-commercial', 'ImageNet', 'Abs Rel'):
        assert words in card


@pytest.mark.slow
def test_the_embedded_weights_have_learned_the_kitchen() -> None:
    """
    Abs Rel below 0.20 on frames that they have not seen, with one scale for the whole bag.

    The best constant gives 0.264 there, the best plane in inverse depth 0.213. The scale is the
    median of truth over prediction.
    """
    error = abs_rel_with_one_scale(shared_bag('kitchen_eval'))
    print(f'Abs Rel on kitchen_eval, one scale: {error:.3f}')
    assert error < 0.20


def abs_rel_with_one_scale(path: Path) -> float:
    """Mean over the images of |s prediction - truth| / truth."""
    predictor = DepthPredictor.from_weights(device='cpu')
    predicted, true = [], []
    with Bag(path) as bag:
        truth = {
            depth_map.stamp_ns: depth_map.depth
            for depth_map in bag.depth_maps('/camera/depth/image_rect_raw')
        }
        for frame in bag.frames(bag.find_camera()):
            prediction = predictor.push(frame)
            assert prediction is not None
            valid = np.isfinite(truth[frame.stamp_ns]) & np.isfinite(prediction.depth)
            predicted.append(prediction.depth[valid])
            true.append(truth[frame.stamp_ns][valid])
    scale = np.median(np.concatenate([t / p for t, p in zip(true, predicted, strict=True)]))
    errors = [np.abs(scale * p - t) / t for t, p in zip(true, predicted, strict=True)]
    return float(np.mean([error.mean() for error in errors]))
