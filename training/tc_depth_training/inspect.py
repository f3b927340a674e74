"""What a bag holds, and whether one can train on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tc_depth_ros.frames.camera import CameraModel
from tc_depth_ros.frames.decoder import is_rectified
from tc_depth_training.data.bag import ODOMETRY, Bag, BagError, CameraTopics
from tc_depth_training.data.depth_source import find_depth
from tc_depth_training.data.load import read_recording
from tc_depth_training.data.motion import STATIC_FLOW_PX, flows_px
from tc_depth_training.data.recording import Recording
from tc_depth_training.data.windows import (
    FEW_WINDOWS,
    GAP,
    find_windows,
    fitting_time_step,
    number_sequences,
)

SIZE = (96, 160)  # enough to measure motion
SAMPLES = 200  # pairs of neighbours whose motion is measured


def inspect_bag(
    path: Path, time_steps_s: Sequence[float], image_topic: str = '', camera_info_topic: str = ''
) -> str:
    """
    Describe a bag: topics, rates, K, gaps, standing still, usable windows, measured depth.

    :raises BagError: the bag cannot be read, or has no usable camera
    """
    with Bag(path) as bag:
        duration_s, topics = bag.duration_s, bag.topics()
        camera = bag.find_camera(image_topic, camera_info_topic)
        frame_id, depth = bag.frame_id(camera), _measured_depth(bag, camera)
        try:
            model = bag.camera_model(camera)
        except ValueError as error:
            raise BagError(f'{path}: {error}') from error
    lines = [f'{path}: {duration_s:.1f} s']
    for topic in topics:
        rate = (topic.count - 1) / duration_s if duration_s else 0.0
        lines.append(
            f'  {topic.name:<44} {topic.type:<32} {topic.count:>6} {rate:6.1f} Hz  {topic.detail}'
        )
    height, width = model.size
    (fx, _, cx), (_, fy, cy), _ = model.K
    lines += [
        f'camera {camera.image}, frame {frame_id}',
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
    return '\n'.join(
        [
            *lines,
            *_timing(recording, min(time_steps_s)),
            *_motion(recording),
            *_windows(recording, time_steps_s),
            f'odometry: {", ".join(odometry) or "none; train with pose: learned"}',
            f'measured depth: {depth}',
        ]
    )


def _measured_depth(bag: Bag, camera: CameraTopics) -> str:
    """What weights would be judged by, and why not by what else there is."""
    found = find_depth(bag, camera)
    topic = found.source.topic if found.source else 'none'
    return '\n'.join([topic, *(f'  passed over: {reason}' for reason in found.passed_over)])


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


def _timing(recording: Recording, step_s: float) -> list[str]:
    left_out = ', '.join(f'{count} {cause}' for cause, count in recording.left_out.items())
    lines = [f'  left out: {left_out}'] if left_out else []
    if recording.sorted_in:
        lines.append(f'  {recording.sorted_in} frames came late and were sorted in')
    if not recording.period_ns:
        return [*lines, '  a single frame']
    steps_s = np.diff(recording.stamps_ns) * 1e-9
    same = np.diff(recording.segment) == 0
    period_s = recording.period_ns * 1e-9
    gaps = steps_s[same & (steps_s > GAP * period_s)]
    longest = f', the longest {gaps.max():.2f} s' if gaps.size else ''
    jumps = int((~same & (steps_s < 0)).sum())
    changes = int((np.diff(recording.camera) != 0).sum())
    sequences = int(number_sequences(recording, step_s)[-1]) + 1
    return [
        f'  {len(recording)} frames at {1 / period_s:.1f} Hz, {gaps.size} gaps{longest}',
        *lines,
        f'  {sequences} sequences for windows of {step_s:g} s: {jumps} jumps of the clock, '
        f'{changes} changes of CameraInfo',
    ]


def _motion(recording: Recording) -> list[str]:
    first = np.flatnonzero(np.diff(recording.segment) == 0)
    first = first[:: max(1, len(first) // SAMPLES)]
    if not first.size:
        return []
    flows = flows_px(recording, np.stack([first, first + 1], axis=1))
    static = float((flows < STATIC_FLOW_PX).mean())
    return [
        f'  median flow between neighbours {np.median(flows):.2f} px at 160 px width, '
        f'{100 * static:.0f} % of them static'
    ]


def _windows(recording: Recording, time_steps_s: Sequence[float]) -> list[str]:
    found = {step_s: find_windows(recording, [step_s]) for step_s in time_steps_s}
    lines = [
        f'windows of {step_s:g} s: {len(windows)} usable, {windows.static} static'
        + (f', {windows.without_frame} without a frame in time' if windows.without_frame else '')
        for step_s, windows in found.items()
    ]
    total = sum(map(len, found.values()))
    advice = [fitting_time_step(recording, found[step_s], [step_s]) for step_s in found]
    if all(advice):
        lines.append(f'  {advice[0]}')
    elif total < FEW_WINDOWS:
        lines.append(
            f'  {total} windows are few to train on alone: add bags or time steps, or go on from '
            'trained weights (--init default)'
        )
    return lines
