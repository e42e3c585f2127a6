"""The command `hcnn bench`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hcnn.storage.atomic import ensure_writable, write_atomically, write_json


@dataclass(frozen=True)
class Bench:
    """Time every method against the two-step network and the limits of this machine.

    Example: hcnn bench --quick --output runs/bench
    """

    output: Path = Path("runs/bench")
    """Where bench.json, bench.md and the pictures go."""
    quick: bool = False
    """Small batches and few sizes: a check that it works, not a measurement."""
    device: str = "cpu"
    """cpu or cuda."""
    rounds: int = 3
    """How often each step is timed, in turns."""


def run(command: Bench, console: Console) -> None:
    """Run the suite and write what it gave."""
    from hcnn.bench import report, run_suite

    if command.rounds < 1:
        raise ValueError(f"--rounds: expected 1 or more; got {command.rounds}")
    if command.device not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda; got {command.device}")
    folder = ensure_writable(command.output)
    record = run_suite(
        quick=command.quick,
        device=command.device,
        rounds=command.rounds,
        say=lambda text: console.print(f"timing {text}", highlight=False),
    )
    write_json(folder / "bench.json", record)
    text = report.markdown(record)
    write_atomically(folder / "bench.md", text.encode())
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    try:
        drawn = report.pictures(record, folder)
    except ImportError as error:
        console.print(f"no pictures: {error}")
        drawn = []
    for path in (folder / "bench.json", folder / "bench.md", *drawn):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


ACTIONS: dict[type, Callable[[Any, Console], None]] = {Bench: run}
