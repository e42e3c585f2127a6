"""The report of `hcnn bench`: tables in Markdown, and two plots."""

from pathlib import Path
from typing import Any

from hcnn import plotting as drawing
from hcnn.bench.published import SYSTEMS

_PUBLISHED = {row.network("cifar10"): row.cifar10 for row in SYSTEMS if row.cifar10 and not row.distilled}
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#777777"


def _label(row: dict[str, Any]) -> str:
    settings = ", ".join(str(value) for value in row["overrides"].values())
    return f"{row['name']}{f' ({settings})' if settings else ''}"


def _way(row: dict[str, Any]) -> str:
    if row["two_step"]:
        return f"two-step {row['dtype']}"
    return f"{row['method']} {row['dtype']}{'' if row.get('native', True) else ', PyTorch only'}"


def markdown(record: dict[str, Any]) -> str:
    """The tables of a record.

    Args:
        record: from `hcnn.bench.suite.run_suite`.

    Returns:
        Markdown.
    """
    hardware, versions = record["hardware"], record["versions"]
    lines = [
        f"Measured on {record['date']}: {hardware.get('gpu', hardware['processor'])}, {hardware['threads']} threads, "
        f"PyTorch {versions['torch']}, Python {versions['python']}, commit {str(record['commit'])[:12]}"
        + (", freed memory kept by the process." if record["freed_memory_kept"] else ".")
        + f" Native kernels: {record.get('native_kernels', 'none')}.",
        "",
        "| limits of the machine | convolution, G/s | matrix product, G/s | copy, GB/s |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {one['dtype']} | {one['convolution'] / 1e9:.0f} | {one['product'] / 1e9:.0f} | {one['copy'] / 1e9:.0f} |"
        for one in record["limits"]
    ]
    lines += ["", "(G/s: 10⁹ multiply-adds a second.)", ""]
    lines += _speeds(record["methods"])
    lines += _native(record["methods"])
    if record["default_allocator"]:
        lines += ["", "The same with the default allocator:", ""]
        lines += _speeds(record["default_allocator"])
    if record["memory"]:
        lines += ["", "| network | computed | batch | peak memory of a training step, MB |", "|---|---|---:|---:|"]
        lines += [
            f"| {_label(one)} | {_way(one)} | {one['batch']} | {one['bytes'] / 1e6:.0f} |" for one in record["memory"]
        ]
    lines += ["", "Other networks, 32×32, float32; accuracy on CIFAR-10 as their publications print it:", ""]
    lines += ["| network | published, % | inference, images/s | training, images/s |", "|---|---:|---:|---:|"]
    for one in record["networks"]:
        speeds = f"{one['inference']:.0f} | {one['training']:.0f}"
        lines.append(f"| {one['name']} | {_PUBLISHED.get(one['name'], '–')} | {speeds} |")
    lines += ["", "| growth | value | batch | multiply-adds (dense form) | inference, images/s |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for row in record["growth"]:
        lines.append(
            f"| {row['axis']} | {_value(row)} | {row['batch']} | {row['dense_multiply_adds'] / 1e6:,.0f} M "
            f"| {row['images_per_second']:,.1f} |"
        )
    return "\n".join(lines) + "\n"


def _speeds(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| network | computed | batch | inference, images/s | ratio | training, images/s | ratio |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        if row["train"]:
            continue
        train = next(one for one in rows if one["train"] and _key(one) == _key(row))
        cells = [
            f"{one['images_per_second']:.1f} ({one['low']:.1f}–{one['high']:.1f}) | {one['ratio']:.1f}"
            for one in (row, train)
        ]
        lines.append(f"| {_label(row)} | {_way(row)} | {row['batch']} | {' | '.join(cells)} |")
    return lines


def _key(row: dict[str, Any]) -> list[Any]:
    """What was computed and how, whether in training or not."""
    return [*(row[name] for name in ("name", "overrides", "two_step", "method", "dtype")), row.get("native", True)]


def _native(rows: list[dict[str, Any]]) -> list[str]:
    """What the native kernels gain over PyTorch's forms: nothing where they were not there."""
    lines = []
    for off in rows:
        if off["train"] or off.get("native", True):
            continue
        pair = [[one for one in rows if _key(one)[:-1] == _key(off)[:-1] and one["train"] == train] for train in (0, 1)]
        cells = []
        for both in pair:
            without, native = (next(one for one in both if one["native"] == on)["images_per_second"] for on in (0, 1))
            cells.append(f"{without:.1f} | {native:.1f} | {native / without:.2f}")
        lines.append(f"| {_label(off)} | {off['batch']} | {' | '.join(cells)} |")
    if not lines:
        return []
    head = "| float32 | batch | inference, PyTorch | native | ratio | training, PyTorch | native | ratio |"
    return ["", "What the native kernels gain, images/s:", "", head, "|---|---:|---:|---:|---:|---:|---:|---:|", *lines]


def _value(row: dict[str, Any]) -> int:
    return {
        "K": row["overrides"].get("width", 8),
        "side": row["side"],
        "J": row["overrides"].get("depth", 12),
        "batch": row["batch"],
    }[row["axis"]]


def pictures(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the roofline and the growth curves.

    Args:
        record: from `hcnn.bench.suite.run_suite`.
        folder: the folder for roofline.png and growth.png.

    Returns:
        The files.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    plt = drawing.pyplot()
    rows = [row for row in record["methods"] if not row["train"]]
    labels = list(dict.fromkeys(_label(row) for row in rows))
    figure, axes = plt.subplots(figsize=(3 + 1.3 * len(labels), 4.6), layout="constrained")
    ways = list(dict.fromkeys(_way(row) for row in rows))
    palette = (_GREY, _BLUE, "#56b4e9", _GREEN, _ORANGE, "#e69f00", "#cc79a7", "black")
    colours = dict(zip(ways, palette, strict=False))
    for row in rows:
        way = _way(row)
        axes.plot(
            labels.index(_label(row)) + 0.1 * (ways.index(way) - len(ways) / 2),
            row["images_per_second"] * row["dense_multiply_adds"] / 1e9,
            marker="s" if row["two_step"] else "o",
            linestyle="none",
            color=colours[way],
            label=way,
        )
    for one, style in zip(record["limits"], ("--", ":"), strict=False):
        best = max(one["convolution"], one["product"]) / 1e9
        label = f"best plain convolution\nor product, {one['dtype']}"
        axes.axhline(best, color="black", linewidth=1, linestyle=style, label=label)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(
        yscale="log", ylabel="10⁹ multiply-adds of the dense form per second", title="Inference against the machine"
    )
    axes.set_xticks(range(len(labels)), [label.replace(" (", "\n(") for label in labels], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    paths = [folder / "roofline.png", folder / "growth.png"]
    drawing.save(figure, paths[0])
    groups = list(dict.fromkeys(row["axis"] for row in record["growth"]))
    titles = {"K": "values per attribute, K", "side": "side of the image", "J": "depth, J", "batch": "batch"}
    figure, grid = plt.subplots(1, len(groups), figsize=(3 * len(groups), 2.8), layout="constrained", squeeze=False)
    for axes, axis in zip(grid[0], groups, strict=True):
        own = [row for row in record["growth"] if row["axis"] == axis]
        values = [_value(row) for row in own]
        axes.plot(values, [1e3 / row["images_per_second"] for row in own], color=_BLUE, marker="o")
        axes.set(xscale="log", xlabel=titles[axis], ylabel="ms per image")
        axes.margins(y=0.12)
        if axis in ("K", "side"):  # over orders of magnitude
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Inference, float32: one axis at a time away from K = 8, J = 12, 32×32", fontsize=10)
    drawing.save(figure, paths[1])
    return paths
