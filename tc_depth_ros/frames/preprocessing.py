"""A frame to the tensor and the K that the network eats."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tc_depth_ros.frames.frame import Frame
from tc_depth_ros.geometry.intrinsics import resize_intrinsics

MULTIPLE = 8  # the network's sides are divisible by this


class NetworkInput(NamedTuple):
    """One frame at the network's size."""

    image: Tensor  # (1, 3, H, W), RGB in [0, 1]
    K: Tensor  # (1, 3, 3), in pixels of H x W


def network_size(size: tuple[int, int], trained: tuple[int, int]) -> tuple[int, int]:
    """
    Size at which to run: about as many pixels as in training, in the camera's aspect ratio.

    :param size: (height, width) of the camera
    :param trained: (height, width) that the weights were trained at
    :return: (height, width), each divisible by 8 and at least 16
    """
    scale = (trained[0] * trained[1] / (size[0] * size[1])) ** 0.5
    height, width = (max(2, round(side * scale / MULTIPLE)) * MULTIPLE for side in size)
    return height, width


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize RGB (H, W, 3) to (height, width): averaging when shrinking, bilinear otherwise."""
    height, width = size
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def scaled_intrinsics(
    K: NDArray[np.float64], size: tuple[int, int], new_size: tuple[int, int]
) -> Tensor:
    """K (3, 3) of an image resized from ``size`` to ``new_size``, each (height, width)."""
    return resize_intrinsics(torch.from_numpy(K), new_size[1] / size[1], new_size[0] / size[0])


def network_input(
    frame: Frame, size: tuple[int, int], device: torch.device | str = 'cpu'
) -> NetworkInput:
    """Bring a frame to the network's (height, width) and device."""
    pixels = torch.from_numpy(resize_image(frame.image, size)).to(device)
    image = pixels.permute(2, 0, 1)[None].float() / 255
    K = scaled_intrinsics(frame.K, frame.size, size)
    return NetworkInput(image.contiguous(), K[None].to(device, torch.float32))
