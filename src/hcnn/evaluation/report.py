"""The files of an evaluation: numbers as JSON and CSV, pictures, and one HTML page that opens from disk."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from hcnn.evaluation.figures import draw_calibration, draw_confusion, draw_coverage, draw_shifts
from hcnn.evaluation.measures import ClassScore, Evaluation
from hcnn.evaluation.shifts import ShiftScore
from hcnn.storage.atomic import write_atomically, write_json
from hcnn.text import csv_row, fill_template, printable

MISTAKES = "mistakes"  # the folder of their pictures
_MAGNIFIED = 96  # pixels of a side of a mistake on the page, at least


def write_evaluation(found: Evaluation, folder: Path, *, title: str, data: str, images: Tensor | None = None) -> Path:
    """Write evaluation.html and what it shows: evaluation.json, classes.csv, confusion.csv and three pictures.

    Args:
        found: what was measured.
        folder: where the files go; it is made if need be.
        title: name of the network.
        data: name of the data set.
        images: the images, uint8 (n, c, h, w) with one or three channels, for the pictures of mistakes; without them
            mistakes are listed by number.

    Returns:
        The page.

    Raises:
        OSError: if the folder cannot be written to.

    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", as_json(found) | {"network": title, "data": data})
    _write_csv(folder / "classes.csv", _CLASS_COLUMNS, [_class_row(one) for one in found.scores])
    rows = [[name, *counts] for name, counts in zip(found.classes, found.confusion.tolist(), strict=True)]
    _write_csv(folder / "confusion.csv", ["true class \\ predicted class", *found.classes], rows)
    pictures = {"confusion": draw_confusion, "calibration": draw_calibration, "coverage": draw_coverage}
    for name, draw in pictures.items():
        draw(found, folder / f"{name}.png")
    mistakes = folder / MISTAKES
    shown = _mistake_images(found, images)
    for path in mistakes.glob("*.png"):  # of an earlier evaluation
        if path.stem.isdecimal() and int(path.stem) not in shown:
            path.unlink()
    if shown:
        mistakes.mkdir(exist_ok=True)
        for number, png in shown.items():
            write_atomically(mistakes / f"{number}.png", png)
    path = folder / "evaluation.html"
    text = _page(found, {name: (folder / f"{name}.png").read_bytes() for name in pictures}, shown, title, data)
    write_atomically(path, text.encode())
    return path


