"""A bag's camera, decoded once and held in memory at training size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tc_depth_ros.frames.preprocessing import resize_image, scaled_intrinsics
from tc_depth_training.data.bag import ODOMETRY, Bag, BagError


@dataclass(frozen=True)
class Recording:
    """Frames of one camera, in time order, at training size."""

    images: NDArray[np.uint8]  # (N, H, W, 3), RGB
    K: NDArray[np.float32]  # (N, 3, 3), in pixels of H x W
    stamps_ns: NDArray[np.int64]  # (N,), increasing
    world_T_camera: NDArray[np.float64] | None  # (N, 4, 4); NaN where the odometry has no pose


def read_recording(
    path: Path | str,
    size: tuple[int, int],
    *,
    odometry: bool,
    image_topic: str = '',
    camera_info_topic: str = '',
    odometry_topic: str = '',
) -> Recording:
    """
    Decode a bag in one pass.

    :param size: (height, width) to resize to
    :param odometry: read the camera's poses too
    :raises BagError: the bag lacks what is asked for
    """
    with Bag(path) as bag:
        camera = bag.find_camera(image_topic, camera_info_topic)
        count = next(t.count for t in bag.topics() if t.name == camera.image)
        images, intrinsics, stamps, frame_id = [], [], [], ''
        progress = tqdm(bag.frames(camera), f'reading {Path(path).name}', count, unit='frame')
        for frame in progress:
            images.append(resize_image(frame.image, size))
            intrinsics.append(scaled_intrinsics(frame.K, frame.size, size).numpy())
            stamps.append(frame.stamp_ns)
            frame_id = frame.frame_id
        # Stamps may come out of order or twice; windows are made of distinct times
        stamps_ns, order = np.unique(np.array(stamps, dtype=np.int64), return_index=True)
        poses = None
        if odometry:
            trajectory = bag.trajectory(bag.find('odom', ODOMETRY, odometry_topic), frame_id)
            missing = np.full((4, 4), np.nan)
            found = [trajectory.at(int(stamp)) for stamp in stamps_ns]
            poses = np.stack([missing if pose is None else pose for pose in found])
            if np.isnan(poses).all():
                raise BagError(f'the odometry of {path} does not overlap its images in time')
    return Recording(
        np.stack(images)[order],
        np.stack(intrinsics)[order].astype(np.float32),
        stamps_ns,
        poses,
    )
