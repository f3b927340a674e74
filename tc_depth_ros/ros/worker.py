"""One thread that works on the latest item; older ones that it has not begun are dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar('Item')


class LatestWorker(Generic[Item]):
    """A one-slot mailbox and the thread that empties it."""

    def __init__(self, work: Callable[[Item], None], on_drop: Callable[[Item], None]) -> None:
        """
        Start the thread.

        :param work: called in the thread with an item; what it raises ends the thread
        :param on_drop: called with an item that a newer one, or the end, has replaced
        """
        self._work = work
        self._on_drop = on_drop
        self._slot: Item | None = None
        self._stopping = False
        self._begun_s: float | None = None  # monotonic, of the item at work
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name='tc_depth_worker', daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over an item; never waits for the work. After the end it is dropped."""
        with self._changed:
            if self._stopping:
                replaced: Item | None = item
            else:
                replaced, self._slot = self._slot, item
            self._changed.notify()
        if replaced is not None:
            self._on_drop(replaced)

    @property
    def at_work_s(self) -> float:
        """For how long the item at work has been; 0 if there is none."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    def stop(self, timeout_s: float | None = None) -> bool:
        """
        Finish the item at work, drop the one waiting, end the thread.

        :param timeout_s: None waits for the work however long it takes
        :return: whether the work ended in time
        """
        with self._changed:
            self._stopping = True
            waiting, self._slot = self._slot, None
            self._changed.notify()
        if waiting is not None:
            self._on_drop(waiting)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._take()) is not None:
            self._begun_s = time.monotonic()
            self._work(item)
            self._begun_s = None

    def _take(self) -> Item | None:
        with self._changed:
            while self._slot is None and not self._stopping:
                self._changed.wait()
            item, self._slot = self._slot, None
            return item
