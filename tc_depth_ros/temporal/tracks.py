"""Textured points of one image found again in another, there and back."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CELL_PX = 12  # one point at most in each cell of this side, so that they spread
# Least eigenvalue of the structure tensor (Shi and Tomasi, CVPR 1994) of grey in [0, 1]: about
# two grey levels of 255 per pixel, across and along
MIN_TEXTURE = 1e-4
MAX_RETURN_PX = 1.0  # there and back again; more is an occlusion, or a wrong match
REFINE_PX = 9  # window; wider ones straddle more edges of depth, whose sides move apart


class Tracks(NamedTuple):
    """Where N points appear in two images, in pixels."""

    earlier: NDArray[np.intp]  # (u, v), (N, 2)
    later: NDArray[np.float64]  # (u, v), (N, 2)


class PointTracker:
    """
    Dense flow for the guess, refined at a few hundred points of texture.

    DIS (Kroeger et al., ECCV 2016) at a quarter of the size is off by 0.3 pixels; one level of
    Lucas and Kanade at the points takes that to 0.05, for less than DIS at full size costs.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def track(self, earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Tracks:
        """Follow points of the earlier grey image (H, W) to the later; those in doubt are out."""
        points = textured_points(earlier)
        if not len(points):
            return Tracks(points, points.astype(np.float64))
        flow = self._flow.calc(earlier, later, None)  # type: ignore[call-overload]
        start = points.astype(np.float32)
        found, forth = _refine(earlier, later, start, start + flow[points[:, 1], points[:, 0]])
        returned, back = _refine(later, earlier, found, start)
        kept = forth & back & (np.linalg.norm(returned - start, axis=1) < MAX_RETURN_PX)
        return Tracks(points[kept], found[kept].astype(np.float64))


def grey_image(image: Tensor) -> NDArray[np.uint8]:
    """Mean of the colours of an image (1, 3, H, W) in [0, 1], as 8 bit, (H, W)."""
    return np.asarray((image[0].mean(dim=0) * 255).round().byte().cpu().numpy())


def textured_points(grey: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The pixel of most texture in each cell, where it has enough: (u, v), (N, 2)."""
    rows, columns = (side // CELL_PX for side in grey.shape)
    texture = cv2.cornerMinEigenVal(grey, 5)[: rows * CELL_PX, : columns * CELL_PX]
    cells = texture.reshape(rows, CELL_PX, columns, CELL_PX).swapaxes(1, 2)
    cells = cells.reshape(rows, columns, CELL_PX**2)
    row, column = np.nonzero(cells.max(axis=2) > MIN_TEXTURE)
    v, u = np.divmod(cells.argmax(axis=2)[row, column], CELL_PX)
    return np.stack([column * CELL_PX + u, row * CELL_PX + v], axis=1)


def _refine(
    source: NDArray[np.uint8],
    target: NDArray[np.uint8],
    points: NDArray[np.float32],
    guess: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points of the source are in the target, (N, 2), and which could be found, (N,)."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        points,
        guess.copy(),  # written to
        winSize=(REFINE_PX, REFINE_PX),
        maxLevel=0,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, 0.01),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(found, dtype=np.float32), status[:, 0] > 0
