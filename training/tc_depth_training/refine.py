"""
Test-time refinement: let trained weights learn on the very bag that they are to predict.

The losses are those of training (SPEC 2) without the teacher; BatchNorm is frozen. *Per sequence*
gives one set of weights for a bag. *Per frame* starts anew from the trained weights for each
frame, and gives its depth. The paper refines too, but says not how (SPEC 3): this follows the
protocol of ManyDepth (Watson et al., CVPR 2021) and McCraith et al. (2020), with steps and rate of
our own, and is not the paper's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from tc_depth_ros.frames.preprocessing import network_size
from tc_depth_ros.network.checkpoint import Weights, load_weights, save_weights
from tc_depth_ros.predictor import full_size_depth
from tc_depth_training.data.bag import ODOMETRY, Bag, BagError, CameraTopics
from tc_depth_training.data.load import read_recording
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.stretch import WHOLE, Stretch
from tc_depth_training.data.windows import FRAMES, Batch, WindowDataset, Windows, find_windows
from tc_depth_training.losses.objective import ObjectiveConfig
from tc_depth_training.step import TrainingModel


@dataclass(frozen=True)
class RefineConfig:
    """How far to go."""

    steps: int = 20  # per frame, or in all for a sequence
    learning_rate: float = 2e-5
    batch_size: int = 4  # windows, for a sequence; per frame it is the frame's own
    time_step_s: float = 0.1  # between the frames of a window
    seed: int = 0
    loss: ObjectiveConfig = ObjectiveConfig()


@dataclass(frozen=True)
class _Job:
    """A bag and the weights to be refined on it."""

    weights: Weights
    recording: Recording  # at the size that the predictor would choose
    camera_size: tuple[int, int]  # (height, width)


def refine_sequence(
    bag: Path,
    weights: Path,
    out: Path,
    config: RefineConfig,
    image: str = '',
    info: str = '',
    stretch: Stretch = WHOLE,
) -> None:
    """
    Refine weights on a bag, and write them to a new file.

    :param image: topic; empty is the only one, and so for its CameraInfo
    :param stretch: of the bag; of its images, nothing outside it is looked at
    :raises BagError: no usable windows, or neither pose network nor odometry
    :raises WeightsError: the weights cannot be used
    """
    job = _load(bag, weights, image, info, stretch)
    windows = find_windows(job.recording, [config.time_step_s], job.weights.pose_net is None)
    if not len(windows):
        raise BagError(
            f'{bag}{stretch.suffix} has no usable window of {config.time_step_s:g} s '
            f'({windows.static} are static): choose another --time-step, and see tc-depth inspect'
        )
    dataset = WindowDataset([job.recording], [windows])
    model = _model(job.weights, config)
    batches = _random_batches(dataset, config)
    _adapt(model, tqdm(batches, 'refining', config.steps, unit='step'), config)
    refined = replace(
        job.weights.info,
        training_data=f'{job.weights.info.training_data}; refined on {bag.name}{stretch.suffix}',
        notes={**job.weights.info.notes, 'refined_steps': config.steps},
    )
    save_weights(out, model.network, refined, model.pose_net)


def refine_frames(
    bag: Path,
    weights: Path,
    out: Path,
    config: RefineConfig,
    image: str = '',
    info: str = '',
    stretch: Stretch = WHOLE,
) -> int:
    """
    Refine weights for each frame alone, from the start, and write ``depth/STAMP.npy`` of it.

    :param stretch: as refine_sequence has it
    :return: how many frames were written; float32, m, (H, W), as tc-depth predict does. Frames
        without neighbours, or without a pose where nothing else says how they move, are not.
    :raises BagError: fewer than three frames, or neither pose network nor odometry
    :raises WeightsError: the weights cannot be used
    """
    job = _load(bag, weights, image, info, stretch)
    stamps_ns = job.recording.stamps_ns
    if len(stamps_ns) < FRAMES:
        raise BagError(f'{bag}{stretch.suffix} has {len(stamps_ns)} frames; {FRAMES} are needed')
    folder = out / 'depth'
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for target in tqdm(range(len(stamps_ns)), 'refining', unit='frame'):
        window = _window(job, target, config.time_step_s)
        if window is None:
            continue
        windows = Windows(window[None], np.array([_posed(job.recording, window)]))
        batch = WindowDataset([job.recording], [windows])[0].to('cpu')
        model = _model(job.weights, config)
        position = int(np.flatnonzero(window == target)[0])
        _adapt(model, [batch] * config.steps, config, position)
        disparity = model.answer(batch, position)[0, 0]
        depth = full_size_depth(disparity.numpy(), job.camera_size, job.weights.info)
        np.save(folder / f'{stamps_ns[target]}.npy', depth)
        written += 1
    return written


def window_around(stamps_ns: NDArray[np.int64], target: int, step_s: float) -> NDArray[np.int64]:
    """
    Three frames about a step apart, the target in their middle where the bag allows it.

    :param stamps_ns: of all frames, increasing, at least three
    :return: distinct indices in time order, (3,); at an end of the bag the target is outermost
    """
    step_ns = round(step_s * 1e9)

    def nearest(offset_ns: int) -> int:
        return int(np.abs(stamps_ns - (stamps_ns[target] + offset_ns)).argmin())

    before = min(nearest(-step_ns), target - 1)
    after = max(nearest(step_ns), target + 1)
    last = len(stamps_ns) - 1
    if before < 0:
        before, after = after, max(nearest(2 * step_ns), after + 1)
    elif after > last:
        before, after = min(nearest(-2 * step_ns), before - 1), before
    return np.array(sorted({before, target, after}), dtype=np.int64)


def _window(job: _Job, target: int, step_s: float) -> NDArray[np.int64] | None:
    """Indices of the window around a frame; None where it has no neighbours, or no motion."""
    recording = job.recording
    start, end = np.searchsorted(recording.segment, recording.segment[target] + np.arange(2))
    if end - start < FRAMES:
        return None
    window = start + window_around(recording.stamps_ns[start:end], target - int(start), step_s)
    if job.weights.pose_net is None and not _posed(recording, window):
        return None
    return np.asarray(window)


def _posed(recording: Recording, window: NDArray[np.int64]) -> bool:
    poses = recording.world_T_camera
    return poses is not None and bool(np.isfinite(poses[window]).all())


def _load(bag: Path, weights: Path, image: str, info: str, stretch: Stretch) -> _Job:
    loaded = load_weights(weights)
    with Bag(bag) as opened:
        camera = opened.find_camera(image, info)
        within, _ = opened.interval(camera, stretch)
        size = next(iter(opened.frames(camera, within=within))).size
        _check_motion(opened, loaded, weights, camera)
    trained = (loaded.info.input_height, loaded.info.input_width)
    recording = read_recording(
        bag,
        network_size(size, trained),
        odometry=loaded.pose_net is None,
        image_topic=camera.image,
        camera_info_topic=camera.camera_info,
        stretch=stretch,
    )
    return _Job(loaded, recording, size)


def _check_motion(bag: Bag, loaded: Weights, weights: Path, camera: CameraTopics) -> None:
    if loaded.pose_net is None and not any(t.type == ODOMETRY for t in bag.topics()):
        raise BagError(
            f'{weights} have no pose network, and {bag.path} has no odometry: nothing says how '
            f'the camera of {camera.image} moves. Take weights trained with pose: learned, or '
            'record odometry'
        )


def _model(weights: Weights, config: RefineConfig) -> TrainingModel:
    """A copy of the networks with the losses, its BatchNorm frozen: statistics and affine part."""
    model = TrainingModel(
        copy.deepcopy(weights.network),
        copy.deepcopy(weights.pose_net),
        config.loss,
        'odometry' if weights.pose_net is None else 'learned',
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return model


def _adapt(
    model: TrainingModel,
    batches: Sequence[Batch] | Iterator[Batch],
    config: RefineConfig,
    target: int = FRAMES // 2,
) -> None:
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, config.learning_rate)
    for batch in batches:
        loss = model(batch, batch.images, target, False).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _random_batches(dataset: WindowDataset, config: RefineConfig) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(config.seed)
    count = min(config.batch_size, len(dataset))
    for _ in range(config.steps):
        chosen = torch.randperm(len(dataset), generator=generator)[:count]
        yield dataset.__getitems__(chosen.tolist()).to('cpu')
