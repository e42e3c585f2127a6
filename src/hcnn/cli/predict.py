"""`hcnn predict`: classes of images, as text, a table, JSON lines or CSV."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console

from hcnn.cli.terminal import make_console, say
from hcnn.data.image_sources import find_images
from hcnn.export.opening import open_network
from hcnn.prediction import Prediction, predict_stream
from hcnn.text import csv_row, printable


def predict(options: Namespace, console: Console) -> None:
    """Classify images and write a line for each."""
    for name, value in (("top", options.top), ("batch-size", options.batch_size)):
        if value < 1:
            raise ValueError(f"--{name}: expected a positive number; got {value}")
    run = open_network(options.run)
    sources = find_images(options.images, sys.stdin.buffer)
    errors = make_console(stderr=True)
    on_bad = (lambda reason: say(errors, f"skipped {reason}")) if options.bad_images == "skip" else None
    stream = predict_stream(
        run, sources, top=options.top, batch_size=options.batch_size, channels=options.channels, on_bad=on_bad
    )
    top = min(options.top, len(run.preprocessing.classes))
    try:
        for line in prediction_lines(stream, options.format, top, run.preprocessing.classes):
            sys.stdout.write(line)
    except FileNotFoundError as error:
        if Path("-") not in options.images:
            raise
        expected = "standard input is expected to hold one image, or a path on each line"
        raise ValueError(f"{error.filename}: no such file; {expected}") from error
    sys.stdout.flush()
    if left_out := sources.describe_left_out():
        say(errors, left_out)


def prediction_lines(stream: Iterable[Prediction], form: str, top: int, classes: tuple[str, ...]) -> Iterator[str]:
    """The output, line by line: names on one line each where people read, unchanged but quoted in JSON and CSV."""
    if form == "csv":
        yield csv_row(["file", *(f"{what}_{n}" for n in range(1, top + 1) for what in ("class", "probability"))])
        for one in stream:
            yield csv_row([one.name, *(word for name, p in one.best for word in (name, f"{p:.6f}"))])
        return
    width = max(cell_len(printable(name)) for name in ("class", *classes))
    if form == "table":
        yield "  ".join([f"{'class':{width}} {'prob.':>7}"] * top) + "  file\n"
    for one in stream:
        file, best = printable(one.name), [(printable(name), p) for name, p in one.best]
        if form == "json":
            entries = [{"class": name, "probability": round(p, 6)} for name, p in one.best]
            yield json.dumps({"file": one.name, **entries[0], "top": entries}, allow_nan=False) + "\n"
        elif form == "table":
            yield "  ".join(f"{name}{' ' * (width - cell_len(name))} {p:>7.1%}" for name, p in best) + f"  {file}\n"
        else:
            yield f"{file}: " + "  ".join(f"{name} {p:.1%}" for name, p in best) + "\n"
