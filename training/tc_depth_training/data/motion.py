"""How far the image moves between two frames."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_training.data.recording import Recording

# Below this motion between neighbours, in pixels of a 160 px wide image, nothing can be learned
STATIC_FLOW_PX = 0.5
FLOW_WIDTH = 160
SMALL_IMAGES = 512  # kept while flows are measured: a pair reaches no further in most bags


def flows_px(
    recording: Recording, pairs: NDArray[np.int64], quiet: bool = False
) -> NDArray[np.float64]:
    """Median optical flow between pairs of frames (P, 2), in pixels of 160 px width, (P,)."""

    @lru_cache(SMALL_IMAGES)
    def small(index: int) -> NDArray[np.uint8]:
        image = recording.frames.read(np.array([index]))[0]
        size = (FLOW_WIDTH, max(16, round(FLOW_WIDTH * image.shape[0] / image.shape[1])))
        return np.asarray(cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_RGB2GRAY))

    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    title = f'motion in {recording.name}'
    flows = np.empty(len(pairs))
    for place, (first, second) in enumerate(
        tqdm(pairs.tolist(), title, unit='pair', disable=quiet, delay=2)
    ):
        a, b = small(first), small(second)
        flow = method.calc(a, b, np.zeros((*a.shape, 2), dtype=np.float32))
        flows[place] = np.median(np.linalg.norm(flow, axis=2))
    return flows
