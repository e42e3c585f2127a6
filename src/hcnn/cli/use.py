"""The commands that put a trained network to use: `hcnn predict` and `hcnn export`."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from torch import Tensor

from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.models.hierarchical import AttributeNetwork
from hcnn.prediction import Prediction, find_images, open_network, predict_stream
from hcnn.runs.load import Run, folder_options, read_result
from hcnn.storage.atomic import ensure_writable, write_atomically

_NAMES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "folded", "c": "model.c"}
_CHECKED = 64


@dataclass(frozen=True)
class Predict:
    """Classify images: files, folders, or standard input.

    Example: hcnn predict runs/demo photos/ --format csv > classes.csv

    Images stream through in batches, so that any number of them takes the same memory.
    """

    run: tyro.conf.Positional[Path]
    """A run folder, folded weights, or a model whose trained weights lie in the package."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files (PNG, JPEG, WebP) or .npy arrays (c, *u); folders of them; - for an image, or paths, from stdin."""
    top: int = 3
    """How many classes to show."""
    format: Literal["text", "table", "json", "csv"] = "text"
    """A line per image, a table, JSON lines, or CSV."""
    bad_images: Literal["refuse", "skip"] = "refuse"
    """At an image that cannot be used: stop with exit code 2, or name it on stderr and go on."""
    batch_size: int = 64
    """Images at a time."""


@dataclass(frozen=True)
class Export:
    """Write the folded network for other programs, after checking it on the data's images.

    Example: hcnn export runs/demo --to onnx
    """

    run: tyro.conf.Positional[Path]
    """A run folder, or a model whose trained weights lie in the package."""
    to: Literal["onnx", "torch", "safetensors", "c"]
    """ONNX; a torch.export program; a folder of folded weights with a model card; a C99 file for one image size."""
    output: Path | None = None
    """The file (for safetensors the folder) to write; model.onnx, model.pt2, model.c or folded/ in the run folder."""
    int8: bool = False
    """ONNX only: static int8 quantization, calibrated on training images, its loss measured on validation images."""
    image_size: int | None = None
    """C only: the side of its images; that of the training images if not given."""
    data: str | None = None
    """The data to check with; the run's own by default."""
    data_dir: Path | None = None
    """Where data sets lie."""


# ---------------------------------------------------------------------------------------------------------- predict


def predict(command: Predict, console: Console) -> None:
    """Carry out `hcnn predict`."""
    for name, value in (("top", command.top), ("batch-size", command.batch_size)):
        if value < 1:
            raise ValueError(f"--{name}: expected a positive number; got {value}")
    run = open_network(command.run)
    sources = find_images(command.images, sys.stdin.buffer)
    errors = Console(stderr=True)

    def skipped(reason: str) -> None:
        errors.print(f"skipped {reason}", soft_wrap=True, markup=False, highlight=False)

    on_bad = skipped if command.bad_images == "skip" else None
    stream = predict_stream(run, sources, top=command.top, batch_size=command.batch_size, on_bad=on_bad)
    top = min(command.top, len(run.preprocessing.classes))
    for line in _lines(stream, command.format, top, run.preprocessing.classes):
        sys.stdout.write(line)
    sys.stdout.flush()


def _lines(stream: Iterable[Prediction], form: str, top: int, classes: tuple[str, ...]) -> Iterator[str]:
    """The output, line by line."""
    if form == "csv":
        yield from _csv(stream, top)
        return
    width = max(len("class"), *map(len, classes))
    if form == "table":
        yield "  ".join([f"{'class':{width}} {'prob.':>7}"] * top) + "  file\n"
    for one in stream:
        if form == "json":
            best = [{"class": name, "probability": round(p, 6)} for name, p in one.best]
            yield json.dumps({"file": one.name, **best[0], "top": best}) + "\n"
        elif form == "table":
            yield "  ".join(f"{name:{width}} {p:>7.1%}" for name, p in one.best) + f"  {one.name}\n"
        else:
            yield f"{one.name}: " + "  ".join(f"{name} {p:.1%}" for name, p in one.best) + "\n"


def _csv(stream: Iterable[Prediction], top: int) -> Iterator[str]:
    class Echo:
        def write(self, text: str) -> str:
            return text

    writer = csv.writer(Echo(), lineterminator="\n")
    yield writer.writerow(["file", *(f"{what}_{n}" for n in range(1, top + 1) for what in ("class", "probability"))])
    for one in stream:
        yield writer.writerow([one.name, *(word for name, p in one.best for word in (name, f"{p:.6f}"))])


# ----------------------------------------------------------------------------------------------------------- export


