"""Writing a network as C99 in 8-bit integers, after comparing it with the trained network and with its own integers."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.c_program import compile_program, header_path, run_program, write_source
from hcnn.export.c_source import CSource
from hcnn.export.escape import c_identifier
from hcnn.export.integer.chain import chain_of
from hcnn.export.integer.evaluate import integer_logits
from hcnn.export.integer.quantize import IntegerNetwork, quantize
from hcnn.export.integer.source import integer_source
from hcnn.export.parity import check_outputs
from hcnn.models.network import Network
from hcnn.storage.atomic import StrPath

CHECKED = 16  # images whose integers are compared


def export_c_int8(
    path: StrPath,
    model: Network,
    calibration: Tensor,
    preprocessing: Preprocessing,
    prefix: str | None = None,
) -> tuple[CSource, IntegerNetwork, bool]:
    """Write a C99 file and its header that classify bytes with integers only.

    ``int PREFIX_classify(const unsigned char *bytes, int32_t *logits)`` takes bytes, channels first, and is not
    reentrant. The file depends on memcpy and memset only and is C++ too. ``-DHCNN_MAIN`` adds a program that reads raw
    images from standard input.

    Args:
        path: the source file to write; its header has the same name with the suffix .h.
        model: a trained attribute network without an inner ELU, with one or two spatial axes, or a ResNet-8.
        calibration: uint8 training images (n, c, *u), whose arrays determine the ranges of 8 bits.
        preprocessing: standardization and class names to include.
        prefix: the start of every name that the file defines; made from the file's name if not given.

    Returns:
        As `checked_source`.

    Raises:
        ValueError: as `checked_source`, or if the path ends in .h; nothing is written.

    """
    header_path(path)  # or a ValueError, before there is work
    found = checked_source(
        model, calibration, preprocessing, c_identifier(Path(path).stem) if prefix is None else prefix
    )
    write_source(path, found[0])
    return found


def checked_source(
    model: Network, calibration: Tensor, preprocessing: Preprocessing, prefix: str
) -> tuple[CSource, IntegerNetwork, bool]:
    """The C file of a network in 8-bit integers, checked twice.

    The chain of convolutions that is quantized is compared with the network in floating point, and the compiled file
    with the integers that it should compute.

    Args:
        model: as `export_c_int8`.
        calibration: likewise.
        preprocessing: likewise.
        prefix: the start of every name that the file defines.

    Returns:
        The source with its sizes, the integer network, and whether there was a C compiler (cc or gcc) to check it with.

    Raises:
        ValueError: if there are no calibration images, the network cannot be quantized, a comparison fails, or the
            prefix cannot begin a name in C.

    """
    if not len(calibration):
        raise ValueError("export c --int8: expected calibration images; got none")
    images = calibration[:CHECKED]
    chain = chain_of(model, preprocessing, tuple(images.shape[2:]))
    check_outputs(
        lambda pixels: chain.logits(chain.arrays((pixels * 255).round().to(torch.uint8))[-1]).float(),
        model, preprocessing, images, "export c --int8",
    )  # fmt: skip
    network = quantize(chain, calibration)
    source = integer_source(network, prefix)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler:
        with tempfile.TemporaryDirectory(prefix="hcnn-export-") as folder:
            program = compile_program(source, Path(folder), compiler)
            got = run_program(program, images, model.config.classes, int)
        if not torch.equal(got, integer_logits(network, images)):
            raise ValueError("export c --int8: the compiled file gives other integers than it should")
    return source, network, compiler is not None
