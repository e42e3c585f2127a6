"""`hcnn summary` and `hcnn models`: what networks are made of."""

from argparse import Namespace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hcnn.cli.terminal import say
from hcnn.export.opening import open_network
from hcnn.models.counts import count_parameters
from hcnn.models.factory import build
from hcnn.models.network import Network
from hcnn.models.pretrained import list_pretrained, pretrained_record
from hcnn.models.registry import list_models, model_spec
from hcnn.models.summary import summarize
from hcnn.text import printable


def summary(options: Namespace, console: Console) -> None:
    """Print a table of a network's layers."""
    model, size = _find(options.model)
    if options.image_size is not None:
        if options.image_size < 1:
            raise ValueError(f"--image-size: expected a positive number; got {options.image_size}")
        size = (options.image_size,) * model.config.spatial_axes
    rows = summarize(model, size)
    with_attributes = model.array_count > 0
    boundary = f"boundary {model.config.boundary}, " if with_attributes else ""
    shape = "x".join(map(str, (model.config.channels, *size)))
    table = _plain_table(f"{printable(options.model)}, {boundary}images {shape}")
    for column in ("j", "attributes", "v, u sizes") if with_attributes else ("layer", "sizes"):
        table.add_column(column, no_wrap=True)
    for column in ("support", "stride"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", "composed", "norm.", "mult-adds"):
        table.add_column(column, justify="right", no_wrap=True)

    def times(values: tuple[int, ...]) -> str:
        return "x".join(map(str, values)) or "-"

    for row in rows:
        attributes = [row.axes.replace(",", "").split(" u1")[0]] if with_attributes else []
        table.add_row(
            row.name, *attributes, times(row.sizes), times(row.support), times(row.stride), f"{row.trained:,}",
            f"{row.composed:,}", f"{row.normalization:,}", f"{row.multiply_adds / 1e6:,.1f}M",
        )  # fmt: skip
    table.add_section()
    totals = [sum(getattr(row, f) for row in rows) for f in ("trained", "composed", "normalization", "multiply_adds")]
    table.add_row(
        *(("", "total", "") if with_attributes else ("total", "")),
        "",
        "",
        *(f"{total:,}" for total in totals[:3]),
        f"{totals[3] / 1e6:,.1f}M",
    )
    console.print(table)
    if with_attributes:
        say(console, "support and stride: along the attributes, then along space")
        say(console, "norm.: normalization parameters, and at j = J the logit scale")
    else:
        say(console, "norm.: normalization parameters")
    say(console, f"mult-adds: for one image{', dense form' if with_attributes else ''}")


def _find(name: str) -> tuple[Network, tuple[int, ...]]:
    """The network of a run, a Hub folder or a name, and the size of its images."""
    if not Path(name).exists() and (name in list_models() or Path(name).name == name):
        spec = model_spec(name)
        return build(spec.config), (spec.image_size[0],) * spec.config.spatial_axes
    run = open_network(name)
    if getattr(run.model, "folded", False):
        raise ValueError(
            f"{name}: these are folded weights, without the layers of training; name the run or its network"
        )
    return run.model, run.preprocessing.size


def models(options: Namespace, console: Console) -> None:
    """Print a table of the named networks."""
    table = _plain_table()
    for column in ("name", "K", "Q", "J", "classes"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", "composed", "MACs", "shipped"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in list_models():
        spec = model_spec(name)
        with torch.device("meta"):  # what is counted needs no weights
            model = build(spec.config)
            counts = count_parameters(model)
            work = model.multiply_adds((spec.image_size[0],) * spec.config.spatial_axes)
        width, rank, depth = (str(getattr(spec.config, field, "-")) for field in ("width", "rank", "depth"))
        table.add_row(
            name, width, rank, depth, str(spec.config.classes), f"{counts.trained:,}", f"{counts.composed:,}",
            f"{work / 1e6:,.{1 if work < 1e7 else 0}f}M", _accuracy(name),
        )  # fmt: skip
    console.print(table)
    say(console, "MACs: multiply-adds for one image of the size that the network is meant for")
    say(console, "shipped: the package has trained weights; their accuracy, measured on the test images")


def _accuracy(name: str) -> str:
    """The test accuracy of the weights that ship with the package, or "-"."""
    if name not in list_pretrained():
        return "-"
    return f"{pretrained_record(name)['result']['test_accuracy']:.2%}"


def _plain_table(title: str | None = None) -> Table:
    return Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
