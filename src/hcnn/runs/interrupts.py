"""Stopping a run from outside: SIGTERM and SIGINT let the step in progress end."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """A run was asked to stop, and did so after writing a checkpoint.

    Args:
        number: the signal.
        checkpoint: what was written.
    """

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; checkpoint {checkpoint}")
        self.number, self.checkpoint = number, checkpoint

    @property
    def exit_code(self) -> int:
        """128 plus the signal, as shells count: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number


class StopRequest:
    """While active, remembers the first SIGTERM or SIGINT; a second one ends the process at once.

    Does nothing outside the main thread, where Python allows no handlers. A signal that is ignored stays so, as SIGINT
    is in a job that a script runs in the background.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print(stop.number == signal.SIGTERM)
        True
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
