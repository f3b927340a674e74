"""
What others published as PyTorch files, and which of their modules is which of ours.

The authors' TC-Depth (Ruhkamp et al., 3DV 2021) and Monodepth2 (Godard et al., ICCV 2019). Names
only: how the parts are joined says ``tc_depth_ros.network``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tc_depth_ros.network.config import (
    KITTI_ATTENTION_INTRINSICS,
    MONODEPTH2,
    PAPER,
    DepthConfig,
)


@dataclass(frozen=True)
class Layout:
    """What one file of theirs holds, and where it goes in ours; a name covers all below it."""

    file: str
    renames: Mapping[str, str]  # theirs: ours
    duplicates: Mapping[str, str] = field(default_factory=dict)  # theirs: theirs, the same values
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # shapes; not weights
    unused: tuple[str, ...] = ()  # may be there, and is left out


@dataclass(frozen=True)
class Release:
    """The files that make up one depth network."""

    name: str
    network: DepthConfig
    layouts: tuple[Layout, ...]

    @property
    def files(self) -> list[str]:
        """Names of the files that must be there."""
        return [layout.file for layout in self.layouts]


SIGMAS = tuple(f'module.{block}.spatial_attn.sigma_3d' for block in range(PAPER.blocks))
ENCODER_FILE = 'encoder.pth'  # of either release; says the size of the images too
SIZE_ENTRIES = ('height', 'width', 'use_stereo')  # beside the tensors of encoder.pth

DRN = Layout(
    ENCODER_FILE,
    {
        'encoder.conv1': 'encoder.conv1',
        'encoder.bn1': 'encoder.bn1',
        'encoder.layer1': 'encoder.layer1',
        'encoder.layer2': 'encoder.layer2',
        'encoder.layer3': 'encoder.layer3',
        'encoder.layer4': 'encoder.layer4',
        'encoder.layer5': 'encoder.layer5',
        'encoder.layer6': 'encoder.layer6',
        'encoder.layer7': 'encoder.layer7',
        'encoder.layer8': 'encoder.layer8',
    },
    duplicates={
        'conv.0': 'encoder.conv1',
        'conv.1': 'encoder.bn1',
        'degrid.0': 'encoder.layer5',
        'degrid.1': 'encoder.layer6',
        'degrid.2': 'encoder.layer7',
    },
    unused=('encoder.fc', *SIZE_ENTRIES),
)
DECODER = Layout(
    'depth.pth',
    {
        'decoder.0.conv.conv': 'decoder.reduce8.conv',
        'decoder.1.conv.conv': 'decoder.join8.conv',
        'decoder.2.conv.conv': 'decoder.reduce4.conv',
        'decoder.3.conv.conv': 'decoder.join4.conv',
        'decoder.4.conv.conv': 'decoder.reduce2.conv',
        'decoder.5.conv.conv': 'decoder.join2.conv',
        'decoder.6.conv.conv': 'decoder.reduce1.conv',
        'decoder.7.conv.conv': 'decoder.join1.conv',
        'decoder.8.conv': 'decoder.disparity.3',
        'decoder.9.conv': 'decoder.disparity.2',
        'decoder.10.conv': 'decoder.disparity.1',
        'decoder.11.conv': 'decoder.disparity.0',
    },
)
BLOCK = {
    'spatial_attn.value_conv': 'spatial.value',
    'spatial_attn.ca_conv': 'spatial.mixed',
    'spatial_attn.context_conv': 'spatial.own',
    'spatial_attn.conv1': 'spatial.fuse',
    'spatial_attn.gamma': 'spatial.gamma',
    'temp_attn.f_key': 'temporal.key',
    'temp_attn.f_value': 'temporal.value',
    'temp_attn.f_out': 'temporal.out',
    'temp_attn.fuse_layer': 'temporal.fuse',
}
ATTENTION = Layout(
    'spa_temp.pth',
    {
        f'module.{block}.{theirs}': f'blocks.{block}.{ours}'
        for block in range(PAPER.blocks)
        for theirs, ours in BLOCK.items()
    },
    duplicates={
        f'module.{block}.temp_attn.f_query': f'module.{block}.temp_attn.f_key'
        for block in range(PAPER.blocks)
    },
    constants=dict.fromkeys(SIGMAS, (1,)),
)
COARSE_DEPTH = Layout(
    'ref_depth.pth',
    {'conv.conv.conv': 'coarse_depth.hidden.conv', 'ddv.conv': 'coarse_depth.logits'},
    constants={'ref_disp': (1, PAPER.coarse_bins, 1, 1)},
)
RESNET = {
    'encoder.conv1': 'encoder.conv1',
    'encoder.bn1': 'encoder.bn1',
    'encoder.layer1': 'encoder.layer1',
    'encoder.layer2': 'encoder.layer2',
    'encoder.layer3': 'encoder.layer3',
    'encoder.layer4': 'encoder.layer4',
}
MONODEPTH2_ENCODER = Layout(ENCODER_FILE, RESNET, unused=('encoder.fc', *SIZE_ENTRIES))
MONODEPTH2_DECODER = Layout(
    'depth.pth',
    {
        'decoder.0.conv.conv': 'decoder.reduce.4.conv',
        'decoder.1.conv.conv': 'decoder.join.4.conv',
        'decoder.2.conv.conv': 'decoder.reduce.3.conv',
        'decoder.3.conv.conv': 'decoder.join.3.conv',
        'decoder.4.conv.conv': 'decoder.reduce.2.conv',
        'decoder.5.conv.conv': 'decoder.join.2.conv',
        'decoder.6.conv.conv': 'decoder.reduce.1.conv',
        'decoder.7.conv.conv': 'decoder.join.1.conv',
        'decoder.8.conv.conv': 'decoder.reduce.0.conv',
        'decoder.9.conv.conv': 'decoder.join.0.conv',
        'decoder.10.conv': 'decoder.disparity.0',
        'decoder.11.conv': 'decoder.disparity.1',
        'decoder.12.conv': 'decoder.disparity.2',
        'decoder.13.conv': 'decoder.disparity.3',
    },
)
POSE_ENCODER = Layout('pose_encoder.pth', RESNET, unused=('encoder.fc',))
POSE = Layout(
    'pose.pth', {'net.0': 'squeeze', 'net.1': 'hidden1', 'net.2': 'hidden2', 'net.3': 'motion'}
)

RELEASED_TC_DEPTH = Release(
    'TC-Depth',
    replace(PAPER, attention_intrinsics=KITTI_ATTENTION_INTRINSICS),
    (DRN, DECODER, ATTENTION, COARSE_DEPTH),
)
RELEASED_MONODEPTH2 = Release('Monodepth2', MONODEPTH2, (MONODEPTH2_ENCODER, MONODEPTH2_DECODER))
POSE_LAYOUTS = (POSE_ENCODER, POSE)
