"""One HTML file of what `hcnn explore` found: pictures, numbers and views inside, nothing fetched."""

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from torch import Tensor

from hcnn.explore.explorer import Explorer, picture
from hcnn.explore.figures import default_queries
from hcnn.explore.findings import findings
from hcnn.explore.page.views import View, describe, view
from hcnn.explore.study import Study
from hcnn.storage.atomic import write_atomically
from hcnn.text import printable

_LIMIT = 20_000_000  # bytes
_SIDE = 64  # of a small picture at most
_FIGURES = {
    "consistency.png": "How often the nearest image has the query's class, by depth: without a shift, and after one. "
    "If the order of an attribute means something, the solid line stays above the dashed one, whose order is shuffled.",
    "smoothness.png": "How far an array moves when it is translated, and whether neighbouring values of an attribute "
    "are more alike than others (roughness below 1).",
    "flatness.png": "How much class scores change when the array inside the network is translated.",
    "properties.png": "Is an attribute a property? Images were changed by known amounts; a cell is the correlation "
    "between the amount and the shift that explains the change best. A frame marks what is beyond every control.",
    "figure-3.png": "The paper's figure 3: nearest images after a translation, their arrays beneath.",
    "figure-4.png": "The paper's figure 4: depth by translation.",
}


def static(name: str) -> str:
    """The text of a file of the page."""
    return resources.files("hcnn.explore.page").joinpath("static", name).read_text(encoding="utf-8")


def write_report(
    explorer: Explorer, study: Study, folder: Path, *, queries: Sequence[int] | None = None, k: int = 5
) -> Path:
    """Write report.html into a folder that holds the figures of a study.

    Args:
        explorer: the run with its data base.
        study: what was measured.
        folder: where the study's PNGs lie; those that are there are put in.
        queries: images whose views are put in; one of each of four classes if None.
        k: neighbours a row.

    Returns:
        The file.

    Raises:
        ValueError: if the file would be larger than 20 MB.
    """
    queries = default_queries(explorer) if queries is None else queries
    about = describe(explorer)
    views: dict[str, View] = {}
    for query in queries:
        for j in explorer.depths:
            axis = f"v{j - 1}"
            one = view(explorer, query, j, {axis: 1}, axis, k=k)
            one["rows"] = [row for row in one["rows"] if row["kind"] != "now"]
            views[f"{query}/{j}"] = one
    shown = set(queries)
    shown |= {found[0] for one in views.values() for row in one["rows"] for found in row["found"]}
    data = {
        "classes": about["classes"],
        "labels": {query: explorer.label(query) for query in queries},
        "depth": explorer.depths[len(explorer.depths) // 2],
        "thumbs": {image: _uri(small_png(explorer.image(image))) for image in sorted(shown)},
        "views": views,
    }
    figures = [
        f'<div class="figure"><img alt="{html.escape(text)}" src="{_uri((folder / name).read_bytes())}"></div>'
        f'<p class="note">{html.escape(text)}</p>'
        for name, text in _FIGURES.items()
        if (folder / name).is_file()
    ]
    said = "".join(f"<li>{html.escape(printable(sentence))}</li>" for sentence in findings(study))
    queried = f"{study.info['queries']}, {about['images']:,} images in the data base"
    text = _PAGE.format(
        title=html.escape(f"What the attributes of {about['run']} mean"),
        queried=html.escape(printable(queried)),
        style=static("style.css"),
        exact="" if about["periodic"] else " The network is not periodic: translations are an approximation.",
        figures="\n".join(figures),
        findings=said,
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        script=static("view.js") + static("report.js"),
    ).encode()
    if len(text) > _LIMIT:
        raise ValueError(f"report: {len(text):,} bytes with {len(queries)} queries; expected at most {_LIMIT:,}")
    path = folder / "report.html"
    write_atomically(path, text)
    return path


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


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="note">Queries: {queried}. Intervals hold 95 % over query images.</p>
<p>The channels of this network are an ordered array. Translate the array of one image along an attribute, and look
which images have arrays nearest to the result: if the order means something, they change in some way that can be
named.{exact}</p>
<div class="controls">
<label>query <select id="query"></select></label>
<label>depth <select id="depth"></select></label>
</div>
<div id="strip"></div>
<p class="note">Rows: translations by τ along <span class="axis"></span>, nearest images first. Frame: blue = the
query's class, orange = another; dashed = farther than 95 % of unshifted images are from their nearest. Bar beneath:
distance.
Right: the three likeliest classes after the same translation inside the network. The last row is a control: the
translation by 1 with the values of <span class="axis"></span> in a random order.</p>
<h2>What was found</h2>
<ul class="findings">{findings}</ul>
<h2>The numbers, with controls beside</h2>
{figures}
<p class="note">Tables: rows.csv, contrasts.csv, properties.csv and study.json beside this file.</p>
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
