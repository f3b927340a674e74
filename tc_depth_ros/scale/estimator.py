"""
ScaleEstimator, the front door: tell it of frames and odometry, ask it for the factor.

States::

    UNKNOWN -> INITIALISING -> TRACKING <-> STALE

UNKNOWN: no ratio yet. INITIALISING: too few; the factor is still 1. TRACKING: it is applied.
STALE: it is held and applied, but should have been confirmed and was not, for ``stale_after_s``
of motion (with camera_height: of frames), or odometry has been silent for that long. A robot that
stands and says so loses nothing: scale is a property of the network and the scene before it.
One accepted ratio makes STALE TRACKING again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import isfinite, nan
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tc_depth_ros.scale.camera_height import CameraHeightConfig, CameraHeightScale
from tc_depth_ros.scale.observation import Attempt, ObservedFrame
from tc_depth_ros.scale.odometry import OdometryScale, OdometryScaleConfig
from tc_depth_ros.scale.odometry_buffer import OdometryPose
from tc_depth_ros.scale.ratio_filter import FilterConfig, RatioFilter
from tc_depth_ros.settings import setting

ScaleSource = Literal['none', 'fixed', 'odometry', 'camera_height']
SOURCES: tuple[ScaleSource, ...] = ('none', 'fixed', 'odometry', 'camera_height')


@dataclass(frozen=True)
class ScaleConfig:
    """Where the factor between the network's depth and metres comes from."""

    source: ScaleSource = setting(
        'none',
        'where the factor comes from: none (as the weights have it), fixed (factor), odometry '
        '(its translation over the predicted one), camera_height (over the fitted ground)',
        choices=SOURCES,
    )
    factor: float = setting(
        1.0, 'depth is multiplied by it, with source fixed; you vouch for it', 1e-6, 1e6
    )
    odometry: OdometryScaleConfig = field(default_factory=OdometryScaleConfig)
    ground: CameraHeightConfig = field(default_factory=CameraHeightConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)

    def __post_init__(self) -> None:
        """Refuse a source without what it needs."""
        if self.source not in SOURCES:
            raise ValueError(
                f"scale.source is '{self.source}'; it must be one of {', '.join(SOURCES)}"
            )
        if not (isfinite(self.factor) and self.factor > 0):
            raise ValueError(f'scale.factor is {self.factor}; it must be positive')
        if self.source == 'camera_height' and not self.ground.camera_height_m > 0:
            raise ValueError(
                f'scale.camera_height_m is {self.ground.camera_height_m}; scale.source '
                'camera_height needs it: measure the height of the lens above the ground, in m'
            )
        if self.source == 'odometry' and self.filter.stale_after_s <= self.odometry.max_pair_s:
            raise ValueError(
                f'scale.stale_after_s is {self.filter.stale_after_s}; it must exceed '
                f'scale.max_pair_s, {self.odometry.max_pair_s}, in which one ratio comes'
            )


class ScaleState(Enum):
    """How far the factor can be relied on."""

    UNKNOWN = 'UNKNOWN'
    INITIALISING = 'INITIALISING'
    TRACKING = 'TRACKING'
    STALE = 'STALE'


@dataclass(frozen=True)
class Scale:
    """The factor, and what is known of it."""

    factor: float  # multiply the network's depth by it; 1 until it is known
    deviation: float  # relative, of one image's scale from the factor; NaN where nobody knows
    standard_error: float  # relative, of the factor itself; NaN likewise
    state: ScaleState
    source: ScaleSource
    metric: bool  # whether depth times factor is in metres
    ratios: int = 0  # measured ratios behind the factor
    refusal: str = ''  # why the last attempt gave no ratio; empty if it did