def as_json(found: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON holds it; what does not exist is null.

    Example:
        >>> import torch
        >>> from hcnn.evaluation.measures import evaluate
        >>> as_json(evaluate(torch.eye(2), torch.tensor([0, 1]), ["cat", "dog"]))["accuracy"]
        1.0

    """
    record = {key: value for key, value in asdict(found).items() if key != "confusion"}
    record["confusion"] = found.confusion.tolist()
    for entry, score in zip(record["scores"], found.scores, strict=True):
        entry |= {"accuracy": score.accuracy, "precision": score.precision}
    return _without_nan(record)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_CLASS_COLUMNS = ["class", "images", "correct", "accuracy", "low", "high", "predicted", "precision"]


def _class_row(one: ClassScore) -> list[Any]:
    values = one.accuracy, *one.interval, one.predicted, one.precision
    return [one.name, one.count, one.correct, *("" if math.isnan(value) else round(value, 6) for value in values)]


def _write_csv(path: Path, head: list[str], rows: list[list[Any]]) -> None:
    write_atomically(path, "".join(map(csv_row, [head, *rows])).encode(errors="surrogateescape"))


def _mistake_images(found: Evaluation, images: Tensor | None) -> dict[int, bytes]:
    """PNGs of the mistakes, enlarged by a whole factor, by the number of the image."""
    if images is None or images.ndim != 4 or images.shape[1] not in (1, 3):
        return {}
    from PIL import Image

    pngs = {}
    for mistake in found.mistakes:
        pixels = images[mistake.image].cpu().numpy()
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        factor = max(1, math.ceil(_MAGNIFIED / min(picture.size)))
        buffer = io.BytesIO()
        picture.resize([side * factor for side in picture.size], Image.Resampling.NEAREST).save(buffer, "PNG")
        pngs[mistake.image] = buffer.getvalue()
    return pngs


def _page(found: Evaluation, pictures: dict[str, bytes], shown: dict[int, bytes], title: str, data: str) -> str:
    low, high = found.interval
    ordered = sorted(found.scores, key=lambda one: (math.isnan(one.accuracy), one.accuracy))
    rows = "".join(
        f"<tr><td>{_text(one.name)}</td><td>{one.count:,}</td><td>{_percent(one.accuracy)}</td>"
        f"<td>{_percent(one.interval[0])} – {_percent(one.interval[1])}</td><td>{_percent(one.precision)}</td></tr>"
        for one in ordered
    )
    mistakes = "".join(
        f"<figure>{_image(shown[one.image], f'image {one.image}') if one.image in shown else ''}"
        f"<figcaption>image {one.image}: <b>{_text(found.classes[one.label])}</b>, predicted "
        f"<b>{_text(found.classes[one.answer])}</b> with {_percent(one.confidence)}</figcaption></figure>"
        for one in found.mistakes
    )
    top5 = "" if found.top5 is None else f"The class is among the five likeliest for {_percent(found.top5)}."
    half = min(found.coverage, key=lambda one: abs(one[0] - 0.5))
    confused = _most_confused(found)
    parts = {
        "title": _text(f"How good is {title}?"),
        "headline": f"{_percent(found.accuracy)} of {found.count:,} images of {_text(data)} are classified correctly "
        f"(95 % interval {_percent(low)} to {_percent(high)}).",
        "top5": top5 and f"<p>{top5}</p>",
        "rows": rows,
        "confused": "" if confused is None else f"The most frequent confusion: {_text(confused)}.",
        "confusion": _image(pictures["confusion"], "confusion matrix"),
        "calibration": _image(pictures["calibration"], "accuracy against confidence"),
        "error": _percent(found.calibration_error),
        "coverage": _image(pictures["coverage"], "accuracy against the share of images answered"),
        "half": f"Answering only the {_percent(half[0])} it is most certain of, the network is right on "
        f"{_percent(half[1])}.",
        "mistakes": mistakes or "<p>There are none.</p>",
    }
    page = files("hcnn.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    return fill_template(page, parts)


def _most_confused(found: Evaluation) -> str | None:
    wrong = found.confusion.clone()
    wrong.fill_diagonal_(0)
    if not wrong.any():
        return None
    i, k = divmod(int(wrong.argmax()), len(found.classes))
    count = int(wrong[i, k])
    return f"{found.classes[i]} classified as {found.classes[k]}, {count:,} {'time' if count == 1 else 'times'}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _text(value: Any) -> str:
    return html.escape(printable(str(value)))


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def write_shifts(found: Mapping[str, Sequence[ShiftScore]], folder: Path, *, data: str) -> Path:
    """Write shifts.csv, shifts.json and shifts.png: the accuracy of networks under changed images.

    Args:
        found: what `measure_shifts` returned, by name of the network.
        folder: where the files go; it is made if need be.
        data: name of the data set.

    Returns:
        The table, shifts.csv.

    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        [network, one.shift, one.strength, round(one.accuracy, 6), *(round(end, 6) for end in one.interval)]
        for network, scores in found.items()
        for one in scores
    ]
    path = folder / "shifts.csv"
    _write_csv(path, ["network", "change", "strength", "accuracy", "low", "high"], rows)
    record = {network: [asdict(one) for one in scores] for network, scores in found.items()}
    write_json(folder / "shifts.json", {"data": data, "networks": record})
    draw_shifts(found, folder / "shifts.png")
    return path
