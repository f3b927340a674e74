"""Ctrl-C and a scheduler's SIGTERM: a run ends after its step, with all that it has learned."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_S = 2.0  # later, a second Ctrl-C is meant


class Interrupted(KeyboardInterrupt):
    """
    The process was asked to end.

    A class of its own: of KeyboardInterrupt itself, Python remembers when it came through exec(),
    which bag readers use, and then ends by SIGINT in spite of its being caught.
    """


class Interruption:
    """
    Notes that the process was asked to end.

    Used as a context manager; in another thread than the main one it notes nothing. Until
    :meth:`wait_for_steps` a signal raises Interrupted at once, as Ctrl-C does; from then on
    it only sets ``requested``, until :meth:`wait_no_more`. Schedulers and launchers tell more
    than once, so only Ctrl-C, and only a while later, raises then.
    """

    def __init__(self) -> None:
        self.requested = False
        self.waits = False
        self._requested_s = 0.0

    def __enter__(self) -> Interruption:
        """Take over the signals."""
        # Python lets only the main thread do so
        own = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._note) for number in own}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait_for_steps(self) -> None:
        """From now on, let the step under way end."""
        self.waits = True

    def wait_no_more(self) -> None:
        """Raise at once again; now, where the process was asked meanwhile."""
        self.waits = self.requested
        if self.requested:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        impatient = number == signal.SIGINT and now_s > self._requested_s + AGAIN_S
        told_before = self.requested
        if not told_before:
            self.requested, self._requested_s = True, now_s
        if not self.waits or (told_before and impatient):
            self.waits = True  # with what is to be done after that; the next is told again
            raise Interrupted