class ScaleEstimator:
    """
    The factor between the network's depth and metres; one per camera.

    Frames and odometry may come from different threads and in any order.
    """

    def __init__(self, config: ScaleConfig | None = None, weights_metric: bool = False) -> None:
        """:param weights_metric: whether the network's depth is in metres by itself"""
        self._config = config or ScaleConfig()
        self._weights_metric = weights_metric
        self._lock = Lock()
        self._filter = RatioFilter(self._config.filter)
        self._odometry = OdometryScale(self._config.odometry)
        self._camera_height = CameraHeightScale(self._config.ground)
        self._forget()

    def reset(self) -> None:
        """Forget the factor: the clock jumped, say."""
        with self._lock:
            self._filter.reset()
            self._odometry.reset()
            self._camera_height.reset()
            self._forget()

    def mount(self, child_T_camera: NDArray[np.float64] | None) -> None:
        """Say how the camera stands on the odometry's child frame; see OdometryScale.mount."""
        with self._lock:
            self._odometry.mount(child_T_camera)

    def add_odometry(self, pose: OdometryPose) -> None:
        """Take a pose of the odometry topic; its stamp is the message's own."""
        if self._config.source != 'odometry':
            return
        with self._lock:
            self._take(self._odometry.add_odometry(pose))

    def observe(self, frame: ObservedFrame) -> None:
        """
        Take a frame; once per frame. What it tells shows in the factor of the frames after it.

        :raises ValueError: the frame is not newer than the last one
        """
        if self._config.source not in ('odometry', 'camera_height'):
            return
        with self._lock:
            self._advance(frame.stamp_ns)
            source = self._odometry if self._config.source == 'odometry' else self._camera_height
            self._take(source.observe(frame))

    def current(self, stamp_ns: int) -> Scale:
        """Give the factor at a time. Asking changes nothing."""
        source, state = self._config.source, ScaleState.UNKNOWN
        if source == 'none':
            return Scale(1.0, nan, nan, state, source, self._weights_metric)
        if source == 'fixed':
            return Scale(self._config.factor, nan, nan, ScaleState.TRACKING, source, True)
        with self._lock:
            silent = self._is_silent(stamp_ns)
            state = self._state(silent)
            known = state in (ScaleState.TRACKING, ScaleState.STALE)
            return Scale(
                self._filter.factor,
                self._filter.deviation,
                self._filter.standard_error,
                state,
                source,
                known or self._weights_metric,
                self._filter.ratios,
                'odometry is silent' if silent else self._refusal,
            )

    def _forget(self) -> None:
        self._last_ns: int | None = None
        self._refusal = f'no {"odometry" if self._config.source == "odometry" else "frame"} yet'

    def _advance(self, stamp_ns: int) -> None:
        last_ns = self._last_ns
        if last_ns is not None:
            if stamp_ns <= last_ns:
                raise ValueError(
                    f'a frame of {stamp_ns} ns came after one of {last_ns} ns: reset the scale '
                    'when the clock jumps back'
                )
            self._filter.advance((stamp_ns - last_ns) * 1e-9)
        self._last_ns = stamp_ns

    def _take(self, attempts: list[Attempt]) -> None:
        """Feed the filter with what the source has found."""
        for attempt in attempts:
            if attempt.ratio is None:
                self._filter.miss(attempt.due_s)
                # Where a pair only grows there is nothing to say
                self._refusal = attempt.refusal or self._refusal
            elif self._filter.push(attempt.ratio):
                self._refusal = ''
            else:
                self._filter.miss(attempt.due_s)
                self._refusal = f'the ratio {attempt.ratio:.3g} is an outlier'

    def _state(self, silent: bool) -> ScaleState:
        if self._filter.tracking:
            return ScaleState.STALE if silent or self._filter.stale else ScaleState.TRACKING
        return ScaleState.INITIALISING if self._filter.ratios else ScaleState.UNKNOWN

    def _is_silent(self, stamp_ns: int) -> bool:
        """Whether odometry has stopped: nobody knows then whether the camera moves."""
        newest_ns = self._odometry.newest_odometry_ns
        if self._config.source != 'odometry' or newest_ns is None:
            return False
        return (stamp_ns - newest_ns) * 1e-9 >= self._config.filter.stale_after_s
