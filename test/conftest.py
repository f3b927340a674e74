"""What several tests share: a rendered room with its truth, real recordings, small helpers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # tests that only read text need not wait for torch
    from numpy.typing import NDArray
    from torch import Tensor

    from tc_depth_training.data.recording import Recording
    from tc_depth_training.data.windows import Batch
    from tc_depth_training.synthetic import SyntheticView

REPOSITORY = Path(__file__).parents[1]
OCCLUDED = 0.02  # relative difference of depth beyond which two views see different surfaces


@dataclass(frozen=True)
class ViewPair:
    """Two rendered views as batches of one, and the truth about them."""

    target: Tensor  # (1, 3, H, W)
    source: Tensor
    target_depth: Tensor  # (1, 1, H, W)
    source_depth: Tensor
    K: Tensor  # (1, 3, 3)
    source_T_target: Tensor  # (1, 4, 4)
    visible: Tensor  # (1, 1, H, W), the target's pixels whose surface the source sees; boolean


@pytest.fixture(scope='session', autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and tests should not slow what runs beside them."""
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what is decoded out of the user's cache, in the processes that tests start too."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='session')
def synthetic_views() -> list[SyntheticView]:
    """Nine views of a rendered room, 320x240, 3 cm apart."""
    from tc_depth_training.synthetic import render_recording

    return render_recording(9, 240, 320)


@pytest.fixture(scope='session')
def synthetic_pair(synthetic_views: list[SyntheticView]) -> ViewPair:
    """Two views 12 cm apart. What is visible is worked out here, without the code under test."""
    import numpy as np

    target, source = synthetic_views[0], synthetic_views[4]
    source_T_target = np.linalg.inv(source.world_T_camera) @ target.world_T_camera
    height, width = target.depth.shape
    v, u = np.indices((height, width))
    rays = np.linalg.inv(target.K) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    points = source_T_target[:3, :3] @ (rays * target.depth.ravel()) + source_T_target[:3, 3:]
    seen_u, seen_v, z = (source.K @ points).reshape(3, height, width)
    seen_u, seen_v = seen_u / z, seen_v / z
    inside = (seen_u >= 0) & (seen_u <= width - 1) & (seen_v >= 0) & (seen_v <= height - 1)
    column = np.rint(seen_u).clip(0, width - 1).astype(int)
    row = np.rint(seen_v).clip(0, height - 1).astype(int)
    visible = inside & (np.abs(source.depth[row, column] / z - 1) < OCCLUDED)
    return ViewPair(
        tensor_of(target.image),
        tensor_of(source.image),
        tensor_of(target.depth),
        tensor_of(source.depth),
        tensor_of(target.K)[0],
        tensor_of(source_T_target)[0],
        tensor_of(visible) > 0,
    )


@pytest.fixture(
    params=[
        'translation of the wrong sign',
        'rotation of the wrong sign',
        'pose inverted',
        'cx and cy swapped',
        'fx of the wrong sign',
        'fy of the wrong sign',
    ]
)
def wrong(request: pytest.FixtureRequest) -> Callable[[ViewPair], tuple[Tensor, Tensor]]:
    """A usual mistake: takes a pair, answers its K and source_T_target with that mistake."""

    def mistaken(pair: ViewPair) -> tuple[Tensor, Tensor]:
        K, pose = pair.K.clone(), pair.source_T_target.clone()
        match request.param:
            case 'translation of the wrong sign':
                pose[:, :3, 3] *= -1
            case 'rotation of the wrong sign':
                pose[:, :3, :3] = pair.source_T_target[:, :3, :3].mT
            case 'pose inverted':
                pose = pose.inverse()
            case 'cx and cy swapped':
                K[:, [0, 1], 2] = pair.K[:, [1, 0], 2]
            case 'fx of the wrong sign':
                K[:, 0, 0] *= -1
            case 'fy of the wrong sign':
                K[:, 1, 1] *= -1
        return K, pose

    return mistaken


def tensor_of(array: object) -> Tensor:
    """An RGB image (H, W, 3) as (1, 3, H, W) in [0, 1], a map or a matrix as (1, 1, H, W)."""
    import numpy as np
    import torch

    image = np.asarray(array)
    tensor = torch.from_numpy(image).float()
    return tensor.permute(2, 0, 1)[None] / 255 if image.ndim == 3 else tensor[None, None]


def recording_of(
    images: NDArray, stamps_ns: NDArray, K: NDArray | None = None, poses: NDArray | None = None
) -> Recording:
    """Images (N, H, W, 3) as a recording in memory, of one segment."""
    import numpy as np

    from tc_depth_training.data.frame_store import RamFrames
    from tc_depth_training.data.recording import Recording

    count = len(images)
    return Recording(
        name='made',
        bag=Path('made'),
        image_topic='/image',
        size=images.shape[1:3],
        frames=RamFrames(images),
        K=np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)) if K is None else K,
        stamps_ns=np.asarray(stamps_ns),
        segment=np.zeros(count, dtype=np.int64),
        camera=np.zeros(count, dtype=np.int64),
        seen=None,
        world_T_camera=poses,
        depth_rows=np.full(count, -1),
        depth=None,
        left_out={},
    )


def recording_of_views(views: list[SyntheticView]) -> Recording:
    """Rendered views as a recording in memory."""
    import numpy as np

    return recording_of(
        np.stack([view.image for view in views]),
        np.array([view.stamp_ns for view in views]),
        np.stack([view.K for view in views]).astype(np.float32),
        np.stack([view.world_T_camera for view in views]),
    )


def batch_of(recording: Recording, *windows: tuple[int, int, int]) -> Batch:
    """These windows of a recording, images as float."""
    import numpy as np

    from tc_depth_training.data.windows import WindowDataset, Windows

    indices = np.array(windows)
    poses = recording.world_T_camera
    posed = np.full(len(indices), poses is not None)
    if poses is not None:
        posed &= np.isfinite(poses[indices]).all(axis=(1, 2, 3))
    dataset = WindowDataset([recording], [Windows(indices, posed)])
    return dataset.__getitems__(range(len(indices))).to('cpu')


def one_by_one(operator: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """What an operator answers to the members of its batches, each on its own."""
    import torch

    return torch.cat([operator(*(x[i : i + 1] for x in batches)) for i in range(len(batches[0]))])


def shared_bag(name: str) -> Path:
    """Path of a real recording, which is not part of the repository; skips where it is missing."""
    folder = os.environ.get('TC_DEPTH_TEST_BAGS', REPOSITORY.parent / 'shared' / 'data')
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f'no recording {name}: set TC_DEPTH_TEST_BAGS to the folder that has it')
    return path
