"""ExecuTorch programs: one image at a time, of one size, on phones and other devices, through XNNPACK."""

import json
import warnings

import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.parity import check_outputs, needs
from hcnn.export.plain_network import PlainNetwork
from hcnn.export.replace import SIGNATURE
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.storage.atomic import StrPath, write_atomically


def export_executorch(path: StrPath, model: AttributeNetwork, images: Tensor, preprocessing: Preprocessing) -> float:
    """Write a ``.pte`` program for images of one size, after checking it in ExecuTorch's runtime.

    Its method ``forward`` takes pixels between 0 and 1, (1, c, *u), and returns the logits (1, classes). The methods
    ``classes`` (the names, as JSON) and ``producer`` take nothing. XNNPACK computes what it can, ExecuTorch's portable
    kernels the rest.

    Args:
        path: the file to write.
        model: a trained network, which is folded first if it is not folded yet.
        images: images to check the program with, uint8 (n, c, *u), of the size that it is for.
        preprocessing: standardization and class names to include.

    Returns:
        The largest difference from the network's logits, relative to the largest logit.

    Raises:
        ValueError: if the difference is above 1e-5, or the network has three spatial axes, which ExecuTorch's portable
            convolution does not compute; nothing is written.
        ImportError: if executorch is missing; the text says how to install it.

    """
    axes = model.config.spatial_axes
    if axes not in (1, 2):
        raise ValueError(f"export executorch: expected one or two spatial axes; the network has {axes}")
    data = executorch_bytes(PlainNetwork(model, preprocessing, compact=False), tuple(images.shape[2:]), preprocessing)
    (runtime,) = needs("executorch", "executorch.runtime")
    method = runtime.Runtime.get().load_program(data).load_method("forward")

    def run(pixels: Tensor) -> Tensor:
        # The runtime reuses the memory of its output.
        return torch.cat([method.execute([pixels[i : i + 1].contiguous()])[0].clone() for i in range(len(pixels))])

    difference = check_outputs(run, model, preprocessing, images, str(path))
    write_atomically(path, data)
    return difference


def executorch_bytes(network: PlainNetwork, size: tuple[int, ...], preprocessing: Preprocessing) -> bytes:
    """The ExecuTorch program of a plain network.

    Args:
        network: holds its channel matrices (``compact=False``): XNNPACK refuses weights that are computed.
        size: spatial size of the images.
        preprocessing: its class names are included.

    Returns:
        The bytes of the file.

    Raises:
        ImportError: if executorch is missing.

    """
    exir, xnnpack = needs("executorch", "executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner")
    constants = {"producer": SIGNATURE, "classes": json.dumps(preprocessing.classes)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch and ExecuTorch warn about their own code
        example = torch.rand(1, network.config.channels, *size, dtype=torch.float32, device="cpu")
        program = torch.export.export(network, (example,), strict=False)
        lowered = exir.to_edge_transform_and_lower(
            program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods=constants
        )
        return bytes(lowered.to_executorch().buffer)
