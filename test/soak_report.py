"""What a soak has measured, whether that is well, and a table of it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from ros_harness import Health

MAX_GROWTH = 0.02  # of resident memory, after the warm-up
MAX_LOST = 0.01  # of messages, by DDS: the node's input is best effort, its memory five messages
MOST_WAITING = 3  # at work, in the mailbox, and on the way there


@dataclass(frozen=True)
class SoakConfig:
    """How long, how fast, how bad."""

    duration_s: float = 1200.0
    warm_up_s: float = 300.0  # memory may grow until then
    # Over which the median of memory is taken: what is freed stays with the process for a while
    window_s: float = 300.0
    rate_hz: float = 10.0
    fault_share: float = 0.1  # chance that a fault begins, per frame
    seed: int = 0

    @classmethod
    def lasting(cls, duration_s: float, seed: int = 0) -> SoakConfig:
        """Shorten the warm-up and the windows with the whole."""
        warm_up_s = min(cls.warm_up_s, duration_s / 3)
        return cls(duration_s, warm_up_s, min(cls.window_s, duration_s / 6), seed=seed)


@dataclass(frozen=True)
class MemorySample:
    """Resident memory of the node at a time since the beginning."""

    time_s: float
    resident_mb: float


@dataclass(frozen=True)
class SoakReport:
    """What happened."""

    config: SoakConfig
    elapsed_s: float
    sent: int  # images
    faults: dict[str, int]  # that were injected
    reports: tuple[Health, ...]  # all that the node said of itself; the last when all had settled
    heard: dict[str, int]  # messages by output
    latencies_ms: tuple[float, ...]  # from the image's publication to its depth's arrival
    memory: tuple[MemorySample, ...]
    alive: bool
    output: str  # of the node

    @property
    def received(self) -> int:
        """Images that reached the node."""
        return self.reports[-1].count('frames received')

    @property
    def published(self) -> int:
        """Frames whose depth went out."""
        return self.reports[-1].count('frames published')

    @property
    def dropped(self) -> dict[str, int]:
        """Frames without depth, by cause."""
        return self.reports[-1].dropped

    @property
    def warm_mb(self) -> float:
        """Memory in the window after the warm-up, median."""
        return self._resident_mb(self.config.warm_up_s + self.config.window_s)

    @property
    def end_mb(self) -> float:
        """Memory in the last window, median."""
        return self._resident_mb(self.memory[-1].time_s)

    @property
    def growth(self) -> float:
        """Of memory since the warm-up, relative."""
        return self.end_mb / self.warm_mb - 1

    def _resident_mb(self, end_s: float) -> float:
        start_s = end_s - self.config.window_s
        return median(m.resident_mb for m in self.memory if start_s <= m.time_s <= end_s)

    def problems(self) -> list[str]:
        """What should not be so; nothing if all is well."""
        if not self.alive:
            return [f'the node has died; it said:\n{self.output}']
        unbalanced = [health for health in self.reports if not balanced(health)]
        checks = {
            f'not every frame is accounted for: {unbalanced[:1]}': bool(unbalanced),
            'frames wait at the end': self.reports[-1].count('frames waiting') > 0,
            f'{self.sent} sent, {self.received} received': _lost(self.sent, self.received),
            f'{self.published} published, heard were {self.heard}': any(
                _lost(self.published, count) for count in self.heard.values()
            ),
            # Faults, and a machine with other things to do, take their part
            f'of {self.sent} only {self.published} were published': self.published < self.sent / 4,
            f'memory grew by {self.growth:.1%}': self.growth >= MAX_GROWTH,
            f'the node has a fault of its own:\n{self.output}': 'Traceback' in self.output,
        }
        return [problem for problem, is_so in checks.items() if is_so]

    def table(self) -> str:
        """Say it for people; of a node that is alive."""
        ms = self.latencies_ms or (0.0,)
        rows = {
            'sent': f'{self.sent} images in {self.elapsed_s:.0f} s: '
            f'{self.sent / self.elapsed_s:.1f} Hz',
            'received': f'{self.received}, lost by DDS {self.sent - self.received}',
            'published': f'{self.published}: {self.published / self.elapsed_s:.1f} Hz',
            **{f'dropped: {cause}': f'{n}' for cause, n in sorted(self.dropped.items()) if n},
            **{
                f'heard: {output}': f'{n}, lost by DDS {self.published - n}'
                for output, n in self.heard.items()
            },
            **{f'fault: {name}': f'{n} times' for name, n in sorted(self.faults.items())},
            'latency': f'{median(ms):.0f} ms median, {max(ms):.0f} ms at most',
            'memory': f'{self.memory[0].resident_mb:.1f} MB at the start, '
            f'{self.warm_mb:.1f} after {self.config.warm_up_s:.0f} s, '
            f'{self.end_mb:.1f} at the end ({self.growth:+.2%})',
        }
        return '\n'.join(f'{name:<28} {value}' for name, value in rows.items())


def balanced(health: Health) -> bool:
    """
    Whether received = published + dropped, but for as many as can wait.

    A frame counted twice makes that negative, one that got lost stays in it for ever.
    """
    done = health.count('frames published') + sum(health.dropped.values())
    waiting = health.count('frames received') - done
    return 0 <= waiting <= MOST_WAITING and waiting == health.count('frames waiting')


def _lost(given: int, taken: int) -> bool:
    """Whether messages came from nowhere, or more were lost than a busy machine explains."""
    return not (1 - MAX_LOST) * given <= taken <= given
