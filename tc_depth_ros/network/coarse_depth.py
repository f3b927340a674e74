"""A first guess of inverse depth at 1/8, which places the features in space; SPEC 1.2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tc_depth_ros.network.layers import ConvELU, conv3x3


class CoarseDepth(nn.Module):
    """Expectation over bins that are linear in inverse depth; shared by the frames."""

    bins: Tensor

    def __init__(
        self, inputs: int, hidden: int, bins: int, min_depth: float, max_depth: float
    ) -> None:
        super().__init__()
        self.hidden = ConvELU(inputs, hidden)
        self.logits = conv3x3(hidden, bins)
        centres = torch.linspace(1 / max_depth, 1 / min_depth, bins)
        self.register_buffer('bins', centres, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """
        Guess inverse depth.

        :param features: (B, C, h, w); detached here, the encoder learns nothing from this head
        :return: inverse depth in 1/m, (B, 1, h, w)
        """
        probability = self.logits(self.hidden(features.detach())).softmax(dim=1)
        return torch.einsum('bnhw,n->bhw', probability, self.bins)[:, None]