def export(command: Export, console: Console) -> None:
    """Carry out `hcnn export`."""
    if command.int8 and command.to != "onnx":
        raise ValueError(f"--int8: only for --to onnx; got --to {command.to}")
    if command.image_size is not None and command.to != "c":
        raise ValueError(f"--image-size: only for --to c, the other files take any size; got --to {command.to}")
    run = open_network(command.run)
    if not isinstance(run.model, AttributeNetwork):
        raise ValueError(f"{command.run}: only attribute networks can be exported; got a {type(run.model).__name__}")
    name = _NAMES[command.to].replace(".onnx", ".int8.onnx" if command.int8 else ".onnx")
    home = command.run if command.run.is_dir() else Path(f"{command.run.stem}-export")
    output = command.output or home / name
    ensure_writable(output.parent)
    if command.to == "safetensors":
        _safetensors(run, output, console)
        return
    splits = _data(command, run)
    checked = splits.test or splits.validation or splits.train
    images = checked.images[:_CHECKED]
    console.print(f"checking with {len(images)} images of {checked.name}", highlight=False)
    if command.int8:
        _int8(run, output, splits, console)
        return
    from hcnn import export as to

    if command.to == "c":
        images = _resized(images, command.image_size)
        source, difference = to.export_c(output, run.model, images, run.preprocessing)
        console.print(
            f"constants {source.table_bytes:,} bytes, static buffers {source.buffer_bytes:,} bytes, "
            f"{source.multiply_adds:,} multiply-adds an image of {'x'.join(map(str, images.shape[1:]))}",
            soft_wrap=True,
            highlight=False,
        )
        if difference is None:
            console.print("not checked: there is no C compiler (cc) here")
    else:
        write = to.export_onnx if command.to == "onnx" else to.export_program
        difference = write(output, run.model, images, run.preprocessing)
    if difference is not None:
        console.print(f"largest difference from the trained network: {difference:.1g} of the largest logit")
    _wrote(output, console)


def _wrote(path: Path, console: Console) -> None:
    console.print(f"wrote {path} ({path.stat().st_size:,} bytes)", soft_wrap=True, highlight=False)


def _data(command: Export, run: Run) -> Splits:
    """The run's data, with the validation images that it set aside."""
    name = command.data or run.config.get("data")
    if name is None:
        raise ValueError(f"{command.run}: it keeps no record of its data; give some with --data")
    held = 0 if command.data else read_result(run.folder).get("validation_images", 0)
    try:
        splits = datasets.load(
            name, data_dir=command.data_dir, validation=held, **folder_options(name, run.preprocessing)
        )
    except (ValueError, OSError, ImportError) as error:
        if held and "the data has a validation set" in str(error):
            return datasets.load(name, data_dir=command.data_dir, **folder_options(name, run.preprocessing))
        raise ValueError(
            f"{name}: the images to check with cannot be read ({error}); give others with --data"
        ) from error
    shape = (run.model.config.channels, *run.preprocessing.size)
    if tuple(splits.train.images.shape[1:]) != shape:
        raise ValueError(f"{name}: expected images of shape {shape}; got {tuple(splits.train.images.shape[1:])}")
    return splits


def _resized(images: Tensor, side: int | None) -> Tensor:
    if side is None or all(n == side for n in images.shape[2:]):
        return images
    if side < 1:
        raise ValueError(f"--image-size: expected a positive number; got {side}")
    if images.ndim != 4:
        raise ValueError("--image-size: only for images of two spatial axes")
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).round().to(torch.uint8)


def _safetensors(run: Run, output: Path, console: Console) -> None:
    from hcnn.export import export_safetensors
    from hcnn.export.folded_weights import CARD, WEIGHTS
    from hcnn.export.model_card import model_card, read_records

    usage = 'from hcnn.export import load_folded\n\nmodel, preprocessing = load_folded("PATH")'
    records = replace(read_records(run.folder), config=run.config)
    card = model_card(run.model, records, size=run.preprocessing.size, usage=usage)
    export_safetensors(output, run.model, run.preprocessing, card)
    for name in (WEIGHTS, CARD):
        _wrote(output / name, console)


def _int8(run: Run, output: Path, splits: Splits, console: Console) -> None:
    from hcnn.export import int8_bytes, onnx_runner
    from hcnn.export.int8 import CALIBRATION_IMAGES
    from hcnn.training.evaluate import predict_logits

    data = int8_bytes(run.model, splits.train.images[:CALIBRATION_IMAGES], run.preprocessing)
    if splits.validation is not None:
        held, what = splits.validation, "validation images"
    else:  # never the test set: whether int8 is good enough is a choice
        held, what = splits.train.subset(range(CALIBRATION_IMAGES, len(splits.train))[-2000:]), "training images"
        console.print("the run set no validation images aside: the loss is measured on images that it was trained on")
    runner = onnx_runner(data)
    quantized = torch.cat([runner(part.float() / 255) for part in held.images.split(100)])
    exact = torch.cat(
        [predict_logits(run.model, run.preprocessing.standardize(part)) for part in held.images.split(500)]
    )
    before, after = ((one.argmax(1) == held.labels).float().mean().item() for one in (exact, quantized))
    write_atomically(output, data)
    console.print(
        f"accuracy on {len(held):,} {what}: float32 {before:.2%}, int8 {after:.2%} ({after - before:+.2%})",
        highlight=False,
    )
    _wrote(output, console)
