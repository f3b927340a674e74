"""Train TC-Depth on bags: config -> data -> networks -> loop. One page."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import ConcatDataset, DataLoader
from tqdm import tqdm

from tc_depth_ros.geometry.depth import disparity_from_depth
from tc_depth_ros.network.build import DepthNetwork, build_network
from tc_depth_ros.network.checkpoint import WeightsInfo, save_weights
from tc_depth_ros.network.config import PoseNetConfig
from tc_depth_ros.network.encoder import EfficientNetLite0
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_training import __version__
from tc_depth_training.config import NetworkConfig, TrainingConfig
from tc_depth_training.data.bag import BagError
from tc_depth_training.data.recording import read_recording
from tc_depth_training.data.windows import FRAMES, Batch, WindowDataset, find_windows, join
from tc_depth_training.losses.objective import Objective
from tc_depth_training.pretrained import imagenet_file, load_imagenet
from tc_depth_training.schedule import Schedule
from tc_depth_training.step import FocalFactor, TrainingModel, augmented
from tc_depth_training.teacher import Teacher, epoch_file

SAVE_EVERY = 200  # steps
WEIGHTS_NAME = 'weights.safetensors'


class TrainingError(RuntimeError):
    """A run that cannot go on; the message names the step and the remedy."""


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    weights: Path
    final_loss: float


def train(bags: Sequence[Path], config: TrainingConfig, out: Path) -> Run:
    """
    Train on bags and write ``weights.safetensors``, ``config.json`` and ``log.jsonl`` to a folder.

    :raises BagError: a bag cannot be used
    :raises WeightsError: the teacher cannot be used
    :raises TrainingError: the loss stopped being a number
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    device = torch.device(
        'cuda' if config.device == 'auto' and torch.cuda.is_available() else 'cpu'
    )
    if config.device != 'auto':
        device = torch.device(config.device)
    # A wrong teacher must show before the bags are read
    teacher = Teacher(Path(config.teacher), device) if config.teacher else None
    dataset = load_windows(bags, config)
    schedule = Schedule(config, len(dataset) // config.batch_size)
    model = build_model(config, len(bags)).to(device).train()
    parts = independent_parts(model)
    optimizer = torch.optim.Adam(parameter_groups(model, config.learning_rate))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    out.mkdir(parents=True, exist_ok=True)
    (out / 'config.json').write_text(config.model_dump_json(indent=2))
    batches = tqdm(_endless(dataset, config, generator), 'training', schedule.steps, unit='step')
    with (out / 'log.jsonl').open('w') as log:
        for step, batch in zip(range(schedule.steps), batches, strict=False):
            batch, seen = augmented(batch.to(device), config.colour, generator)
            target = _draw_target(config, generator)
            alone = bool(torch.rand((), generator=generator) < config.single_frame_share)
            taught = _ask(teacher, schedule.epoch(step), batch, target, config)
            losses: Objective = model(batch, seen, target, alone, taught)
            values = {name: float(value.detach()) for name, value in vars(losses).items()}
            _check_finite(values['total'], step + 1)
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            if config.gradient_norm is not None:
                # The coarse head learns by itself; its large gradient must not slow the others
                for part in parts:
                    clip_grad_norm_(part, config.gradient_norm)
            optimizer.step()
            rate.step()
            rounded = {name: round(value, 6) for name, value in values.items()}
            found = found_focal_factors(bags, model)
            log.write(json.dumps({'step': step + 1, **rounded, **found}) + '\n')
            batches.set_postfix(loss=f'{values["total"]:.4f}', refresh=False)
            last = step + 1 == schedule.steps
            if (step + 1) % SAVE_EVERY == 0 or last:
                log.flush()
                _save(out / WEIGHTS_NAME, bags, config, schedule, model)
            if config.save_every_epoch and (schedule.ends_epoch(step) or last):
                file = epoch_file(out, schedule.epoch(step))
                _save(file, bags, config, schedule, model)
    return Run(out / WEIGHTS_NAME, values['total'])


def load_windows(bags: Sequence[Path], config: TrainingConfig) -> ConcatDataset[Batch]:
    """Read all bags and print what each of them gives."""
    data, datasets = config.data, []
    for number, bag in enumerate(bags):
        recording = read_recording(
            bag,
            (data.height, data.width),
            odometry=config.pose == 'odometry',
            image_topic=next(iter(data.image_topics), ''),
            camera_info_topic=data.camera_info_topic,
            odometry_topic=data.odometry_topic,
        )
        windows = find_windows(recording, data.time_steps_s)
        print(
            f'{bag}: {len(recording.stamps_ns)} frames, {len(windows.indices)} windows; left out '
            f'{windows.static} static, {windows.without_pose} without pose'
        )
        datasets.append(WindowDataset(recording, windows.indices, number))
    dataset: ConcatDataset[Batch] = ConcatDataset(datasets)
    if len(dataset) < config.batch_size:
        raise BagError(
            f'the bags give {len(dataset)} windows, fewer than one batch of {config.batch_size}: '
            'run tc-depth inspect BAG to see why, or change data.time_steps_s'
        )
    return dataset


def build_model(config: TrainingConfig, recordings: int = 1) -> TrainingModel:
    """Networks at their start, and the objective."""
    network = build_network(config.network.structure())
    pose_net = None
    if config.pose == 'learned':
        pose_net = PoseNet(pose_config(config.network))
    if config.network.imagenet:
        encoders = [m for part in (network, pose_net) if part for m in part.modules()]
        for encoder in encoders:
            if isinstance(encoder, EfficientNetLite0):
                load_imagenet(encoder, imagenet_file())
    if config.network.initial_depth is not None:
        start_at_depth(network, config.network.initial_depth)
    return TrainingModel(
        network,
        pose_net,
        config.loss,
        FocalFactor(recordings) if config.fit_focal_length else None,
    )


def parameter_groups(model: TrainingModel, learning_rate: float) -> list[dict[str, Any]]:
    """All parameters at one rate, but the focal factor, a single number, ten times as fast."""
    focal = [] if model.focal_factor is None else list(model.focal_factor.parameters())
    ids = {id(parameter) for parameter in focal}
    return [
        {'params': [p for p in model.parameters() if id(p) not in ids], 'lr': learning_rate},
        {'params': focal, 'lr': 10 * learning_rate},
    ]


def independent_parts(model: TrainingModel) -> list[list[torch.nn.Parameter]]:
    """Split the parameters into the coarse depth head, which learns apart, and all others."""
    network = model.network
    coarse = list(network.coarse_depth.parameters()) if isinstance(network, TCDepth) else []
    ids = {id(parameter) for parameter in coarse}
    return [coarse, [p for p in model.parameters() if id(p) not in ids]]


def pose_config(network: NetworkConfig) -> PoseNetConfig:
    """The pose network that goes with a depth network."""
    return PoseNetConfig(
        'resnet18' if network.name in ('paper', 'monodepth2') else 'efficientnet_lite0'
    )


def start_at_depth(network: DepthNetwork, depth: float) -> None:
    """Let an untrained network answer this depth everywhere, at every scale."""
    config = network.config
    as_tensor = torch.tensor(depth, dtype=torch.float64)
    disparity = disparity_from_depth(as_tensor, config.min_depth, config.max_depth)
    bias = float(torch.logit(disparity))
    with torch.no_grad():
        for layer in network.decoder.disparity:
            layer.weight.normal_(std=1e-3)
            layer.bias.fill_(bias)  # type: ignore[union-attr]  # it has one
        if isinstance(network, TCDepth):
            # Exponentially distributed bins, whose mean is the inverse depth asked for
            coarse = network.coarse_depth
            coarse.logits.weight.mul_(0.1)
            coarse.logits.bias.copy_(-coarse.bins * depth)  # type: ignore[union-attr]


def weights_info(
    bags: Sequence[Path], config: TrainingConfig, schedule: Schedule, model: TrainingModel
) -> WeightsInfo:
    """What the weights file will say of itself."""
    return WeightsInfo(
        network=config.network.structure(),
        input_height=config.data.height,
        input_width=config.data.width,
        metric=config.pose == 'odometry',
        pose=pose_config(config.network) if config.pose == 'learned' else None,
        training_data=', '.join(bag.name for bag in bags),
        code_version=__version__,
        notes={
            'steps': schedule.steps,
            'batch_size': config.batch_size,
            'seed': config.seed,
            'torch': torch.__version__,
            'machine': platform.machine(),
            **found_focal_factors(bags, model),
        },
    )


def found_focal_factors(bags: Sequence[Path], model: TrainingModel) -> dict[str, Any]:
    """Focal length found over the one given, by bag; empty where none was looked for."""
    if model.focal_factor is None:
        return {}
    names = [bag.name for bag in bags]
    return {'focal_factors': dict(zip(names, model.focal_factor.factors(), strict=True))}


def _save(
    file: Path,
    bags: Sequence[Path],
    config: TrainingConfig,
    schedule: Schedule,
    model: TrainingModel,
) -> None:
    info = weights_info(bags, config, schedule, model)
    save_weights(file, model.network, info, model.pose_net)


def _draw_target(config: TrainingConfig, generator: torch.Generator) -> int:
    """Choose whose frame of the window is rebuilt from the others."""
    if config.target == 'centre':
        return FRAMES // 2
    return int(torch.randint(FRAMES, (), generator=generator))


def _ask(
    teacher: Teacher | None, epoch: int, batch: Batch, target: int, config: TrainingConfig
) -> Tensor | None:
    """Depth of the target as the teacher of this epoch sees it; None: it is not heard."""
    if teacher is None or epoch >= config.teacher_epochs:
        return None
    teacher.begin_epoch(epoch)
    return teacher.depth(batch.images, batch.K, target)


def _endless(
    dataset: ConcatDataset[Batch], config: TrainingConfig, generator: torch.Generator
) -> Iterator[Batch]:
    """Shuffled batches, epoch after epoch."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        config.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=join,
        generator=generator,
    )
    while True:
        yield from loader


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f'the loss is {loss} at step {step}: lower learning_rate, and check '
            'K and the poses with tc-depth inspect'
        )
