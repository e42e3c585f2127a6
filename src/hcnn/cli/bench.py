"""`hcnn bench`: every method against the two-step network, on this machine."""

from argparse import Namespace

from rich.console import Console

from hcnn.cli.outputs import BENCH, results_in
from hcnn.cli.terminal import say
from hcnn.storage.atomic import write_atomically, write_json
from hcnn.training.device import find_device


def bench(options: Namespace, console: Console) -> None:
    """Run the suite and write what it gave."""
    from hcnn.bench import report, run_suite

    if options.rounds < 1:
        raise ValueError(f"--rounds: expected 1 or more; got {options.rounds}")
    if options.device not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda; got {options.device}")
    find_device(options.device)
    with results_in(options.output, BENCH) as folder:
        record = run_suite(
            quick=options.quick,
            device=options.device,
            rounds=options.rounds,
            say=lambda text: say(console, f"timing {text}"),
        )
        write_json(folder / "bench.json", record)
        text = report.markdown(record)
        write_atomically(folder / "bench.md", text.encode())
        console.print(text)
        try:
            drawn = report.pictures(record, folder)
        except ImportError as error:
            say(console, f"no plots: {error}")
            drawn = []
    for path in (folder / "bench.json", folder / "bench.md", *drawn):
        say(console, f"wrote {path}")
