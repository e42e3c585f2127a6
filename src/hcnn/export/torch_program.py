"""A `torch.export` program: one file that runs wherever PyTorch does, without this package."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.parity import check_outputs
from hcnn.export.plain_network import PlainLayer, PlainNetwork, spatial_step
from hcnn.export.replace import SIGNATURE
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.storage.atomic import StrPath, write_atomically

SIDES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def export_program(
    path: StrPath, model: AttributeNetwork, images: Tensor, preprocessing: Preprocessing | None = None
) -> float:
    """Write a ``.pt2`` program with dynamic batch and image size, after checking it.

    Loading it with ``torch.export.load(path).module()`` unpickles parts of the file: load only programs that you wrote
    yourself. To share weights, use `hcnn.export.export_safetensors`.

    Args:
        path: the file to write.
        model: a trained network, which is folded first if it is not folded yet.
        images: images to check the program with: uint8 (n, c, *u) with preprocessing, otherwise standardized.
        preprocessing: standardization to include; the input of the program then is pixels between 0 and 1.

    Returns:
        The largest difference from the network's logits, relative to the largest logit.

    Raises:
        ValueError: if the images are smaller than a program takes, see `trace`, or the difference is above 1e-5;
            nothing is written.

    """
    # The program holds the matrices: PyTorch would gather them at every call, which is slow for single images.
    network = PlainNetwork(model, preprocessing, compact=False)
    least, size = _least_sides(network), tuple(images.shape[2:])
    if any(side < bound for side, bound in zip(size, least, strict=False)):
        raise ValueError(f"{path}: expected images of at least {least}, the smallest that a program takes; got {size}")
    program = trace(network)
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

    With zeros at the boundary, each side must be at least one more than the product of the strides. Sides of a periodic
    network must be multiples of this product, at least twice as large, and so large that what each layer sees is longer
    than half of its filter.
    """
    steps, config, sides = spatial_step(network), network.config, _least_sides(network)
    least = _least_multiples(network, steps)
    periodic = config.boundary == "circular"
    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    for axis, (name, step) in enumerate(zip(SIDES[config.spatial_axes], steps, strict=True), start=2):
        if periodic and step > 1:
            dims[axis] = step * torch.export.Dim(f"{name}_by_{step}", min=least[axis - 2])
        else:
            dims[axis] = torch.export.Dim(name, min=sides[axis - 2])
    # The sides differ, so that the tracer does not take them for one symbol.
    shown = (step * (max(6, *least) + axis) for axis, step in enumerate(steps))
    example = torch.rand(2, config.channels, *shown, dtype=torch.float32, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns about its own code
        return torch.export.export(network, (example,), dynamic_shapes=(dims,), strict=False)


def _least_sides(network: PlainNetwork) -> tuple[int, ...]:
    """The smallest sides that a program takes; the text of `trace` says which."""
    steps = spatial_step(network)
    if network.config.boundary != "circular":
        return tuple(step + 1 for step in steps)
    return tuple(step * most for step, most in zip(steps, _least_multiples(network, steps), strict=True))


def _least_multiples(network: PlainNetwork, steps: Sequence[int]) -> list[int]:
    """How many times the product of all strides each side of a periodic image must be at least."""
    least, before = [2] * len(steps), [1] * len(steps)
    for layer in network.layers:
        assert isinstance(layer, PlainLayer)
        least = [max(n, m * b // s + 1) for n, m, b, s in zip(least, layer.margins, before, steps, strict=True)]
        before = [b * s for b, s in zip(before, layer.stride, strict=True)]
    return least
