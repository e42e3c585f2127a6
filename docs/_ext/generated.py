"""Pages that are made from the package and from result files, so that no number in them is typed."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import api_pages
import command_page
import live_pages
import torch
from sphinx.application import Sphinx

import hcnn
from hcnn.bench.comparison import make_entries
from hcnn.bench.comparison_files import write_comparison
from hcnn.bench.results import read_results
from hcnn.bench.throughput import load_throughput
from hcnn.functional import placement
from hcnn.functional.attribute_conv.spectral import spectral_multiply_adds
from hcnn.models.summary import summarize

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")
# The table of the comparison has twelve columns.
WIDE = (
    ".content { width: auto; flex: 1; max-width: 75em; } table { font-size: 0.72rem; line-height: 1.3; }"
    "td.text-right { white-space: normal; } td:nth-child(7) { min-width: 11em; }"
)
KEPT = {".md", ".png", ".svg", ".csv", ".json"}


def models_table() -> str:
    """Every named model: weights as they train and composed, multiply-adds of one image."""
    rows = [
        "| model | trained | composed | normalization | multiply-adds | image |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in hcnn.list_models():
        if not isinstance(hcnn.model_config(name), hcnn.HierarchicalCNNConfig | hcnn.MultiscaleHierarchicalCNNConfig):
            continue  # a baseline, which the comparison shows
        model = hcnn.create_model(name)
        extent = (8, 8) if "digits" in name else (32, 32)
        count = hcnn.count_parameters(model)
        adds = sum(row.multiply_adds for row in summarize(model, extent))
        rows.append(
            f"| `{name}` | {count.trained:,} | {count.composed:,} | {count.normalization:,} | {adds / 1e6:,.1f} M "
            f"| {model.config.channels}×{extent[0]}×{extent[1]} |"
        )
    return "\n".join(rows) + "\n"


def counts_table() -> str:
    """Multiply-adds per spatial position of each attribute convolution of the CIFAR-10 network, in its three forms."""
    rows = [
        "| layers | attributes | support | inside | dense | spectral, zeros | spectral, periodic |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    model = hcnn.create_model("hcnn_cifar10")
    found: dict[tuple[str, ...], list[int]] = {}
    for j, layer in enumerate(model.layers[1:], start=2):
        support, stride = layer.geometry.attribute_support, layer.geometry.attribute_stride
        sizes = model.attribute_sizes[j - 2][-len(support) :]
        filters, taps = model.attribute_sizes[j - 1][-1], math.prod(layer.geometry.spatial_support)
        axes = list(zip(sizes, support, stride, strict=True))
        inside = math.prod(
            placement(n, k, s, "zeros", device=torch.device("cpu"), dtype=torch.float64).sum().item()
            for n, k, s in axes
        )
        dense = math.prod(n * (n // s) for n, _, s in axes)
        spectral = [
            spectral_multiply_adds(sizes, support, stride, boundary, filters, taps)
            for boundary in ("zeros", "circular")
        ]
        row = ("×".join(map(str, sizes)), "×".join(map(str, support)))
        row += tuple(f"{n / 1e3:,.1f}" for n in (inside * filters * taps, dense * filters * taps, *spectral))
        found.setdefault(row, []).append(j)
    for row, layers in found.items():
        span = f"{layers[0]} … {layers[-1]}" if len(layers) > 1 else f"{layers[0]}"
        rows.append("| " + " | ".join((span, *row)) + " |")
    return "\n".join(rows) + "\n"


def titled(text: str, folder: Path) -> str:
    """A title for tables that a command wrote without one, and the figures that no page of their folder shows."""
    if text.startswith("# "):
        return text
    shown = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.md"))
    figures = [path.name for path in sorted(folder.glob("*.png")) if path.name not in shown]
    return f"# Tables of {folder.name}\n\n{text}\n" + "".join(f"![{name[:-4]}]({name})\n\n" for name in figures)


def comparison(source: Path, target: Path) -> None:
    """The table of `hcnn compare` and its picture, from the results of this checkout."""
    results = read_results(source) if source.is_dir() else []
    throughput = load_throughput(source)
    write_comparison(make_entries(results, throughput), throughput, target)
    page = target / "comparison.md"
    picture = "\n![Accuracy against parameters and multiply-adds](comparison.png)\n"
    style = f"\n```{{raw}} html\n<style>{WIDE}</style>\n```\n"
    wide = "---\nhide-toc: true\n---\n\n"  # its place is the table's
    page.write_text(wide + page.read_text(encoding="utf-8") + picture + style, encoding="utf-8")


def results_pages(source: Path, target: Path) -> str:
    """Copy result pages (Markdown with its figures) and list them."""
    copied: list[Path] = []
    for path in sorted(source.rglob("*")) if source.is_dir() else []:
        if path.suffix in KEPT and path.stat().st_size < 5e6:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                here = path.parent
                keep = lambda m, here=here: m[0] if (here / m[2]).suffix in KEPT and (here / m[2]).exists() else m[1]  # noqa: E731
                place.write_text(titled(LINK.sub(keep, path.read_text(encoding="utf-8")), here), encoding="utf-8")
                copied.append(place.relative_to(target))
            else:
                shutil.copyfile(path, place)
    comparison(source, target)
    copied = [Path("comparison.md"), *(path for path in copied if path != Path("comparison.md"))]
    page = (
        "# Results\n\nThe comparison is made when this site is built, by the code of `hcnn compare`; the other pages "
        "are the files under `results/`.\n\n"
    )
    return (
        page + "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(f"results/{path.as_posix()}" for path in copied) + "\n```\n"
    )


def folder_links(app: Sphinx, page: str, source: list[str]) -> None:
    """A link to a folder of results leads to its page here; to its name only where it has none."""
    docs = Path(app.srcdir)
    results = docs.parent / "results"

    def lead(link: re.Match[str]) -> str:
        folder = ((docs / page).parent / link[2]).resolve()
        if not folder.is_dir() or not folder.is_relative_to(results):
            return link[0]
        readme = f"generated/results/{folder.relative_to(results).as_posix()}/README.md"
        return f"[{link[1]}](/{readme})" if (docs / readme).is_file() else link[1]

    source[0] = LINK.sub(lead, source[0])


def write(app: Sphinx, config: Any) -> None:
    """Write all of them anew."""
    source = Path(app.srcdir)
    target = source / "generated"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    (target / "models.txt").write_text(models_table(), encoding="utf-8")
    (target / "counts.txt").write_text(counts_table(), encoding="utf-8")
    (target / "cli.md").write_text(command_page.command_page(), encoding="utf-8")
    pages = api_pages.api_pages()
    config.autosummary_generate = [f"generated/{name}" for name in pages]  # those of no earlier build too
    for name, text in pages.items():
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    live_pages.write_live_pages(target / "live")
    (target / "results.md").write_text(results_pages(source.parent / "results", target / "results"), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Before Sphinx looks which files there are."""
    app.connect("config-inited", write)
    app.connect("source-read", folder_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
