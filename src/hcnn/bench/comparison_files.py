"""The files of the comparison: tables in Markdown and CSV, and a plot."""

import re
from pathlib import Path
from typing import Any

from hcnn.bench.comparison import DATA, SHORT, Entry
from hcnn.bench.published import SYSTEMS
from hcnn.storage.atomic import write_atomically
from hcnn.text import csv_row, printable

HEAD = (
    "system", "publication: parameters", "CIFAR-10 %", "CIFAR-100 %", "ours: data", "accuracy %", "run",
    "parameters: trained", "for inference", "multiply-adds", "train images/s", "infer images/s",
)  # fmt: skip


def _plain(text: str) -> str:
    """A text from a file as Markdown shows it letter by letter."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", printable(text))


def cells(entry: Entry) -> tuple[str, ...]:
    """The texts of an entry, in the columns that `HEAD` names."""

    def figure(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    def speed(value: tuple[float, float, float] | None) -> str:
        return "–" if value is None else f"{value[0]:,.0f} ({value[1]:,.0f} to {value[2]:,.0f})"

    return (
        entry.system.title, entry.system.parameters or "–", figure(entry.system.cifar10), figure(entry.system.cifar100),
        DATA.get(entry.data, "–"), entry.accuracy, entry.seen, f"{entry.learned:,}", f"{entry.computing:,}",
        f"{entry.multiply_adds / 1e6:,.1f}M", speed(entry.train), speed(entry.infer),
    )  # fmt: skip


def _tables(entries: list[Entry]) -> list[str]:
    """Full runs first, then short runs and systems without a run, each under a heading of its own."""
    sections = {
        "Full runs": [entry for entry in entries if entry.images >= SHORT],
        "Short runs, not reproductions": [entry for entry in entries if 0 < entry.images < SHORT],
        "Not yet trained": [entry for entry in entries if not entry.images],
    }
    lines: list[str] = []
    for title, own in sections.items():
        if own:
            lines += ["", f"## {title}", "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
            lines += ["| " + " | ".join(cells(entry)) + " |" for entry in own]
    return lines


def markdown(entries: list[Entry], throughput: dict[str, Any] | None) -> str:
    """The tables in Markdown, with what their columns mean."""
    lines = ["# Comparison", *_tables(entries)]
    machine = "not measured yet: `hcnn compare --measure`"
    if throughput:
        found = throughput["hardware"]
        processor, version = _plain(found["processor"]), _plain(throughput["torch"])
        machine = (
            f"{processor}, {found['threads']} thread(s), torch {version}, batches of {throughput['batch']}, float32, "
            "median (slowest to fastest step)"
        )
    lines += [
        "",
        "## What the columns mean",
        "",
        "The second to fourth columns hold the figures that the publications print. Our accuracy is the mean ± sample",
        'deviation over n runs. "Trained" counts all trained parameters, "for inference" those of the inference',
        "network (composed filters, generated kernels). Multiply-adds are those for one 32x32 image in the inference",
        "network, in the dense form. Images/s are for comparing rows: other work may have shared the machine.",
        f"A run that has seen fewer than {SHORT:,} training images is called short. Runs of a row differ in the seed;",
        "the same weights are counted only once, and other weights of the same seed (another machine) as another run.",
        f"Images/s: {machine}.",
        "",
        "Sources: " + "; ".join(f"{system.title}: {system.source}" for system in SYSTEMS) + ".",
    ]
    return "\n".join(lines) + "\n"


def csv_text(entries: list[Entry]) -> str:
    """The table as CSV, numbers plain."""
    head = (
        "system", "model", "distilled", "published_parameters", "published_cifar10", "published_cifar100", "source",
        "data", "mean", "std", "seeds", "measured_on", "images_seen", "learned", "computing", "multiply_adds",
        "train_images_per_second", "infer_images_per_second",
    )  # fmt: skip
    lines = [csv_row(head)]
    for entry in entries:
        s, spread = entry.system, entry.spread
        cells = (
            s.title, s.model, s.distilled, s.parameters, s.cifar10, s.cifar100, s.source, entry.data,
            round(entry.mean, 4) if entry.accuracies else "", "" if spread is None else round(spread, 4),
            " ".join(map(str, entry.seeds)),
            ("test" if entry.tested else "validation") if entry.accuracies else "not yet trained",
            entry.images or "", entry.learned, entry.computing, entry.multiply_adds,
            entry.train[0] if entry.train else "", entry.infer[0] if entry.infer else "",
        )  # fmt: skip
        lines.append(csv_row(cells))
    return "".join(lines)


def write_comparison(entries: list[Entry], throughput: dict[str, Any] | None, output: Path) -> list[Path]:
    """Write comparison.md and comparison.csv into a folder, and comparison.png where matplotlib is installed.

    Returns:
        The files written.
    """
    output.mkdir(parents=True, exist_ok=True)
    texts = {"comparison.md": markdown(entries, throughput), "comparison.csv": csv_text(entries)}
    for name, text in texts.items():
        write_atomically(output / name, text.encode())
    written = [output / name for name in texts]
    try:
        from hcnn.bench.comparison_plot import plot

        plot(entries, output / "comparison.png")
    except ImportError:
        return written
    return [*written, output / "comparison.png"]
