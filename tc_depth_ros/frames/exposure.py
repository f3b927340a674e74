"""Images that show nothing: lens cap, night, sun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.frames.window import FrameRejected

DARK, BRIGHT = 4, 251  # at or below, at or above: nothing can be told apart
MAX_LOST_SHARE = 0.95
STRIDE_PX = 8  # plenty to tell


def check_exposure(image: NDArray[np.uint8], seen: NDArray[np.bool_] | None = None) -> None:
    """
    Refuse an image that is almost all black or almost all white.

    :param image: RGB, (H, W, 3)
    :param seen: the pixels that count, (H, W); None: all
    :raises FrameRejected: 'dark' or 'overexposed'
    """
    some = image[::STRIDE_PX, ::STRIDE_PX]
    if seen is not None:
        some = some[seen[::STRIDE_PX, ::STRIDE_PX]]
    if not some.size:
        return
    for cause, lost in (('dark', some <= DARK), ('overexposed', some >= BRIGHT)):
        share = float(lost.mean())
        if share > MAX_LOST_SHARE:
            raise FrameRejected(
                cause,
                f'{100 * share:.0f} % of the image is {cause}: look at the lens, the light and '
                "the camera's exposure",
            )
