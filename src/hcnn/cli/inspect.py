"""`hcnn summary` and `hcnn models`: what networks are made of."""

from argparse import Namespace

from rich.console import Console
from rich.table import Table

from hcnn.cli.terminal import say
from hcnn.models.counts import count_parameters
from hcnn.models.factory import build
from hcnn.models.registry import list_models, model_spec
from hcnn.models.summary import summarize


def summary(options: Namespace, console: Console) -> None:
    """Print a table of a network's layers."""
    spec = model_spec(options.model)
    model = build(spec.config)
    side = spec.image_size[0] if options.image_size is None else options.image_size
    if side < 1:
        raise ValueError(f"--image-size: expected a positive number; got {side}")
    rows = summarize(model, (side,) * model.config.spatial_axes)
    with_attributes = model.array_count > 0
    boundary = f"boundary {model.config.boundary}, " if with_attributes else ""
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
        config = model_spec(name).config
        counts = count_parameters(build(config))
        width, rank, depth = (str(getattr(config, field, "-")) for field in ("width", "rank", "depth"))
        table.add_row(
            name, width, rank, depth, str(config.classes), f"{counts.trained:,}", f"{counts.composed:,}",
        )  # fmt: skip
    console.print(table)


def _plain_table(title: str | None = None) -> Table:
    return Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
