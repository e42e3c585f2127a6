"""`hcnn compare`: our results beside the published ones."""

from argparse import Namespace

from rich.console import Console

from hcnn.bench import comparison
from hcnn.cli.terminal import say
from hcnn.cli.train import set_threads
from hcnn.models.hierarchical import list_models


def compare(options: Namespace, console: Console) -> None:
    """Read, measure if asked, write."""
    if options.batch < 1 or not options.seconds > 0:
        raise ValueError(
            f"--batch and --seconds: expected at least one image and some time; got {options.batch}, {options.seconds}"
        )
    set_threads(options.threads)

    def tell(text: str) -> None:
        say(console, text)

    results = comparison.read_results(options.results, tell)
    if options.measure:
        names = [
            name
            for name in dict.fromkeys(f"{system.model}_cifar10" for system in comparison.SYSTEMS)
            if name in list_models()
        ]
        throughput = comparison.measure_all(names, batch=options.batch, seconds=options.seconds, say=tell)
        tell(f"wrote {comparison.save_throughput(throughput, options.results)}")
    throughput = comparison.load_throughput(options.results)
    rows = comparison.make_rows(results, throughput)
    named = {f"{system.model}_{data}" for system in comparison.SYSTEMS for data in comparison.DATA}
    for one in results:
        if one.model not in named or one.data not in comparison.DATA:
            tell(f"no row for {one.path}: {one.model or 'a network without a name'} on {one.data}")
    for row in rows:
        tell(f"{row.system.title}: {row.accuracy if row.accuracies else ''} {row.run}".replace(":  ", ": "))
    for path in comparison.write_comparison(rows, throughput, options.output or options.results):
        tell(f"wrote {path}")
