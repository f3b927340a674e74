"""One predicted frame as the network saw it: what is compared over time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    """A frame and its depth, at the network's size."""

    image: Tensor  # (1, 3, h, w), RGB in [0, 1]
    K: Tensor  # (1, 3, 3), in pixels of h x w
    depth: Tensor  # (1, 1, h, w), z > 0, in the unit of the prediction's depth
    stamp_ns: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.depth.shape[-2], self.depth.shape[-1]
