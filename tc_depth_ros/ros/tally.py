"""Every frame accounted for: in = published + dropped, and why; and how long they took."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

RECENT = 50  # frames over which rates and latency are taken
SUPERSEDED = 'superseded'  # dropped for a newer one


@dataclass(frozen=True)
class TallySnapshot:
    """The counts at one moment."""

    received: int
    published: int
    dropped: dict[str, int]  # by cause
    rate_hz: float  # of published frames, recently; 0 without any
    latency_median_s: float  # from the image's arrival to its depth's publication
    latency_max_s: float
    image_age_s: float | None  # of the last image that came in; None: there was none
    image_period_s: float  # between images, recently; 0 before there are two
    superseded_share: float  # of the frames done with recently

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
        """Forget when images came: the camera is listened to anew."""
        with self._lock:
            self._arrivals.clear()
            self._outcomes.clear()

    def snapshot(self) -> TallySnapshot:
        """Read all counts at once."""
        with self._lock:
            latencies = sorted(latency for _, latency in self._recent) or [0.0]
            times = [at for at, _ in self._recent]
            elapsed = times[-1] - times[0] if len(times) > 1 else 0.0
            arrivals = list(self._arrivals)
            steps = [b - a for a, b in zip(arrivals, arrivals[1:], strict=False)]
            return TallySnapshot(
                self._received,
                self._published,
                dict(self._dropped),
                (len(times) - 1) / elapsed if elapsed > 0 else 0.0,
                latencies[len(latencies) // 2],
                latencies[-1],
                time.monotonic() - arrivals[-1] if arrivals else None,
                statistics.median(steps) if steps else 0.0,
                self._outcomes.count(SUPERSEDED) / max(1, len(self._outcomes)),
            )
