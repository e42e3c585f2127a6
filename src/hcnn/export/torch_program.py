"""A `torch.export` program: one file that runs wherever PyTorch runs, without this package."""

import io
import warnings
from typing import Any

import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.parity import check_outputs
from hcnn.export.plain_network import PlainNetwork, spatial_step
from hcnn.export.replace import SIGNATURE
from hcnn.models.hierarchical import AttributeNetwork
from hcnn.storage.atomic import StrPath, write_atomically

SIDES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def export_program(
    path: StrPath, model: AttributeNetwork, images: Tensor, preprocessing: Preprocessing | None = None
) -> float:
    """Write a ``.pt2`` program with dynamic batch and image size, after checking it on images.

    Loading it (``torch.export.load(path).module()(pixels)``) unpickles parts of the file: load only programs that you
    wrote yourself. For weights to pass on take `hcnn.export.export_safetensors`.

    Args:
        path: the file to write.
        model: a trained network; folded here if it is not yet.
        images: to check with: uint8 (n, c, *u) with preprocessing, else standardized.
        preprocessing: standardization to put inside; the program's input then is pixels from 0 to 1.

    Returns:
        The largest difference from the network's logits, relative to the largest.

    Raises:
        ValueError: if it is above 1e-5; nothing is written.

    """
    # The matrices are kept: PyTorch would gather them anew at each call, which an image at a time feels.
    program = trace(PlainNetwork(model, preprocessing, compact=False))
    module = program.module()

    def run(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return module(pixels)

    difference = check_outputs(run, model, preprocessing, images, str(path))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={SIGNATURE: ""})
    write_atomically(path, buffer.getvalue())
    return difference


def trace(network: PlainNetwork) -> torch.export.ExportedProgram:
    """Trace a plain network with symbolic batch and image size.

    With zeros each side is at least one more than the product of the strides; periodic sides are multiples of it.
    """
    steps, config = spatial_step(network), network.config
    periodic = config.boundary == "circular"
    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    for axis, (name, step) in enumerate(zip(SIDES[config.spatial_axes], steps, strict=True), start=2):
        if periodic and step > 1:
            dims[axis] = step * torch.export.Dim(f"{name}_by_{step}", min=2)
        else:
            dims[axis] = torch.export.Dim(name, min=step + 1)
    # Two different sides, so that they are not taken for one.
    example = torch.rand(2, config.channels, *(step * (6 + axis) for axis, step in enumerate(steps)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making
        return torch.export.export(network, (example,), dynamic_shapes=(dims,), strict=False)
