"""The node's health as a message: level, one sentence, and the numbers."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from tc_depth_ros.ros.tally import TallySnapshot

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def diagnostics(
    name: str, stamp: Time, fault: str, tally: TallySnapshot, facts: dict[str, str]
) -> DiagnosticArray:
    """
    Say how the node is.

    :param fault: what keeps it from publishing depth and the remedy; empty if nothing does
    :param facts: what else to show: mode, device, metric, …
    """
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
        level=ERROR if fault else OK if tally.published else WARN,
        name=name,
        message=fault or ('publishing depth' if tally.published else 'no depth published yet'),
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])
