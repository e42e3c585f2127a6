"""Standard streams and what is written to them: lines that are never wrapped in a file, names that are only data."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

from hcnn.text import printable

_UNBOUNDED = 1 << 20  # columns of a file or a pipe


def prepare_streams() -> None:
    """Give the process three usable standard streams, in which every text can be written.

    A scheduler may start a process with some of them closed; Python then sets them to None, and the next file that is
    opened would get their descriptor. They become the null device. What the encoding of a stream lacks is escaped, so
    that no message or help text ends a command in a terminal with an old code page.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - lives as long as we do
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


def discard_output(stream: Any = None) -> None:
    """Send what is still buffered for a stream to the null device, so that nothing fails at exit.

    Args:
        stream: standard output, if it is not given.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a test's stream has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (stream or sys.stdout).fileno())
        os.close(nowhere)


class _PatientConsole(Console):
    """A console whose reader may go, as `head` does: the command still writes its files, and says nothing more.

    Rich would end the process, without a word and in the middle of a training run.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output(self.file)


def make_console(*, stderr: bool = False) -> Console:
    """A console that parses no markup, and wraps lines only where a person watches them."""
    stream: Any = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNBOUNDED
    return _PatientConsole(stderr=stderr, width=width, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say(console: Console, text: object, style: str = "") -> None:
    """Print a message as whole lines, with control characters escaped.

    A message's own line breaks are those that are followed by two spaces, as in its lists; every other one comes from
    a name and is escaped too.
    """
    lines = [printable(line) for line in str(text).split("\n  ")]
    console.print(Text("\n  ".join(lines), style=style), soft_wrap=True)


@contextlib.contextmanager
def progress_bar(console: Console, *columns: ProgressColumn, shown: bool = True) -> Iterator[Progress]:
    """A progress bar for a person who watches; nothing in a file or a pipe."""
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield bar


@contextlib.contextmanager
def status(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, for a person who watches. Yields a function that changes it."""
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(Text(text)) as line:
        yield lambda text: line.update(Text(printable(text)))
