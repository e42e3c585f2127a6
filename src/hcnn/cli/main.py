"""The command `hcnn`. Only `hcnn.cli` prints."""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from hcnn.cli.commands import COMMANDS
from hcnn.cli.options import with_options
from hcnn.cli.signals import Terminated, raising_terminated
from hcnn.cli.terminal import discard_output, make_console, prepare_streams, say
from hcnn.text import suggest_name


def overview() -> str:
    """The commands with a line each, as `hcnn` alone prints them."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hcnn COMMAND [options]",
            "",
            "Hierarchical Attribute CNNs: train, evaluate, predict, explore.",
            "",
            *lines,
            "",
            "hcnn COMMAND --help lists the options of a command; hcnn --version prints the version.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: instead of those of the process.

    Returns:
        The exit code: 0, 2 for bad input, 130 after SIGINT, 143 after SIGTERM.

    Raises:
        SystemExit: with code 0 after the help of a command, 2 for options that cannot be parsed.
    """
    prepare_streams()
    words, code = list(sys.argv[1:] if arguments is None else arguments), 0
    try:
        try:
            code = _run(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        discard_output()
    except OSError as error:  # of the last flush: no room on the device, for example
        discard_output()
        return code or _fail(error)  # a failure before it has been said already
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if words[0] == "--version":
        from hcnn import __version__

        sys.stdout.write(f"hcnn {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        return _fail(f"unknown command {words[0]!r}; {suggest_name(words[0], COMMANDS)}")
    try:
        with raising_terminated():
            return _carry_out(words, make_console())
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Terminated:
        return _fail("terminated", 143)


def _carry_out(words: list[str], console: Console) -> int:
    command, options = COMMANDS[words[0]], None
    try:
        options = command.read(words[0], words[1:])
        command.run(options, console)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _explain(error, words, options)
    return 0


def _explain(error: Exception, words: list[str], options: Any) -> int:
    """Print the errors that are a user's to mend; any other is a fault of this package and is raised again."""
    from hcnn.runs.interrupts import Interrupted
    from hcnn.storage.run_lock import RunFolderBusy

    if isinstance(error, Interrupted):
        more = ["--resume"]
        if words[0] == "demo" and not any(word.partition("=")[0] == "--output" for word in words):
            more += ["--output", str(options.output)]  # which it chose itself
        again = with_options([word for word in words if word != "--resume"], more)
        return _fail(f"{error}\n  to resume: {shlex.join(['hcnn', *again])}", error.exit_code)
    if isinstance(error, ValueError) and words[0] not in ("train", "tune", "predict"):  # the others lack the option
        return _fail(str(error).replace(" (on_bad='skip' leaves such files out)", ""))
    if isinstance(error, ValueError | OSError | ImportError | MemoryError | RunFolderBusy):
        return _fail(error)
    raise error


# How errors of the library name an argument, and what it is called here.
_OPTIONS = {
    "on_bad='skip'": "--bad-images skip",
    "channels='first'": "--channels first",
    "channels='last'": "--channels last",
    "as data_dir)": "as --data-dir)",
}


def _fail(reason: object, code: int = 2) -> int:
    text = "not enough memory" if isinstance(reason, MemoryError) and not str(reason) else str(reason)
    if isinstance(reason, OSError) and reason.strerror:
        path = reason.filename.decode(errors="replace") if isinstance(reason.filename, bytes) else reason.filename
        text = f"{path}: {reason.strerror}" if path else reason.strerror
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    with contextlib.suppress(OSError):  # nobody may be reading standard error
        say(make_console(stderr=True), f"hcnn: {text}", "red")
    return code
