"""Frames as rows of pictures: image, truth, prediction, and where they differ."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.pictures import RGBImage, colour_depth, depth_range

PICTURE_WIDTH = 400  # px
WORST_ERROR = 0.5  # relative, the upper end of the error map
TITLES = ('image', 'prediction')
TITLES_WITH_TRUTH = ('image', 'truth', 'prediction', 'relative error, 0 to 50 %')


def depth_row(
    image: RGBImage,
    prediction: NDArray[np.float32],
    truth: NDArray[np.float32] | None,
    sparse: bool,
) -> list[RGBImage]:
    """
    Pictures of one frame, 400 px wide, as ``TITLES`` or ``TITLES_WITH_TRUTH`` name them.

    :param image: (H, W, 3)
    :param prediction: depth in m, or in any unit where there is no truth, (H, W)
    :param truth: depth in m, NaN where unknown, (H, W)
    :param sparse: the truth is of single points, to be drawn larger
    """
    row = [image]
    if truth is not None:
        shown = _thick(truth) if sparse else truth
        ends = depth_range(shown)
        row += [colour_depth(shown, ends), colour_depth(prediction, ends)]
        row += [error_map(shown, prediction)]
    else:
        row += [colour_depth(prediction, depth_range(prediction))]
    return [_small(picture) for picture in row]


def error_map(truth: NDArray[np.float32], prediction: NDArray[np.float32]) -> RGBImage:
    """
    Show the relative error in colours: dark blue is 0, yellow is 50 % and more, black unknown.

    :param truth: m, NaN where unknown, (H, W)
    :param prediction: m, (H, W)
    """
    error = np.abs(prediction - truth) / truth
    level = np.nan_to_num((error / WORST_ERROR).clip(0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(level, cv2.COLORMAP_PLASMA)
    bgr[~np.isfinite(error)] = 0
    return np.ascontiguousarray(bgr[..., ::-1])


def _thick(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lidar points, large enough to be seen; the nearest on top."""
    inverse = np.nan_to_num(1 / depth)
    wide = cv2.dilate(inverse, np.ones((5, 5), np.uint8))
    return np.divide(1, wide, out=np.full_like(depth, np.nan), where=wide > 0)


def _small(picture: RGBImage) -> RGBImage:
    height = round(PICTURE_WIDTH * picture.shape[0] / picture.shape[1])
    size = (PICTURE_WIDTH, height)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
