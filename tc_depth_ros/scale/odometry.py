"""
Scale out of odometry: how far the camera moved in metres, over how far the network thinks it did.

The step between two frames is short and its direction noisy, which lengthens it. So predicted
steps are chained from an anchor on, until odometry has moved by ``min_translation_m``; that gives
one ratio of two displacements (not of two path lengths, which noise makes longer at every step),
and the anchor moves up. Pairs do not overlap, so their errors are nearly independent, as the
filter's deviation takes them to be.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.scale.observation import Attempt, ObservedFrame, PredictedMotion
from tc_depth_ros.scale.odometry_buffer import OdometryBuffer, OdometryPose
from tc_depth_ros.settings import setting

MAX_WAITING = 128  # frames whose odometry has not come yet
NO_ODOMETRY = 'no odometry around the stamp of the frame'


@dataclass(frozen=True)
class OdometryScaleConfig:
    """Which stretches of odometry give a ratio."""

    min_translation_m: float = setting(
        0.2, 'odometry must have moved by this much for a ratio, m', 0.001, 1000.0
    )
    max_pair_s: float = setting(
        3.0, 'within this time, s: slower motion counts as standing', 0.01, 3600.0
    )
    max_rotation_deg: float = setting(
        3.0,
        'and turned by no more than this, where it is not known how the camera is mounted on '
        "odometry's child frame, degrees",
        0.01,
        180.0,
    )
    max_motion_deviation: float = setting(
        0.2, 'the predicted displacement must be known to this part of it', 0.001, 10.0
    )
    max_direction_error_deg: float = setting(
        25.0,
        'and point where odometry points, where the mounting is known, degrees',
        0.1,
        180.0,
    )
    max_odometry_gap_s: float = setting(
        0.2, 'odometry poses farther apart are not interpolated, s', 0.001, 10.0
    )

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep."""
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f'scale.{name} is {value}; it must be positive')

    @property
    def min_speed_m_s(self) -> float:
        """Slower motion cannot give a ratio, so it counts as standing."""
        return self.min_translation_m / self.max_pair_s


@dataclass(frozen=True)
class Waiting:
    """A frame whose odometry has not come yet; its depth is not kept."""

    stamp_ns: int
    motion: PredictedMotion | None


@dataclass(frozen=True)
class Placed:
    """A frame and where odometry says it was taken."""

    stamp_ns: int
    world_T_camera: NDArray[np.float64]  # (4, 4), in m


UNKNOWN_STEP = PredictedMotion(-1, np.eye(4), np.full((6, 6), np.nan))


@dataclass(frozen=True)
class Chain:
    """Predicted motion from an anchor to now, and how well it is known."""

    anchor: Placed
    now_T_anchor: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.zeros((6, 6)))

    def extended(self, step: PredictedMotion) -> Chain:
        """
        Append a step.

        ``t' = R t + t_step``; so ``dt' = R dt + dt_step + dw_step x R t``, ``dw' = R dw +
        dw_step`` (first order, steps independent).
        """
        R = step.later_T_earlier[:3, :3]
        x, y, z = R @ self.now_T_anchor[:3, 3]
        from_before = np.kron(np.eye(2), R)
        from_step = np.eye(6)
        from_step[:3, 3:] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
        return Chain(
            self.anchor,
            step.later_T_earlier @ self.now_T_anchor,
            from_before @ self.covariance @ from_before.T
            + from_step @ step.covariance @ from_step.T,
        )

    @property
    def displacement(self) -> NDArray[np.float64]:
        """Where the camera is now, seen from the anchor, in the depth's own unit; (3,)."""
        return np.asarray(-self.now_T_anchor[:3, :3].T @ self.now_T_anchor[:3, 3])

    @property
    def relative_deviation(self) -> float:
        """Deviation of the displacement over its length; NaN or Inf where that is not known."""
        length = float(np.linalg.norm(self.displacement))
        deviation = float(np.sqrt(np.trace(self.covariance[:3, :3])))
        return deviation / length if length else inf


def _angle_deg(cosine: float) -> float:
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


