"""What a cell looks at, against the attention that the network computes with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_network import TINY, camera_matrix, frames, lively

from tc_depth_ros.network.attention import TemporalAttention
from tc_depth_ros.network.attention_maps import attention_of_cell

HEIGHT, WIDTH, ROWS, COLUMNS = 32, 48, 4, 6
CELL = (2, 4)


@pytest.mark.parametrize('target', [0, 1, 2])
def test_the_weights_are_those_that_the_network_mixes_with(target: int) -> None:
    """
    Brute force: each cell of a frame in turn shows 1 and all others 0, through the real attention.

    What then arrives at the cell of the target is the weight that it gives to that cell.
    """
    network, images = lively(TINY), frames(3, HEIGHT, WIDTH)
    K = camera_matrix(HEIGHT, WIDTH)
    maps = attention_of_cell(network, images, K, target, CELL)
    assert maps.frames == tuple(i for i in range(3) if i != target)
    assert maps.spatial is not None

    block = network.blocks[0].temporal
    assert isinstance(block, TemporalAttention)
    cells, row = ROWS * COLUMNS, CELL[0] * COLUMNS + CELL[1]
    with torch.no_grad():
        encoded = network.encode(images[0], K.expand(3, 3, 3))
        keys = encoded.memory.key
        block.out = torch.nn.Identity()  # type: ignore[assignment]
        for frame, shown in zip(maps.frames, maps.temporal, strict=True):
            other = encoded.memory._replace(
                key=keys[frame : frame + 1], value=torch.eye(cells)[None]
            )
            answer = block._answer(keys[target : target + 1], other, torch.Size((ROWS, COLUMNS)))
            torch.testing.assert_close(shown.flatten(), answer[0, :, CELL[0], CELL[1]])
            assert shown.sum().item() == pytest.approx(1, abs=1e-5)
            assert shown.max() > 2 / cells, 'an even mix would prove nothing'
    mixed = encoded.kernel[target] @ torch.eye(cells)
    torch.testing.assert_close(maps.spatial.flatten(), mixed[row])
    assert maps.spatial.sum().item() == pytest.approx(1, abs=1e-5)
    # A cell is nearest to itself, and distance is all that counts
    assert maps.spatial.flatten().argmax() == row


def test_a_causal_network_looks_back_only() -> None:
    network = lively(replace(TINY, temporal='causal'))
    for target, seen in ((0, ()), (1, (0,)), (2, (0, 1))):
        maps = attention_of_cell(
            network, frames(3, HEIGHT, WIDTH), camera_matrix(HEIGHT, WIDTH), target, CELL
        )
        assert maps.frames == seen and len(maps.temporal) == len(seen)


def test_attention_that_is_left_out_is_not_shown() -> None:
    network = lively(replace(TINY, spatial_attention=False, temporal_attention=False))
    maps = attention_of_cell(
        network, frames(3, HEIGHT, WIDTH), camera_matrix(HEIGHT, WIDTH), 1, CELL
    )
    assert maps.spatial is None and maps.temporal == ()


def test_looking_at_a_network_that_learns_is_refused() -> None:
    network = lively(TINY).train()
    with pytest.raises(ValueError, match='training mode'):
        attention_of_cell(network, frames(3, HEIGHT, WIDTH), camera_matrix(HEIGHT, WIDTH), 1, CELL)
