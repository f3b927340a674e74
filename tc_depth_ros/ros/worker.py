"""One thread that works on the latest item; older ones that it has not begun are dropped."""

from __future__ import annotations

import threading
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
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name='tc_depth_worker', daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over an item; never waits for the work."""
        with self._changed:
            replaced, self._slot = self._slot, item
            self._changed.notify()
        if replaced is not None:
            self._on_drop(replaced)

    def stop(self) -> None:
        """Finish the item at work, drop the one waiting, end the thread."""
        with self._changed:
            self._stopping = True
            waiting, self._slot = self._slot, None
            self._changed.notify()
        self._thread.join()
        if waiting is not None:
            self._on_drop(waiting)

    def _run(self) -> None:
        while (item := self._take()) is not None:
            self._work(item)

    def _take(self) -> Item | None:
        with self._changed:
            while self._slot is None and not self._stopping:
                self._changed.wait()
            item, self._slot = self._slot, None
            return item
