"""`hcnn export`: a trained network as a file for other programs."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from hcnn.cli.terminal import say
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.models.hierarchical import AttributeNetwork
from hcnn.prediction import open_network
from hcnn.runs.load import Run, folder_options, read_result
from hcnn.storage.atomic import ensure_writable, write_atomically

_NAMES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "folded", "c": "model.c"}
_CHECKED = 64


def export(options: Namespace, console: Console) -> None:
    """Write the file and print how well it agrees with the trained network."""
    if options.int8 and options.to != "onnx":
        raise ValueError(f"--int8: only for --to onnx; got --to {options.to}")
    if options.image_size is not None and options.to != "c":
        raise ValueError(f"--image-size: only for --to c, the other files take any size; got --to {options.to}")
    run = open_network(options.run)
    if not isinstance(run.model, AttributeNetwork):
        raise ValueError(f"{options.run}: only attribute networks can be exported; got a {type(run.model).__name__}")
    name = _NAMES[options.to].replace(".onnx", ".int8.onnx" if options.int8 else ".onnx")
    home = options.run if options.run.is_dir() else Path(f"{options.run.stem}-export")
    output = options.output or home / name
    ensure_writable(output.parent)
    if options.to == "safetensors":
        _safetensors(run, output, console)
        return
    splits = _data(options, run)
    checked = splits.test or splits.validation or splits.train
    images = checked.images[:_CHECKED]
    say(console, f"checking with {len(images)} images of {checked.name}")
    if options.int8:
        _int8(run, output, splits, console)
        return
    from hcnn import export as to

    if options.to == "c":
        images = _resized(images, options.image_size)
        source, difference = to.export_c(output, run.model, images, run.preprocessing)
        say(
            console,
            f"constants {source.table_bytes:,} bytes, static buffers {source.buffer_bytes:,} bytes, "
            f"{source.multiply_adds:,} multiply-adds an image of {'x'.join(map(str, images.shape[1:]))}",
        )
        if difference is None:
            say(console, "not checked: there is no C compiler (cc) here")
    else:
        write = to.export_onnx if options.to == "onnx" else to.export_program
        difference = write(output, run.model, images, run.preprocessing)
    if difference is not None:
        say(console, f"largest difference from the trained network: {difference:.1g} of the largest logit")
    _wrote(output, console)


def _wrote(path: Path, console: Console) -> None:
    say(console, f"wrote {path} ({path.stat().st_size:,} bytes)")


def _data(options: Namespace, run: Run) -> Splits:
    """The run's data, with the validation images that it set aside."""
    name = options.data or run.config.get("data")
    if name is None:
        raise ValueError(f"{options.run}: it keeps no record of its data; name some with --data")
    held = 0 if options.data else read_result(run.folder).get("validation_images", 0)
    try:
        splits = datasets.load(
            name, data_dir=options.data_dir, validation=held, **folder_options(name, run.preprocessing)
        )
    except (ValueError, OSError, ImportError) as error:
        if held and "the data has a validation set" in str(error):
            return datasets.load(name, data_dir=options.data_dir, **folder_options(name, run.preprocessing))
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
        say(console, "the run set no validation images aside: the loss is measured on images that it was trained on")
    runner = onnx_runner(data)
    quantized = torch.cat([runner(part.float() / 255) for part in held.images.split(100)])
    exact = torch.cat(
        [predict_logits(run.model, run.preprocessing.standardize(part)) for part in held.images.split(500)]
    )
    before, after = ((one.argmax(1) == held.labels).float().mean().item() for one in (exact, quantized))
    write_atomically(output, data)
    say(
        console,
        f"accuracy on {len(held):,} {what}: float32 {before:.2%}, int8 {after:.2%} ({after - before:+.2%})",
    )
    _wrote(output, console)
