"""`hcnn export`: a trained network as a file for other programs."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from hcnn.cli.terminal import say
from hcnn.data.image_files import height_and_width
from hcnn.data.image_set import Splits
from hcnn.export.c_program import header_path
from hcnn.export.check_images import find_check_images
from hcnn.export.folded_weights import CARD, WEIGHTS
from hcnn.export.int8 import Int8Loss
from hcnn.export.opening import open_network
from hcnn.export.replace import check_replaceable
from hcnn.runs.held_out import load_run_data, warn_of_change
from hcnn.runs.load import Run
from hcnn.storage.atomic import output_folder, write_atomically

_NAMES = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "safetensors": "folded",
    "c": "model.c",
    "html": "model.html",
    "executorch": "model.pte",
}
_ONE_SIZE = ("c", "executorch")  # files for one image size
_INT8 = ("onnx", "c")  # formats with a form in 8-bit integers


def export(options: Namespace, console: Console) -> None:
    """Write the file and print how well it agrees with the trained network."""
    if options.int8 and options.to not in _INT8:
        raise ValueError(f"--int8: only for --to {' and '.join(_INT8)}; got --to {options.to}")
    if options.int8 and options.image_size is not None:
        raise ValueError("--image-size: not with --int8, which calibrates on the training images as they are")
    if options.image_size is not None and options.to not in _ONE_SIZE:
        raise ValueError(f"--image-size: only for --to {' and '.join(_ONE_SIZE)}; got --to {options.to}")
    if options.prefix is not None and options.to != "c":
        raise ValueError(f"--prefix: only for --to c; got --to {options.to}")
    if options.to == "safetensors" and (options.data is not None or options.data_dir is not None):
        raise ValueError("--data and --data-dir: not with --to safetensors, whose weights are not checked with images")
    run = open_network(options.run)
    if not run.model.array_count and not (options.int8 and options.to == "c"):
        raise ValueError(
            f"{options.run}: only attribute networks can be exported, and a ResNet-8 with --to c --int8; "
            f"got a {type(run.model).__name__}"
        )
    name = Path(_NAMES[options.to])
    name = name.with_suffix(f".int8{name.suffix}") if options.int8 else name
    home = options.run if options.run.is_dir() else Path(f"{options.run.stem}-export")
    output = options.output or home / name
    for path in _files(output, options.to):
        check_replaceable(path, force=options.force)
    with output_folder(output.parent):
        if options.to == "safetensors":
            _safetensors(run, output, console)
        elif options.int8:
            splits = load_run_data(run, options.data, options.data_dir)
            if options.data is None and (warning := warn_of_change(run, splits)):
                say(console, warning, "yellow")
            write = _int8_c if options.to == "c" else _int8
            write(run, output, splits, options.prefix, console)
        else:
            _checked(run, output, options, console)


def _checked(run: Run, output: Path, options: Namespace, console: Console) -> None:
    """The formats that are checked with images."""
    checked = find_check_images(run, options.data, options.data_dir)
    images = _resized(checked.images, options.image_size)
    say(console, f"checking with {checked.source}")
    from hcnn import export as to

    if options.to == "c":
        source, difference = to.export_c(output, run.model, images, run.preprocessing, options.prefix)
        say(
            console,
            f"constants {source.table_bytes:,} bytes, static buffers {source.buffer_bytes:,} bytes, "
            f"{source.multiply_adds:,} multiply-adds an image of {'x'.join(map(str, images.shape[1:]))}",
        )
        if difference is None:
            say(console, "not checked: there is no C compiler (cc) here")
    elif options.to == "html":
        title = options.run.resolve().name if options.run.is_dir() else options.run.name
        difference = to.export_html(output, run.model, images, run.preprocessing, labels=checked.labels, title=title)
        if difference is None:
            say(console, "not checked: there is no Node.js (node) here")
    else:
        write = {"onnx": to.export_onnx, "torch": to.export_program, "executorch": to.export_executorch}[options.to]
        difference = write(output, run.model, images, run.preprocessing)
    if difference is not None:
        say(console, f"largest difference from the trained network: {difference:.1g} of the largest logit")
    for path in _files(output, options.to):
        _wrote(path, console)


def _files(output: Path, to: str) -> list[Path]:
    """The files that an export writes."""
    if to == "safetensors":
        return [output / WEIGHTS, output / CARD]
    return [output, header_path(output)] if to == "c" else [output]


def _wrote(path: Path, console: Console) -> None:
    say(console, f"wrote {path} ({path.stat().st_size:,} bytes)")


def _resized(images: Tensor, side: int | None) -> Tensor:
    if side is None or all(n == side for n in images.shape[2:]):
        return images
    size = height_and_width(side)
    if images.ndim != 4:
        raise ValueError("--image-size: only for images of two spatial axes")
    return F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).round().to(torch.uint8)


def _safetensors(run: Run, output: Path, console: Console) -> None:
    from hcnn.export import export_safetensors
    from hcnn.export.model_card import model_card, read_records

    usage = 'from hcnn.export import load_folded\n\nmodel, preprocessing = load_folded("PATH")'
    records = replace(read_records(run.folder), config=run.config)
    card = model_card(run.model, records, size=run.preprocessing.size, usage=usage)
    export_safetensors(output, run.model, run.preprocessing, card)
    for path in _files(output, "safetensors"):
        _wrote(path, console)


def _int8(run: Run, output: Path, splits: Splits, _: str | None, console: Console) -> None:
    from hcnn.export import int8_bytes, onnx_runner
    from hcnn.export.int8 import calibration_images, measure_int8

    calibration = calibration_images(splits.train)
    data = int8_bytes(run.model, calibration, run.preprocessing)
    runner = onnx_runner(data)
    loss = measure_int8(lambda images: runner(images.float() / 255), run.model, splits, run.preprocessing)
    write_atomically(output, data)
    say(console, f"calibrated on {len(calibration):,} images of {splits.train.name}")
    _say_loss(loss, console)
    _wrote(output, console)


def _int8_c(run: Run, output: Path, splits: Splits, prefix: str | None, console: Console) -> None:
    from hcnn.export.c_program import write_source
    from hcnn.export.escape import c_identifier
    from hcnn.export.int8 import calibration_images, measure_int8
    from hcnn.export.integer.evaluate import integer_logits
    from hcnn.export.integer.program import checked_source

    calibration = calibration_images(splits.train)
    prefix = c_identifier(output.stem) if prefix is None else prefix
    source, network, compared = checked_source(run.model, calibration, run.preprocessing, prefix)
    loss = measure_int8(lambda images: integer_logits(network, images), run.model, splits, run.preprocessing)
    write_source(output, source)
    say(console, f"calibrated on {len(calibration):,} images of {splits.train.name}")
    say(
        console,
        f"constants {source.table_bytes:,} bytes, static buffers {source.buffer_bytes:,} bytes, "
        f"{source.multiply_adds:,} multiply-adds an image of {'x'.join(map(str, calibration.shape[1:]))}",
    )
    if not compared:
        say(console, "the C file was not checked: there is no C compiler (cc) here")
    _say_loss(loss, console)
    for path in _files(output, "c"):
        _wrote(path, console)


def _say_loss(loss: Int8Loss, console: Console) -> None:
    say(
        console,
        f"accuracy on {loss.images:,} images of {loss.source}: float32 {loss.float32:.2%}, int8 {loss.int8:.2%} "
        f"({loss.int8 - loss.float32:+.2%}); {loss.changed:.2%} of the answers differ",
    )
    if not loss.held_out:
        say(console, "no images are known to be held out: the network was trained on these, so it may lose more")
