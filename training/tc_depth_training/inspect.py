"""What a bag holds, and whether one can train on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.decoder import is_rectified
from tc_depth_training.data.bag import ODOMETRY, Bag
from tc_depth_training.data.recording import read_recording
from tc_depth_training.data.windows import STATIC_FLOW_PX, find_windows, median_flow_px

SIZE = (96, 160)  # enough to measure motion


def inspect_bag(
    path: Path, time_steps_s: Sequence[float], image_topic: str = '', camera_info_topic: str = ''
) -> str:
    """
    Describe a bag: topics, rates, K, gaps, standing still, usable windows.

    :raises BagError: the bag cannot be read, or has no camera
    """
    with Bag(path) as bag:
        duration_s, topics = bag.duration_s, bag.topics()
        camera = bag.find_camera(image_topic, camera_info_topic)
        frame = next(iter(bag.frames(camera)))
        model = bag.camera_model(camera)
    lines = [f'{path}: {duration_s:.1f} s']
    for topic in topics:
        rate = (topic.count - 1) / duration_s if duration_s else 0.0
        lines.append(
            f'  {topic.name:<44} {topic.type:<32} {topic.count:>6} {rate:6.1f} Hz  {topic.detail}'
        )
    height, width = frame.size
    (fx, _, cx), (_, fy, cy), _ = frame.K
    lines += [
        f'camera {camera.image}, frame {frame.frame_id}',
        f'  {width}x{height}, fx {fx:.1f} fy {fy:.1f} cx {cx:.1f} cy {cy:.1f} px',
        f'  {_rectification(camera.image, model)}',
    ]
    odometry = [topic.name for topic in topics if topic.type == ODOMETRY]
    recording = read_recording(
        path,
        SIZE,
        odometry=False,
        image_topic=camera.image,
        camera_info_topic=camera.camera_info,
    )
    windows = find_windows(recording, time_steps_s)
    return '\n'.join([*lines, *_timing(recording.stamps_ns), *_motion(recording.images)]) + (
        f'\nwindows of {", ".join(f"{step:g}" for step in time_steps_s)} s: '
        f'{len(windows.indices)} usable, {windows.static} static'
        f'\nodometry: {", ".join(odometry) or "none; train with pose: learned"}'
    )


def _rectification(topic: str, model: CameraModel) -> str:
    if is_rectified(topic):
        return "taken as rectified, as its topic's name says"
    if model.maps is None:
        return 'taken as it is: its CameraInfo has neither distortion nor rotation'
    unseen = 0.0 if model.seen is None else 1 - float(model.seen.mean())
    return (
        f'rectified while it is read ({model.calibration.distortion_model}), '
        f'{100 * unseen:.1f} % of the result lies outside the raw image'
    )


def _timing(stamps_ns: np.ndarray) -> list[str]:
    if len(stamps_ns) < 2:
        return ['  a single frame']
    steps_s = np.diff(stamps_ns) * 1e-9
    period_s = float(np.median(steps_s))
    gaps = steps_s[steps_s > 1.5 * period_s]
    longest = f', the longest {gaps.max():.2f} s' if gaps.size else ''
    return [f'  {len(stamps_ns)} frames at {1 / period_s:.1f} Hz, {gaps.size} gaps{longest}']


def _motion(images: np.ndarray) -> list[str]:
    pairs = list(zip(images[:-1], images[1:], strict=True))
    flows = np.array([median_flow_px(a, b) for a, b in pairs[:: max(1, len(pairs) // 200)]])
    if not flows.size:
        return []
    static = float((flows < STATIC_FLOW_PX).mean())
    return [
        f'  median flow between neighbours {np.median(flows):.2f} px at 160 px width, '
        f'{100 * static:.0f} % of them static'
    ]
