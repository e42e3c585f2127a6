"""One HTML file with the results of `hcnn explore`, which contains all pictures, numbers and views."""

import base64
import html
import io
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from hcnn.explore.answers import answers
from hcnn.explore.explorer import Explorer, picture
from hcnn.explore.figures import default_queries
from hcnn.explore.findings import findings
from hcnn.explore.page.views import View, describe, view
from hcnn.explore.study import Study
from hcnn.storage.atomic import write_atomically
from hcnn.text import printable

_LIMIT = 20_000_000  # bytes
_APPROXIMATE = " In this network, which pads with zeros, such a move is an approximation."
_OWN = """<h2>Your own image</h2>
<p class="note">The network of this report runs here, on your device. You can also drop or paste a picture anywhere.</p>
<iframe id="own" title="Your own image: the network of this report" srcdoc="{page}"></iframe>"""
_SIDE = 64  # pixels of a small picture at most
_NEIGHBOURS = 5  # of a row
_FIGURES = {
    "consistency.png": "How often the nearest image has the query's class, by depth, without and with a translation. "
    "If the order of an attribute means something, the solid line leaves the band of the dashed one: shuffled orders.",
    "smoothness.png": "How far an array moves when it is translated, and whether neighbouring values of an attribute "
    "are more alike than others (roughness below 1).",
    "flatness.png": "How much class scores change when the array inside the network is translated.",
    "properties.png": "Does an attribute stand for a property? Images were changed by known amounts. Each cell is the "
    "correlation between the amount and the shift that explains the change best; a frame marks cells that are beyond "
    "every control.",
    "figure-3.png": "Figure 3 of the paper: the nearest images after a translation, with their arrays beneath.",
    "figure-4.png": "Figure 4 of the paper: the nearest images by depth and translation.",
}


def static(name: str) -> str:
    """The text of a file of the page."""
    return resources.files("hcnn.explore.page").joinpath("static", name).read_text(encoding="utf-8")


def write_report(explorer: Explorer, study: Study, folder: Path, *, network_page: str | None = None) -> Path:
    """Write report.html, with views of an image of each of four classes, into a folder that holds a study's figures.

    Args:
        explorer: the run with its database.
        study: the results.
        folder: the folder with the study's PNGs; those that are there become part of the report.
        network_page: an HTML page that runs the network in a browser (`hcnn.export.html_file.network_page`), which
            becomes part of the report, so that it answers for a reader's own image.

    Returns:
        The file.

    Raises:
        ValueError: if the file would be larger than 20 MB.
    """
    queries = default_queries(explorer)
    views: dict[str, View] = {}
    for query in queries:
        for j in explorer.depths:
            axis = f"v{j - 1}"
            one = view(explorer, query, j, {axis: 1}, axis, k=_NEIGHBOURS)
            one["rows"] = [row for row in one["rows"] if row["kind"] != "now"]
            views[f"{query}/{j}"] = one
    shown = set(queries)
    shown |= {found[0] for one in views.values() for row in one["rows"] for found in row["found"]}
    data = {
        "classes": describe(explorer)["classes"],
        "labels": {query: explorer.label(query) for query in queries},
        "depth": explorer.depths[len(explorer.depths) // 2],
        "thumbs": {image: _uri(small_png(explorer.image(image))) for image in sorted(shown)},
        "views": views,
    }
    text = render(study, data, folder, network_page).encode()
    if len(text) > _LIMIT:
        raise ValueError(f"report: {len(text):,} bytes with {len(queries)} queries; expected at most {_LIMIT:,}")
    path = folder / "report.html"
    write_atomically(path, text)
    return path


def render(study: Study, data: Mapping[str, Any], folder: Path, network_page: str | None = None) -> str:
    """The HTML of a report.

    Args:
        study: the results.
        data: classes, thumbnails and views, as report.js reads them.
        folder: the folder with the study's PNGs.
        network_page: a page to put in a frame of its own, or None.

    Returns:
        A page that contains everything it shows.

    """
    figures = [
        f'<div class="figure" tabindex="0" role="group" aria-label="{name[:-4]}">'
        f'<img alt="{html.escape(text)}" src="{_uri((folder / name).read_bytes())}"></div>'
        f'<p class="note">{html.escape(text)}</p>'
        for name, text in _FIGURES.items()
        if (folder / name).is_file()
    ]
    answered = "".join(
        f"<div><dt>{html.escape(one.question)}</dt>"
        f"<dd><strong>{html.escape(one.short)}.</strong> {html.escape(one.reason)}</dd></div>"
        for one in answers(study, len(data["classes"]))
    )
    sentences = findings(study)
    said = "".join(f"<li>{html.escape(printable(sentence))}</li>" for sentence in sentences)
    return static("report.html").format(
        title=html.escape(printable(f"What the attributes of {study.info['run']} mean")),
        queried=html.escape(printable(f"{study.info['queries']}; {study.info['images']:,} images are searched")),
        style=static("style.css"),
        answers=answered,
        own="" if network_page is None else _OWN.format(page=html.escape(network_page)),
        exact="" if study.info["boundary"] == "circular" else _APPROXIMATE,
        figures="\n".join(figures),
        count=len(sentences),
        findings=said,
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        script=static("view.js") + static("report.js"),
    )


def small_png(image: Tensor) -> bytes:
    """A uint8 image (1 or 3, height, width) as the bytes of a PNG of at most 64 pixels a side: a report holds hundreds.

    Example:
        >>> from PIL import Image
        >>> import torch
        >>> Image.open(io.BytesIO(small_png(torch.zeros(3, 300, 200, dtype=torch.uint8)))).size
        (43, 64)
    """
    small = picture(image, 1)
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
