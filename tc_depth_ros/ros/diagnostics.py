"""The node's health: what is wrong, in one sentence with its remedy; and all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from tc_depth_ros.ros.tally import SUPERSEDED, UNWANTED, TallySnapshot

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
LATE_PERIODS = 5  # without an image are worth a warning
LATE_SHARE = 0.4  # of the timeout: but no sooner
LATEST = 10  # frames which, if all are dropped, are an error
OVERLOADED_SHARE = 0.5  # of the frames superseded


@dataclass(frozen=True)
class Condition:
    """What there is to know for one report."""

    fault: str  # what keeps the node from publishing depth, and the remedy; '': nothing
    rejection: str  # why the last frame was dropped that could not be used; '': it could
    tally: TallySnapshot
    image_topic: str
    image_timeout_s: float
    at_work_s: float  # for how long the frame at work has been
    warnings: Sequence[str]  # of what is published but to be doubted


def assess(condition: Condition) -> tuple[bytes, str]:
    """Level and sentence: the worst first."""
    if condition.fault:
        return ERROR, condition.fault
    if condition.at_work_s > condition.image_timeout_s:
        return ERROR, (
            f'one frame has been at work for {condition.at_work_s:.0f} s: if it does not end, '
            'start the node again'
        )
    return _silence(condition) or _losses(condition) or _doubts(condition)


def _silence(condition: Condition) -> tuple[bytes, str] | None:
    """What is to be said where images stay away."""
    tally, timeout_s = condition.tally, condition.image_timeout_s
    said = f'no image on {condition.image_topic} for {tally.silence_s:.1f} s'
    if tally.silence_s > timeout_s:
        return ERROR, f'{said}: is the camera running, and the topic remapped?'
    if not tally.has_images:
        return WARN, f'no image yet on {condition.image_topic}'
    if tally.silence_s > max(LATE_PERIODS * tally.image_period_s, LATE_SHARE * timeout_s):
        return WARN, f'{said}, where one came every {tally.image_period_s:.2f} s'
    return None


def _losses(condition: Condition) -> tuple[bytes, str] | None:
    """What is to be said where images come and no depth does, or little."""
    tally = condition.tally
    latest = tally.outcomes[-LATEST:]
    if len(latest) == LATEST and all(latest) and SUPERSEDED not in latest:
        if latest[-1] == UNWANTED:
            return OK, 'idle: nobody subscribes'
        return ERROR, f'every image is dropped: {condition.rejection or latest[-1]}'
    share = tally.outcomes.count(SUPERSEDED) / max(1, len(tally.outcomes))
    if share > OVERLOADED_SHARE:
        return WARN, (
            f'overloaded: {100 * share:.0f} % of the images give way to newer ones; a frame takes '
            f'{tally.latency_median_s:.2f} s, and one comes every {tally.image_period_s:.2f} s'
        )
    return None


def _doubts(condition: Condition) -> tuple[bytes, str]:
    if condition.warnings:
        return WARN, '; '.join(condition.warnings)
    return OK, 'publishing depth' if condition.tally.published else 'ready'


def diagnostics(
    name: str, stamp: Time, condition: Condition, facts: dict[str, str]
) -> DiagnosticArray:
    """
    Say how the node is.

    :param facts: what else to show: mode, device, metric, …
    """
    level, message = assess(condition)
    tally = condition.tally
    values = facts | {
        'frames received': str(tally.received),
        'frames published': str(tally.published),
        'frames waiting': str(tally.waiting),
        'rate (Hz)': f'{tally.rate_hz:.2f}',
        'latency median (ms)': f'{1e3 * tally.latency_median_s:.1f}',
        'latency max (ms)': f'{1e3 * tally.latency_max_s:.1f}',
    }
    values |= {f'dropped: {cause}': str(n) for cause, n in sorted(tally.dropped.items())}
    status = DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])
