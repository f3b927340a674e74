"""A depth network that does not err, for tests of what is done with depth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from test_network import TINY
from torch import Tensor, nn

from tc_depth_ros.geometry.depth import disparity_from_depth
from tc_depth_ros.network.output import DepthOutput
from tc_depth_training.synthetic import SyntheticView


class Oracle(nn.Module):
    """A network that knows the depth of the views that it is shown."""

    config = TINY
    decoder = SimpleNamespace(disparity=())

    def __init__(self, views: list[SyntheticView]) -> None:
        super().__init__()
        self._depths = {view.image.tobytes(): view.depth for view in views}

    def forward(self, images: Tensor, K: Tensor) -> DepthOutput:
        pixels = (images * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)
        depths = [[self._depths[f.numpy().tobytes()] for f in window] for window in pixels]
        disparity = disparity_from_depth(torch.from_numpy(np.array(depths)), 0.1, 100.0)
        return DepthOutput((disparity[:, :, None],), None)
