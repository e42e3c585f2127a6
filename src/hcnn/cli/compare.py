"""The command `hcnn compare`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from hcnn.bench import comparison as compare
from hcnn.models.hierarchical import list_models


@dataclass(frozen=True)
class Compare:
    """Set our results beside the publications': a table in Markdown and CSV, and a plot.

    Example: hcnn compare results --output results
    """

    results: tyro.conf.Positional[Path] = Path("results")
    """A folder searched for result.json."""
    output: Path | None = None
    """Where comparison.md, .csv and .png go; the folder of results if not given."""
    measure: bool = False
    """Measure images/s of every network at 32x32 on this machine first, and keep them in throughput.json."""
    batch: int = 20
    """Images a step while measuring."""
    seconds: float = 2.0
    """For each measurement."""
    threads: int | None = None
    """CPU threads of torch; its own choice if not given."""


def run(command: Compare, console: Console) -> None:
    """Read, measure if asked, write."""
    if command.batch < 1 or not command.seconds > 0:
        raise ValueError(
            f"--batch and --seconds: expected at least one image and some time; got {command.batch}, {command.seconds}"
        )
    if command.threads is not None:
        if command.threads < 1:
            raise ValueError(f"--threads: expected 1 or more; got {command.threads}")
        torch.set_num_threads(command.threads)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    results = compare.read_results(command.results, say)
    if command.measure:
        names = [
            name
            for name in dict.fromkeys(f"{system.model}_cifar10" for system in compare.SYSTEMS)
            if name in list_models()
        ]
        throughput = compare.measure_all(names, batch=command.batch, seconds=command.seconds, say=say)
        say(f"wrote {compare.save_throughput(throughput, command.results)}")
    throughput = compare.load_throughput(command.results)
    rows = compare.make_rows(results, throughput)
    named = {f"{system.model}_{data}" for system in compare.SYSTEMS for data in compare.DATA}
    for one in results:
        if one.model not in named or one.data not in compare.DATA:
            say(f"no row for {one.path}: {one.model or 'a network without a name'} on {one.data}")
    for row in rows:
        say(f"{row.system.title}: {row.accuracy if row.accuracies else ''} {row.run}".replace(":  ", ": "))
    for path in compare.write_comparison(rows, throughput, command.output or command.results):
        say(f"wrote {path}")


ACTIONS: dict[type, Callable[[Any, Console], None]] = {Compare: run}
