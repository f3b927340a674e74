"""Networks before the first step, from other weights, ImageNet, or fresh; and on --resume."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from tc_depth_ros.geometry.depth import disparity_from_depth
from tc_depth_ros.network.build import DepthNetwork, build_network
from tc_depth_ros.network.checkpoint import (
    Weights,
    WeightsError,
    WeightsInfo,
    load_weights,
    read_weights_info,
)
from tc_depth_ros.network.config import DepthConfig, MatchingConfig, PoseNetConfig, TCDepthConfig
from tc_depth_ros.network.encoder import EfficientNetLite0
from tc_depth_ros.network.pose import PoseNet
from tc_depth_ros.network.tc_depth import TCDepth
from tc_depth_ros.predictor import DEFAULT_WEIGHTS
from tc_depth_training.config import NetworkConfig, TrainingConfig
from tc_depth_training.pretrained import imagenet_file, load_imagenet
from tc_depth_training.step import TrainingModel

DEFAULT = 'default'  # in place of a file: the embedded model

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}


def starting_model(config: TrainingConfig, device: torch.device | None = None) -> TrainingModel:
    """
    Build what is to learn.

    :param device: that it will run on, which decides on the precision; None: the CPU
    :raises WeightsError: ``init`` cannot be used, or is of another network
    :raises FileNotFoundError: ImageNet weights are wanted and not installed
    """
    trained = load_start(config)
    network = trained.network if trained else fresh_network(config.network)
    pose_net = trained.pose_net if trained else None
    if config.pose == 'odometry':
        pose_net = None
    elif pose_net is None:
        pose_net = fresh_pose_net(config.network)
    return _training_model(config, network, pose_net, device)


def resumed_model(
    config: TrainingConfig, start: WeightsInfo | None, device: torch.device | None = None
) -> TrainingModel:
    """
    Build what a run's state is loaded into; no file is asked for its weights.

    :param start: what the weights that the run started from said of themselves
    """
    pose = start.pose if start and start.pose else pose_structure(config.network)
    pose_net = None if config.pose == 'odometry' else PoseNet(pose)
    return _training_model(config, build_network(config.network.structure()), pose_net, device)


def start_info(config: TrainingConfig) -> WeightsInfo | None:
    """What the weights that a run starts from say of themselves; None: it starts afresh."""
    path = _start_file(config)
    return read_weights_info(path) if path else None


def load_start(config: TrainingConfig) -> Weights | None:
    """Load the weights that a run starts from; None: it starts afresh."""
    path = _start_file(config)
    if path is None:
        return None
    loaded = load_weights(path)
    wanted = config.network.structure()
    if (
        isinstance(wanted, TCDepthConfig)
        and wanted.matching
        and isinstance(loaded.network, TCDepth)
        and loaded.network.matcher is None
    ):
        loaded = _with_matching(loaded, wanted.matching)
    differing = _differences(loaded.info.network, wanted)
    if differing:
        raise WeightsError(
            f'init {path} is of another network than the configuration ({differing}): set '
            'network to what the weights are, or leave init out'
        )
    return loaded


def _with_matching(weights: Weights, matching: MatchingConfig) -> Weights:
    """The same network, with matching that has learned nothing yet."""
    assert isinstance(weights.info.network, TCDepthConfig)
    structure = replace(weights.info.network, matching=matching)
    network = TCDepth(structure)
    fresh = {k: v for k, v in network.state_dict().items() if k.startswith('matcher.')}
    network.load_state_dict(weights.network.state_dict() | fresh)
    return weights._replace(network=network, info=replace(weights.info, network=structure))


def fresh_network(config: NetworkConfig) -> DepthNetwork:
    """Build a depth network that has seen no more than ImageNet."""
    network = build_network(config.structure())
    if config.imagenet:
        _load_imagenet(network)
    if config.initial_depth is not None:
        start_at_depth(network, config.initial_depth)
    return network


def fresh_pose_net(config: NetworkConfig) -> PoseNet:
    """Build a pose network that has seen no more than ImageNet."""
    pose_net = PoseNet(pose_structure(config))
    if config.imagenet:
        _load_imagenet(pose_net)
    return pose_net


def pose_structure(config: NetworkConfig) -> PoseNetConfig:
    """Which pose network goes with a depth network."""
    resnet = config.name in ('paper', 'monodepth2')
    return PoseNetConfig('resnet18' if resnet else 'efficientnet_lite0')


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


def network_dtype(precision: str, device: torch.device) -> torch.dtype:
    """
    What the networks compute in.

    'auto' is float32 on the CPU; on CUDA bfloat16, which needs no scaling of the loss, where the
    hardware has it (compute capability 8.0), else float16.
    """
    if precision != 'auto':
        return DTYPES[precision]
    if device.type != 'cuda':
        return torch.float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def _training_model(
    config: TrainingConfig,
    network: DepthNetwork,
    pose_net: PoseNet | None,
    device: torch.device | None,
) -> TrainingModel:
    return TrainingModel(
        network,
        pose_net,
        config.loss,
        pose=config.pose,
        network_dtype=network_dtype(config.precision, device or torch.device('cpu')),
        learns=config.learns,
    )


def _start_file(config: TrainingConfig) -> Path | None:
    if config.init in ('', DEFAULT):
        return DEFAULT_WEIGHTS if config.init else None
    path = Path(config.init)
    if not path.exists():
        raise WeightsError(
            f'init {path} does not exist: give --init (init in a configuration) a file that does, '
            f"or '{DEFAULT}'"
        )
    return path


def _load_imagenet(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, EfficientNetLite0):
            load_imagenet(module, imagenet_file())


def _differences(a: DepthConfig, b: DepthConfig) -> str:
    if a.model != b.model:
        return f'{a.model}, not {b.model}'
    theirs, ours = asdict(a), asdict(b)
    return ', '.join(
        f'{key} {theirs[key]}, not {ours[key]}' for key in ours if theirs[key] != ours[key]
    )