class OdometryScale:
    """
    Pairs predicted motion with odometry, whichever comes first.

    A frame waits until odometry has passed its stamp; nobody waits for the frame. If odometry
    never comes, the oldest frames are given up, as if there had been no odometry for them.

    A ratio is due whenever odometry moved by ``min_translation_m`` within ``max_pair_s``. Slower
    motion is standing: no ratio is due, none is missed.
    """

    def __init__(self, config: OdometryScaleConfig | None = None) -> None:
        self._config = config or OdometryScaleConfig()
        self._buffer = OdometryBuffer(self._config.max_odometry_gap_s)
        self._child_T_camera: NDArray[np.float64] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget frames and odometry; how the camera is mounted stays."""
        self._buffer.clear()
        self._waiting: deque[Waiting] = deque()
        self._last_ns: int | None = None
        self._chain: Chain | None = None

    def mount(self, child_T_camera: NDArray[np.float64] | None) -> None:
        """
        Say how the camera stands on the odometry's child frame; the pair at work is given up.

        :param child_T_camera: takes points of the optical frame to the child frame, (4, 4); the
            identity if they are one frame. None: not known. Then the child frame's translation
            stands for the camera's, and pairs with more than a small turn are refused, for each
            turn adds the lever arm's part: 0.3 m times 3 degrees is 16 mm.
        """
        self._child_T_camera = child_T_camera
        self._chain = None

    @property
    def newest_odometry_ns(self) -> int | None:
        """Stamp of the newest odometry."""
        return self._buffer.newest_ns

    @property
    def held(self) -> int:
        """Frames and poses held in memory."""
        return len(self._waiting) + len(self._buffer)

    def observe(self, frame: ObservedFrame) -> list[Attempt]:
        """Take a frame; answers what can be said of it and of those that waited."""
        self._waiting.append(Waiting(frame.stamp_ns, frame.motion))
        return self._resolved()

    def add_odometry(self, pose: OdometryPose) -> list[Attempt]:
        """Take a pose; answers what can be said now of the frames that waited."""
        self._buffer.add(pose)
        return self._resolved()

    def _resolved(self) -> list[Attempt]:
        attempts = []
        while self._waiting and self._is_ripe(self._waiting[0]):
            attempts.append(self._resolve(self._waiting.popleft()))
        return attempts

    def _is_ripe(self, frame: Waiting) -> bool:
        newest_ns = self._buffer.newest_ns
        passed = newest_ns is not None and frame.stamp_ns <= newest_ns
        return passed or len(self._waiting) > MAX_WAITING

    def _resolve(self, frame: Waiting) -> Attempt:
        """Extend the chain to this frame, and form a ratio where it is long enough."""
        last_ns, self._last_ns = self._last_ns, frame.stamp_ns
        world_T_camera = self._camera_pose(frame.stamp_ns)
        if world_T_camera is None:
            self._chain = None
            return Attempt(None, _seconds(last_ns, frame.stamp_ns), NO_ODOMETRY)
        now = Placed(frame.stamp_ns, world_T_camera)
        if self._chain is None:
            self._chain = Chain(now)
            return Attempt(None, 0.0)
        follows = frame.motion is not None and frame.motion.earlier_stamp_ns == last_ns
        chain = self._chain.extended(frame.motion if frame.motion and follows else UNKNOWN_STEP)
        attempt = self._attempt(chain, now)
        self._chain = chain if attempt is None else Chain(now)
        return attempt or Attempt(None, 0.0)

    def _camera_pose(self, stamp_ns: int) -> NDArray[np.float64] | None:
        world_T_child = self._buffer.at(stamp_ns)
        if world_T_child is None or self._child_T_camera is None:
            return world_T_child
        return np.asarray(world_T_child @ self._child_T_camera)

    def _attempt(self, chain: Chain, now: Placed) -> Attempt | None:
        """What the pair of anchor and now gives; None: it is to grow on."""
        anchor_T_now = np.linalg.inv(chain.anchor.world_T_camera) @ now.world_T_camera
        distance_m = float(np.linalg.norm(anchor_T_now[:3, 3]))
        duration_s = _seconds(chain.anchor.stamp_ns, now.stamp_ns)
        if self._turned(anchor_T_now):
            moving = distance_m >= duration_s * self._config.min_speed_m_s
            return Attempt(None, duration_s if moving else 0.0, 'turned too far')
        if distance_m < self._config.min_translation_m:
            standing = duration_s >= self._config.max_pair_s
            return Attempt(None, 0.0, 'not moved far enough') if standing else None
        refusal = self._refusal(chain, anchor_T_now)
        if refusal:
            return Attempt(None, duration_s, refusal)
        return Attempt(distance_m / float(np.linalg.norm(chain.displacement)), duration_s)

    def _turned(self, anchor_T_now: NDArray[np.float64]) -> bool:
        """Whether an unknown lever arm would show."""
        angle_deg = _angle_deg((np.trace(anchor_T_now[:3, :3]) - 1) / 2)
        return self._child_T_camera is None and angle_deg > self._config.max_rotation_deg

    def _refusal(self, chain: Chain, anchor_T_now: NDArray[np.float64]) -> str:
        """Why a pair that is long enough cannot be trusted; empty if it can."""
        if not chain.relative_deviation <= self._config.max_motion_deviation:
            return 'the predicted motion is not well determined'
        if self._child_T_camera is not None:
            measured, predicted = anchor_T_now[:3, 3], chain.displacement
            cosine = measured @ predicted / np.linalg.norm(measured) / np.linalg.norm(predicted)
            if _angle_deg(cosine) > self._config.max_direction_error_deg:
                return 'predicted motion and odometry point in different directions'
        return ''


def _seconds(earlier_ns: int | None, later_ns: int) -> float:
    return 0.0 if earlier_ns is None else (later_ns - earlier_ns) * 1e-9
