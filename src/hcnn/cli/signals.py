"""SIGTERM as an exception, so that a command that a scheduler ends leaves no temporary files and empty folders."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(BaseException):
    """The process got SIGTERM; like KeyboardInterrupt no Exception, so that nothing takes it for a fault."""


@contextlib.contextmanager
def raising_terminated() -> Iterator[None]:
    """While active, SIGTERM raises `Terminated` in the main thread.

    Training and the server have handlers of their own, which take its place for a time. Where someone else has decided
    what SIGTERM does, and outside the main thread, where Python allows no handlers, nothing changes.

    Example:
        >>> try:
        ...     with raising_terminated():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Terminated:
        ...     print("cleaned up")
        cleaned up
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated
