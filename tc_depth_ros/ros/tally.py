"""Every frame accounted for: in = published + dropped, and why; and how long they took."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

RECENT = 50  # frames over which rates and latency are taken
SUPERSEDED = 'superseded'  # dropped for a newer one
UNWANTED = 'nobody subscribes'
UNUSABLE = 'unusable'  # cannot be decoded


@dataclass(frozen=True)
class TallySnapshot:
    """The counts at one moment."""

    received: int
    published: int
    dropped: dict[str, int]  # by cause
    rate_hz: float  # of published frames, recently; 0 without any
    latency_median_s: float  # from the image's arrival to its depth's publication
    latency_max_s: float
    has_images: bool  # since the camera is listened to
    silence_s: float  # since the last image, or since the camera is listened to
    image_period_s: float  # between images, recently; 0 before there are two
    outcomes: tuple[str, ...]  # of the frames done with recently: '' or why dropped

    @property
    def waiting(self) -> int:
        """Frames received that are neither published nor dropped yet."""
        return self.received - self.published - sum(self.dropped.values())


class Tally:
    """Counts frames; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._published = 0
        self._dropped: Counter[str] = Counter()
        self._arrivals: deque[float] = deque(maxlen=RECENT)  # monotonic, s
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)  # (time, latency)
        self._outcomes: deque[str] = deque(maxlen=RECENT)  # '' or why dropped
        self._begun_s = time.monotonic()

    def received(self) -> None:
        """Count a frame that came in."""
        with self._lock:
            self._received += 1
            self._arrivals.append(time.monotonic())

    def dropped(self, cause: str) -> None:
        """Count a frame that will have no depth."""
        with self._lock:
            self._dropped[cause] += 1
            self._outcomes.append(cause)

    def published(self, latency_s: float) -> None:
        """Count a frame whose depth went out."""
        with self._lock:
            self._published += 1
            self._recent.append((time.monotonic(), latency_s))
            self._outcomes.append('')

    def begin(self) -> None:
        """Forget what was recently: the camera is listened to anew."""
        with self._lock:
            self._arrivals.clear()
            self._recent.clear()
            self._outcomes.clear()
            self._begun_s = time.monotonic()

    def snapshot(self) -> TallySnapshot:
        """Read all counts at once."""
        with self._lock:
            latencies = sorted(latency for _, latency in self._recent) or [0.0]
            now_s = time.monotonic()
            elapsed_s = now_s - self._recent[0][0] if self._recent else 0.0
            arrivals = list(self._arrivals)
            steps = [b - a for a, b in zip(arrivals, arrivals[1:], strict=False)]
            return TallySnapshot(
                self._received,
                self._published,
                dict(self._dropped),
                (len(self._recent) - 1) / elapsed_s if elapsed_s > 0 else 0.0,
                latencies[len(latencies) // 2],
                latencies[-1],
                bool(arrivals),
                now_s - (arrivals[-1] if arrivals else self._begun_s),
                statistics.median(steps) if steps else 0.0,
                tuple(self._outcomes),
            )
