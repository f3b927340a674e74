"""The mailbox: the latest item wins, and every other is reported dropped, once."""

from __future__ import annotations

import threading
import time

from tc_depth_ros.ros.tally import Tally
from tc_depth_ros.ros.worker import LatestWorker

PATIENCE_S = 10.0


class Bench:
    """A worker whose work waits until it is let go."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.dropped: list[int] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.worker = LatestWorker[int](self._work, self.dropped.append)

    def _work(self, item: int) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        self.done.append(item)


def test_the_latest_item_wins_and_the_others_are_dropped_once() -> None:
    bench = Bench()
    bench.worker.put(0)
    assert bench.begun.acquire(timeout=PATIENCE_S)
    for item in (1, 2, 3):
        bench.worker.put(item)
    bench.go.release(2)
    assert bench.begun.acquire(timeout=PATIENCE_S)
    bench.worker.stop()
    assert bench.done == [0, 3]
    assert bench.dropped == [1, 2]


def test_putting_never_waits_for_the_work() -> None:
    bench = Bench()
    bench.worker.put(0)
    assert bench.begun.acquire(timeout=PATIENCE_S)
    started = time.monotonic()
    for item in range(1, 1000):
        bench.worker.put(item)
    assert time.monotonic() - started < PATIENCE_S / 2
    bench.go.release(2)
    bench.worker.stop()
    assert len(bench.done) + len(bench.dropped) == 1000


def test_stopping_finishes_the_work_and_drops_what_waits() -> None:
    bench = Bench()
    bench.worker.put(0)
    assert bench.begun.acquire(timeout=PATIENCE_S)
    bench.worker.put(1)
    stopper = threading.Thread(target=bench.worker.stop)
    stopper.start()
    # The stop has taken the waiting item out before the work ends
    deadline = time.monotonic() + PATIENCE_S
    while bench.worker._slot is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    bench.go.release()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    assert (bench.done, bench.dropped) == ([0], [1])


def test_an_idle_worker_stops() -> None:
    bench = Bench()
    bench.worker.stop()
    assert (bench.done, bench.dropped) == ([], [])


def test_the_tally_accounts_for_every_frame() -> None:
    tally = Tally()
    for _ in range(5):
        tally.received()
    tally.dropped('late')
    tally.dropped('late')
    tally.published(0.02)
    tally.published(0.04)
    counts = tally.snapshot()
    assert (counts.received, counts.published, counts.dropped) == (5, 2, {'late': 2})
    assert counts.waiting == 1
    assert counts.latency_max_s == 0.04
    assert counts.rate_hz > 0


def test_an_empty_tally_has_numbers_too() -> None:
    counts = Tally().snapshot()
    assert (counts.waiting, counts.rate_hz, counts.latency_median_s) == (0, 0.0, 0.0)
