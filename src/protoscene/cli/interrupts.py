"""SIGINT, SIGTERM and SIGHUP as one exception, so that everything half-done is taken back.

An exception out of a signal handler is lost where Python happens to run code that cannot raise
(a finaliser, a callback of a C library): :func:`check` raises it again, wherever work goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

MESSAGES = {
    signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"
}  # fmt: skip

_received: list[int] = []


class Interrupted(BaseException):
    """``code`` is the exit code, 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(MESSAGES[signal.Signals(number)])
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, the first signal raises Interrupted and a second one ends the process at once. Under
    nohup a closed terminal changes nothing."""
    _received.clear()
    heeded = set(MESSAGES)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        heeded.remove(signal.SIGHUP)
    before = {number: signal.signal(number, _receive) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def check() -> None:
    """Raises Interrupted where a signal has come."""
    if _received:
        raise Interrupted(_received[0])


def _receive(number: int, _frame: FrameType | None) -> None:
    if _received:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _received.append(number)
    raise Interrupted(number)
