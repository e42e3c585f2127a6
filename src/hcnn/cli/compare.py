"""`hcnn compare`: our results beside the published ones."""

import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from hcnn.bench.comparison import make_entries, system_of
from hcnn.bench.comparison_files import write_comparison
from hcnn.bench.results import Result, read_results
from hcnn.bench.throughput import THROUGHPUT, compared_networks, load_throughput, measure_all, save_throughput
from hcnn.cli.outputs import COMPARISON, check_head, results_in
from hcnn.cli.terminal import say
from hcnn.cli.train_plan import set_threads
from hcnn.storage.atomic import ensure_writable


def compare(options: Namespace, console: Console) -> None:
    """Read, measure if asked, write."""
    for name in ("batch", "seconds"):
        if getattr(options, name) is not None and not options.measure:
            raise ValueError(f"--{name}: only with --measure")
    batch = 20 if options.batch is None else options.batch
    seconds = 2.0 if options.seconds is None else options.seconds
    if batch < 1 or not 0 < seconds < math.inf:
        raise ValueError(
            f"--batch and --seconds: expected at least one image and a finite time above 0; got {batch}, {seconds}"
        )
    set_threads(options.threads)

    def tell(text: str) -> None:
        say(console, text)

    results = read_results(options.results, tell)
    if options.measure:  # seen before the minutes that it takes
        check_head(ensure_writable(options.results) / THROUGHPUT, b"{")
    with results_in(options.output or options.results, COMPARISON) as output:
        if options.measure:
            trained = [one.model for one in results if one.model is not None]
            measured = measure_all(compared_networks(trained), batch=batch, seconds=seconds, say=tell)
            tell(f"wrote {save_throughput(measured, options.results)}")
        _compare(results, load_throughput(options.results), output, tell)


def _compare(
    results: list[Result], throughput: dict[str, Any] | None, output: Path, tell: Callable[[str], None]
) -> None:
    entries = make_entries(results, throughput)
    for one in results:
        if system_of(one) is None:
            taught = ", distilled" if one.distilled else ""
            tell(f"no row for {one.path}: {one.model or 'a network without a name'} on {one.data}{taught}")
    for entry in entries:
        tell(f"{entry.system.title}: {entry.accuracy if entry.accuracies else ''} {entry.run}".replace(":  ", ": "))
    for path in write_comparison(entries, throughput, output):
        tell(f"wrote {path}")
