"""A view as a PNG, and a walk along an attribute as a GIF."""

import io
from typing import Any

from torch import Tensor

from hcnn.explore.explorer import Explorer, Query, picture
from hcnn.explore.figures import OTHER, SAME, UNKNOWN
from hcnn.explore.page.views import View
from hcnn.text import printable

_SIDE, _GAP, _TEXT = 64, 6, 96
_FRAME = 600  # ms
_INK = "#1c2430"


def _tile(image: Tensor, frame: str) -> Any:
    from PIL import Image, ImageOps

    square = picture(image, _SIDE).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return ImageOps.expand(square, 3, frame)


def _neighbour(explorer: Explorer, view: View, image: int, label: int) -> Any:
    own = view["label"]
    return _tile(explorer.image(image), UNKNOWN if own is None else SAME if label == own else OTHER)


def view_png(explorer: Explorer, query: Query, view: View) -> bytes:
    """The rows of a view as the page shows them; returns the bytes of a PNG."""
    from PIL import Image, ImageDraw

    step = _SIDE + 6 + _GAP
    columns = max(len(row["found"]) for row in view["rows"])
    width = _TEXT + (columns + 1) * step + _GAP
    sheet = Image.new("RGB", (width, 40 + len(view["rows"]) * (step + 12)), "white")
    pen = ImageDraw.Draw(sheet)
    move = ", ".join(f"{name} {amount:g}" for name, amount in view["move"].items())
    pen.text((_GAP, 8), f"depth {view['depth']}, translated by {move}; rows along {view['axis']}", fill=_INK)
    for number, row in enumerate(view["rows"]):
        top = 36 + number * (step + 12)
        shift = f"tau = {row['tau']:g}"  # Pillow's font has no τ
        name = {"now": f"now, {shift}", "shuffled": "order shuffled"}.get(row["kind"], shift)
        pen.text((_GAP, top + _SIDE // 2 - 6), name, fill=_INK)
        if number == 0:
            sheet.paste(_tile(explorer.image(query), _INK), (_TEXT, top))
        for column, (image, label, distance, _) in enumerate(row["found"]):
            left = _TEXT + (column + 1) * step
            sheet.paste(_neighbour(explorer, view, image, label), (left, top))
            name = printable(explorer.base.classes[label])
            pen.text((left + 2, top + _SIDE + 6), f"{name[:7]} {distance:.2f}", fill=_INK)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def walk_gif(explorer: Explorer, query: Query, view: View) -> bytes:
    """The nearest image after each whole translation, one per frame, beside the query; returns the bytes of a GIF."""
    from PIL import Image, ImageDraw

    frames, asked = [], _tile(explorer.image(query), _INK)
    for row in view["rows"]:
        if row["kind"] != "shift":
            continue
        image, label, distance, _ = row["found"][0]
        frame = Image.new("RGB", (2 * _SIDE + 4 * _GAP + 12, _SIDE + 46), "white")
        frame.paste(asked, (_GAP, _GAP))
        frame.paste(_neighbour(explorer, view, image, label), (_SIDE + 2 * _GAP + 8, _GAP))
        pen = ImageDraw.Draw(frame)
        pen.text((_GAP, _SIDE + 16), f"{view['axis']}, tau = {row['tau']}", fill=_INK)
        pen.text((_GAP, _SIDE + 30), f"{printable(explorer.base.classes[label])[:14]} {distance:.2f}", fill=_INK)
        frames.append(frame)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=_FRAME, loop=0)
    return buffer.getvalue()
