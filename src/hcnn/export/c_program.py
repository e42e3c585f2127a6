"""Writing a network as C99, after compiling it and comparing it with the trained network on images."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.c_source import CSource, c_source
from hcnn.export.escape import c_identifier
from hcnn.export.parity import check_outputs
from hcnn.export.plain_network import PlainNetwork
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.storage.atomic import StrPath, write_together

FLAGS = ("-std=c99", "-O2")


def export_c(
    path: StrPath, model: AttributeNetwork, images: Tensor, preprocessing: Preprocessing, prefix: str | None = None
) -> tuple[CSource, float | None]:
    """Write a C99 file and its header, after compiling the file and comparing it with the network on images.

    ``void PREFIX_logits(const float *pixels, float *logits)`` takes pixels from 0 to 1, ``int PREFIX_classify(const
    unsigned char *bytes, float *logits)`` takes bytes; both channels first, not reentrant. The file depends on the C
    library only and is C++ too. ``-DHCNN_MAIN`` adds a program that reads raw images from standard input.

    Args:
        path: the source file to write; its header has the same name with the suffix .h.
        model: a trained network with one or two spatial axes; it is folded first if it is not folded yet.
        images: uint8 (n, c, *u), of the size that the file is for.
        preprocessing: standardization and class names to include.
        prefix: the start of every name that the file defines; made from the file's name if not given.

    Returns:
        The source with its sizes, and the largest difference from the network's logits, relative to the largest logit;
        None if there is no C compiler (cc or gcc) to check it with.

    Raises:
        ValueError: if the difference is above 1e-5, the network has three spatial axes, the prefix cannot begin a name
            in C, or the path ends in .h; nothing is written.

    """
    path = Path(path)
    header_path(path)  # or a ValueError, before there is work
    prefix = c_identifier(path.stem) if prefix is None else prefix
    source = c_source(PlainNetwork(model, preprocessing), preprocessing, tuple(images.shape[2:]), prefix)
    difference = None
    if compiler := shutil.which("cc") or shutil.which("gcc"):
        with tempfile.TemporaryDirectory(prefix="hcnn-export-") as folder:
            program = compile_program(source, Path(folder), compiler)

            def run(pixels: Tensor) -> Tensor:
                return run_program(program, (pixels * 255).round().to(torch.uint8), model.config.classes)

            difference = check_outputs(run, model, preprocessing, images, str(path))
    write_source(path, source)
    return source, difference


def write_source(path: StrPath, source: CSource) -> None:
    """Write a source file, and its header beside it."""
    write_together({header_path(path): source.header.encode(), path: source.text.encode()})


def header_path(path: StrPath) -> Path:
    """The header beside a source file.

    Raises:
        ValueError: if the source file would be the header.

    Example:
        >>> header_path("net.c").name
        'net.h'

    """
    header = Path(path).with_suffix(".h")
    if header == Path(path):
        raise ValueError(f"{path}: expected the name of a source file, such as {header.with_suffix('.c')}")
    return header


def compile_program(source: CSource, folder: Path, compiler: str = "cc") -> Path:
    """Compile a source with its main program.

    Raises:
        ValueError: if the compiler rejects it; the text holds the compiler's message.
    """
    (folder / "net.c").write_text(source.text, encoding="utf-8")
    command = [compiler, *FLAGS, "-DHCNN_MAIN", str(folder / "net.c"), "-lm", "-o", str(folder / "net")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command[:-4])}: the compiler does not accept the C file:\n{done.stderr}")
    return folder / "net"


def run_program(program: Path, images: Tensor, classes: int, number: type = float) -> Tensor:
    """Logits (n, classes) of uint8 images from a compiled program, of type float or int."""
    done = subprocess.run([str(program)], input=images.numpy().tobytes(), capture_output=True, check=True)
    return torch.tensor([[number(word) for word in line.split()[:classes]] for line in done.stdout.splitlines()])
