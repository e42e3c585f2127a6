"""`hcnn evaluate`, `hcnn summary` and `hcnn models`: what a network scores, and what it is made of."""

from argparse import Namespace

from rich.console import Console
from rich.table import Table

from hcnn.cli.terminal import say
from hcnn.data import datasets
from hcnn.models.hierarchical import AttributeNetwork, build, count_parameters, list_models, model_config
from hcnn.models.summary import summarize
from hcnn.prediction import open_network
from hcnn.runs.load import folder_options
from hcnn.training.evaluate import accuracy


def evaluate(options: Namespace, console: Console) -> None:
    """Print the accuracy of a trained network on a test set."""
    run = open_network(options.run)
    name = options.data or run.config.get("data")
    if name is None:
        raise ValueError(f"{options.run}: it keeps no record of its data; name some with --data")
    splits = datasets.load(name, data_dir=options.data_dir, **folder_options(name, run.preprocessing))
    if splits.test is None:
        raise ValueError(f"{name}: it has no test set to evaluate on")
    if splits.test.classes != run.preprocessing.classes:
        raise ValueError(f"{name}: its classes differ from those of the run, {run.preprocessing.classes}")
    images = run.preprocessing.standardize(splits.test.images)
    value = accuracy(run.model, images, splits.test.labels)
    say(console, f"{name}, test: {value:.2%} of {len(images):,} images")


def summary(options: Namespace, console: Console) -> None:
    """Print a table of a network's layers."""
    model = build(model_config(options.model))
    side = options.image_size
    if side is None:
        side = 8 if options.model.endswith("_digits") else 32
    if side < 1:
        raise ValueError(f"--image-size: expected a positive number; got {side}")
    rows = summarize(model, (side,) * model.config.spatial_axes)
    with_attributes = isinstance(model, AttributeNetwork)
    boundary = f"boundary {model.config.boundary}, " if isinstance(model, AttributeNetwork) else ""
    table = _plain_table(f"{options.model}, {boundary}images {model.config.channels}x{side}x{side}")
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


def models(options: Namespace, console: Console) -> None:
    """Print a table of the named networks."""
    table = _plain_table()
    for column in ("name", "K", "Q", "J", "classes"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", "composed"):
        table.add_column(column, justify="right")
    for name in list_models():
        config = model_config(name)
        counts = count_parameters(build(config))
        width, rank, depth = (str(getattr(config, field, "-")) for field in ("width", "rank", "depth"))
        table.add_row(
            name, width, rank, depth, str(config.classes), f"{counts.trained:,}", f"{counts.composed:,}",
        )  # fmt: skip
    console.print(table)


def _plain_table(title: str | None = None) -> Table:
    return Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
