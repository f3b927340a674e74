"""From a configuration to its depth network."""

from __future__ import annotations

from tc_depth_ros.network.config import DepthConfig, TCDepthConfig
from tc_depth_ros.network.monodepth import Monodepth
from tc_depth_ros.network.tc_depth import TCDepth

DepthNetwork = TCDepth | Monodepth


def build_network(config: DepthConfig) -> DepthNetwork:
    """Build the network that a configuration describes, with fresh weights."""
    return TCDepth(config) if isinstance(config, TCDepthConfig) else Monodepth(config)
