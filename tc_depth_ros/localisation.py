"""
Where the camera is, for matching: by the robot's odometry, else by the images, else not at all.

    odometry (in its unit) ─┐
    motion by the images ───┴─> checked against the images ─> pose of the frame, and whose it is
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from threading import Condition
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.geometry.camera_pose import CameraPose
from tc_depth_ros.scale.odometry_buffer import OdometryBuffer, OdometryPose
from tc_depth_ros.settings import check_choices, setting
from tc_depth_ros.temporal.motion import Motion

MotionName = Literal['odometry', 'images', 'none']

# The depth that odometry is checked with may be wrong by a factor. So its translation is tried at
# these lengths too
LENGTHS = tuple(1.4**power for power in range(-4, 5))
LEAST_RESIDUAL_PX = 1.0  # less proves nothing
# Of the residual that a camera standing still leaves, this share at most may be left
UNEXPLAINED = 0.5
# Odometry is also compared with the images over several frames, where the way is long enough:
COMPARED = 10  # frames
LEAST_WAY = 0.05  # of the depth
MAX_LENGTH_RATIO = 5.0  # of the two ways, longer over shorter
LEAST_COSINE = 0.3  # of the angle between them
SEVERAL = 3  # times that it is wrong before it is wrong throughout
DISTRUSTED = 30  # frames, from then on


@dataclass(frozen=True)
class LocalisationConfig:
    """By whose motion depth is matched with the past; for weights that match."""

    odometry: Literal['auto', 'none'] = setting(
        'auto',
        'whether depth is matched by the motion of odometry (topic odom) where it is metric; '
        'none: by the images alone',
        choices=('auto', 'none'),
    )
    odometry_wait_s: float = setting(
        0.03,
        'wait at most so long for odometry of the stamp of an image, s; once odometry was late, '
        'it is not waited for until it is in time again',
        0.0,
        1.0,
    )
    max_odometry_gap_s: float = setting(
        0.2, 'odometry poses farther apart are not interpolated, s', 0.001, 10.0
    )
    max_deviation_m: float = setting(
        100.0, 'odometry less sure of the position, by its covariance, is not used, m', 0.0, 1e6
    )

    def __post_init__(self) -> None:
        """Refuse what is none of the choices."""
        check_choices(self)
        if not self.max_odometry_gap_s > 0:
            raise ValueError(
                f'matching.max_odometry_gap_s is {self.max_odometry_gap_s}; it must be positive'
            )


@dataclass(frozen=True)
class Location:
    """Where a frame was taken, and how that is known."""

    pose: CameraPose | None  # None: it is not known
    source: MotionName
    refusal: str = ''  # why it is not by odometry; '': it is, or odometry is not asked for


class OdometryTrack:
    """The robot's odometry at the stamps of images; takes poses from any thread."""

    def __init__(self, config: LocalisationConfig) -> None:
        self._config = config
        self._changed = Condition()
        self._buffer = OdometryBuffer(config.max_odometry_gap_s)
        self._child_T_camera: NDArray[np.float64] | None = None
        self._is_late = False  # the last time that it was asked for
        self._asked_ns = 0  # for which stamp
        self._due_s = 0.0  # monotonic; until when it would have been waited for
        self._begun = 0

    def reset(self) -> None:
        """Forget all poses; how the camera is mounted stays."""
        with self._changed:
            self._buffer.clear()
            self._is_late = False
            self._begun += 1

    def mount(self, child_T_camera: NDArray[np.float64] | None) -> None:
        """Say how the camera stands on the odometry's child frame, (4, 4); None: not known."""
        with self._changed:
            self._child_T_camera = child_T_camera
            self._begun += 1

    def add(self, pose: OdometryPose) -> None:
        """Take a pose."""
        with self._changed:
            self._buffer.add(pose)
            if self._is_late and self._has_come():
                # A pose that came within the allowed wait is in time: one delay must not end the
                # waiting for ever
                self._is_late = time.monotonic() > self._due_s
            self._changed.notify_all()

    def begin_anew(self) -> None:
        """Compare poses to come with none of those before: it jumped."""
        self._begun += 1

    def at(self, stamp_ns: int) -> tuple[NDArray[np.float64] | None, str]:
        """
        Pose ``world_T_camera`` at a stamp, (4, 4); None with the reason.

        Waits for it as long as the settings allow.
        """
        with self._changed:
            if self._buffer.newest_ns is None:
                return None, 'no odometry'
            if self._child_T_camera is None:
                return None, "TF does not link the odometry's child frame to the camera"
            self._wait_for(stamp_ns)
            world_T_child = self._buffer.at(stamp_ns)
            if world_T_child is None:
                late = 'odometry is late' if self._is_late else 'odometry has a gap'
                return None, f'{late} at the stamp of the image'
            deviation_m = self._buffer.deviation_m_at(stamp_ns)
            if deviation_m > self._config.max_deviation_m:
                if deviation_m == np.inf:
                    return None, 'odometry does not know its position, by its covariance'
                return None, f'odometry is sure of its position to {deviation_m:.3g} m only'
            return np.asarray(world_T_child @ self._child_T_camera), ''

    @property
    def name(self) -> str:
        """Of the stretch without a jump that it is in."""
        return f'odometry {self._begun}'

    def _wait_for(self, stamp_ns: int) -> None:
        wait_s = self._config.odometry_wait_s
        self._asked_ns, self._due_s = stamp_ns, time.monotonic() + wait_s
        self._is_late = not self._changed.wait_for(self._has_come, 0 if self._is_late else wait_s)

    def _has_come(self) -> bool:
        newest_ns = self._buffer.newest_ns
        return newest_ns is not None and newest_ns >= self._asked_ns


