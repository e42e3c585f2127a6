"""`hcnn compare`: our results beside the published ones."""

import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from hcnn.bench.comparison import DATA, make_entries
from hcnn.bench.comparison_files import write_comparison
from hcnn.bench.published import SYSTEMS
from hcnn.bench.results import Result, read_results
from hcnn.bench.throughput import compared_networks, load_throughput, measure_all, save_throughput
from hcnn.cli.outputs import COMPARISON, results_in
from hcnn.cli.terminal import say
from hcnn.cli.train_plan import set_threads


def compare(options: Namespace, console: Console) -> None:
    """Read, measure if asked, write."""
    if options.batch < 1 or not 0 < options.seconds < math.inf:
        raise ValueError(
            f"--batch and --seconds: expected at least one image and a finite time above 0; got {options.batch}, "
            f"{options.seconds}"
        )
    set_threads(options.threads)

    def tell(text: str) -> None:
        say(console, text)

    results = read_results(options.results, tell)
    with results_in(options.output or options.results, COMPARISON) as output:
        _compare(options, results, output, tell)


def _compare(options: Namespace, results: list[Result], output: Path, tell: Callable[[str], None]) -> None:
    if options.measure:
        trained = [one.model for one in results if one.model is not None]
        measured = measure_all(compared_networks(trained), batch=options.batch, seconds=options.seconds, say=tell)
        tell(f"wrote {save_throughput(measured, options.results)}")
    throughput = load_throughput(options.results)
    entries = make_entries(results, throughput)
    named = {system.network(data) for system in SYSTEMS for data in DATA}
    for one in results:
        if one.model not in named or one.data not in DATA:
            tell(f"no row for {one.path}: {one.model or 'a network without a name'} on {one.data}")
    for entry in entries:
        tell(f"{entry.system.title}: {entry.accuracy if entry.accuracies else ''} {entry.run}".replace(":  ", ": "))
    for path in write_comparison(entries, throughput, output):
        tell(f"wrote {path}")
