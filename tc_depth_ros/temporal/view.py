"""One frame as the network sees it, and with its depth: what is compared over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Shown(Protocol):
    """A frame at the network's size, whose depth need not be known."""

    @property
    def image(self) -> Tensor:
        """RGB in [0, 1], (1, 3, h, w)."""

    @property
    def K(self) -> Tensor:
        """In pixels of h x w, (1, 3, 3)."""


@dataclass(frozen=True)
class View:
    """A frame and its depth, at the network's size."""

    image: Tensor  # (1, 3, h, w), RGB in [0, 1]
    K: Tensor  # (1, 3, 3), in pixels of h x w
    depth: Tensor  # (1, 1, h, w), z > 0, in the unit of the prediction's depth
    stamp_ns: int
    # Of the match, as network.matching.Match has it, on a coarser grid; None: it is not matched
    deviation: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.depth.shape[-2], self.depth.shape[-1]