@dataclass(frozen=True)
class _Pair:
    """Where a frame was taken, by odometry and by the images."""

    track: str
    world_T_camera: NDArray[np.float64]
    images_T_camera: NDArray[np.float64]


@dataclass(frozen=True)
class _Last:
    """Where the last frame was taken, by odometry."""

    track: str
    world_T_camera: NDArray[np.float64]
    # Not by odometry, but moved on from its last pose by what the images show
    is_carried: bool = False


NOT_EXPLAINED = 'the motion by odometry does not fit the images'


class Localiser:
    """Tells where each frame of a stream was taken."""

    def __init__(self, config: LocalisationConfig | None = None) -> None:
        self._config = config or LocalisationConfig()
        self.odometry = OdometryTrack(self._config)
        self._images_T_camera = np.eye(4)
        self._begun = 0
        self._last: _Last | None = None
        self._ways: deque[_Pair] = deque(maxlen=COMPARED)
        self._distrusted = 0  # frames for which odometry is still not used
        self._frames = 0  # so far
        self._jumps: deque[int] = deque(maxlen=SEVERAL)  # frames at which odometry jumped
        self._disagreed = 0  # frames in a row

    def reset(self) -> None:
        """Forget odometry and images."""
        self.odometry.reset()
        self._distrusted = self._disagreed = 0
        self._jumps.clear()
        self.lose()

    def lose(self) -> None:
        """Compare what comes with nothing before it."""
        self._begun += 1
        self._last = None
        self._ways.clear()

    def locate(
        self, stamp_ns: int, motion: Motion | None, factor: float | None, guess_ratio: float = 1.0
    ) -> Location:
        """
        Find the pose of the next frame.

        :param motion: from the frame before, by the images, in the unit of the single frame's
            depth; None: it is not known
        :param factor: metres per unit of the depth; None: not known, and odometry of no use
        :param guess_ratio: the single frame's depth over the depth; see Prediction
        """
        if motion is None:
            self._begun += 1
        else:
            self._images_T_camera = self._images_T_camera @ np.linalg.inv(motion.later_T_earlier)
        pose, refusal = self._by_odometry(stamp_ns, motion, factor, guess_ratio)
        if pose is not None:
            return Location(pose, 'odometry')
        by_images = CameraPose(self._images_T_camera, f'images {self._begun}')
        if motion is None:
            # A first frame: what follows can be matched with it, it with nothing
            return Location(by_images, 'none', refusal)
        return Location(by_images, 'images', refusal)

    def _by_odometry(
        self, stamp_ns: int, motion: Motion | None, factor: float | None, guess_ratio: float
    ) -> tuple[CameraPose | None, str]:
        last, self._last = self._last, None
        self._frames += 1
        if self._config.odometry == 'none':
            return None, ''
        if factor is None:
            return None, 'depth is not metric, so that odometry has another unit'
        world_T_camera, refusal = self.odometry.at(stamp_ns)
        if world_T_camera is None:
            self._carry_on(last, motion, factor / guess_ratio)
            return None, refusal
        track = self.odometry.name
        earlier = last if last is not None and last.track == track else None
        if earlier is not None and motion is not None:
            later_T_earlier = np.linalg.inv(world_T_camera) @ earlier.world_T_camera
            later_T_earlier[:3, 3] /= factor
            if not explains(np.asarray(later_T_earlier, np.float64), motion):
                self._refuse(earlier, motion, factor / guess_ratio)
                return None, NOT_EXPLAINED
        agree = self._agree(world_T_camera, motion, factor)
        self._disagreed = 0 if agree else self._disagreed + 1
        if self._is_wrong_throughout():
            self.odometry.begin_anew()
            self._jumps.clear()
            self._disagreed, self._distrusted = 0, DISTRUSTED
        if self._distrusted > 0:
            self._distrusted -= 1
            return None, NOT_EXPLAINED
        self._last = _Last(track, world_T_camera)
        pose = CameraPose(world_T_camera, track, 1 / factor)
        if earlier is None or earlier.is_carried:
            return pose, ''
        return replace(pose, last_T_this=pose.past_T_this(earlier.world_T_camera)), ''

    def _refuse(self, last: _Last, motion: Motion, factor: float) -> None:
        """Pass over one wrong pose. If the next one is wrong too, odometry jumped: begin anew."""
        if last.is_carried:
            self.odometry.begin_anew()
        else:
            self._jumps.append(self._frames)
            self._carry_on(last, motion, factor)

    def _is_wrong_throughout(self) -> bool:
        """Whether odometry jumped, or went another way than the images, several times lately."""
        jumped = len(self._jumps) == SEVERAL and self._frames - self._jumps[0] < COMPARED
        return jumped or self._disagreed >= SEVERAL

    def _agree(
        self, world_T_camera: NDArray[np.float64], motion: Motion | None, factor: float
    ) -> bool:
        """Whether odometry and the images went the same way lately, if they went far enough."""
        track = f'{self.odometry.name}, images {self._begun}'
        if motion is None or (self._ways and self._ways[0].track != track):
            self._ways.clear()
        self._ways.append(_Pair(track, world_T_camera, self._images_T_camera))
        if motion is None or motion.evidence is None or not len(motion.evidence.scene):
            return True
        first, now = self._ways[0], self._ways[-1]
        ways = np.stack(
            [
                (np.linalg.inv(first.world_T_camera) @ now.world_T_camera)[:3, 3] / factor,
                (np.linalg.inv(first.images_T_camera) @ now.images_T_camera)[:3, 3],
            ]
        )
        lengths = np.linalg.norm(ways, axis=1)
        depth = float(np.median(motion.evidence.scene[:, 2]))
        if lengths.max() < LEAST_WAY * depth:
            return True
        if lengths.max() > MAX_LENGTH_RATIO * lengths.min():
            return False
        return bool(ways[0] @ ways[1] >= LEAST_COSINE * lengths.prod())

    def _carry_on(self, last: _Last | None, motion: Motion | None, factor: float) -> None:
        """
        Move the last pose on by the images: odometry that comes back may start elsewhere.

        :param factor: metres per unit of the motion, where depth has the scale that odometry gave
        """
        if last is None or motion is None:
            self.odometry.begin_anew()  # nothing can tell whether it does
            return
        later_T_earlier = motion.later_T_earlier.copy()
        later_T_earlier[:3, 3] *= factor
        world_T_camera = last.world_T_camera @ np.linalg.inv(later_T_earlier)
        self._last = _Last(last.track, np.asarray(world_T_camera, np.float64), is_carried=True)


def explains(later_T_earlier: NDArray[np.float64], motion: Motion) -> bool:
    """
    Whether a motion moves what the images show to where they show it.

    The length of its translation is left open, within reason: it is as uncertain as the depth.

    :param motion: by the images, with what it was found from
    """
    points = motion.evidence
    if points is None or not len(points.scene):
        return True
    residuals = []
    for length in LENGTHS:
        tried = later_T_earlier.copy()
        tried[:3, 3] *= length
        residuals.append(points.residual_px(tried))
    still = points.residual_px(np.eye(4))
    left = points.residual_px(motion.later_T_earlier)
    return min(residuals) <= max(LEAST_RESIDUAL_PX, left + UNEXPLAINED * max(0.0, still - left))
