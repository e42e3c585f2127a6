"""ONNX: one small file for onnxruntime and every other runtime that reads the format."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.parity import check_outputs, needs
from hcnn.export.plain_network import PlainNetwork
from hcnn.export.torch_program import SIDES, trace
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.storage.atomic import StrPath, write_atomically

OPSET = 18
_FOLD_AT_MOST = 1024  # entries; folding larger constants would replace the filters in the file by channel matrices


def export_onnx(
    path: StrPath, model: AttributeNetwork, images: Tensor, preprocessing: Preprocessing | None = None
) -> float:
    """Write an ONNX file (opset 18) with dynamic batch and image size, after checking it in onnxruntime.

    The file holds the filters w. Each channel matrix is a `Gather` of them, which runtimes compute once, when they load
    the file.

    Args:
        path: the file to write.
        model: a trained network, which is folded first if it is not folded yet.
        images: images to check the file with: uint8 (n, c, *u) with preprocessing, otherwise standardized.
        preprocessing: standardization to include; the input "images" then holds pixels between 0 and 1, float32. The
            class names go into the file's metadata.

    Returns:
        The largest difference from the network's logits, relative to the largest logit.

    Raises:
        ValueError: if the difference is above 1e-5; nothing is written.
        ImportError: if onnx, onnxscript or onnxruntime is missing; the text says how to install it.

    """
    data = onnx_bytes(PlainNetwork(model, preprocessing), preprocessing)
    difference = check_outputs(onnx_runner(data), model, preprocessing, images, str(path))
    write_atomically(path, data)
    return difference


def onnx_bytes(network: PlainNetwork, preprocessing: Preprocessing | None = None) -> bytes:
    """The ONNX file of a plain network.

    Args:
        network: the plain network, compact or not.
        preprocessing: recorded in the metadata.

    Returns:
        The bytes of the file; equal networks give equal bytes.

    Raises:
        ImportError: if onnx or onnxscript is missing.

    """
    _, onnxscript = needs("export", "onnx", "onnxscript")
    program = trace(network)
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        onnxscript.optimizer.optimize(exported.model, input_size_limit=_FOLD_AT_MOST, output_size_limit=_FOLD_AT_MOST)
    proto = exported.model_proto
    for node in proto.graph.node:  # the exporter records stack traces with paths of this machine
        del node.metadata_props[:]
        node.ClearField("doc_string")
    del proto.graph.value_info[:], proto.graph.metadata_props[:]
    sides = SIDES[network.config.spatial_axes]
    for value, names in ((proto.graph.input[0], ("batch", "", *sides)), (proto.graph.output[0], ("batch", ""))):
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if name:
                dim.dim_param = name
    proto.producer_name, proto.producer_version = "hcnn", ""
    about = {"input": "standardized images"}
    if preprocessing:
        about = {"input": "pixels / 255, channels first", "classes": json.dumps(preprocessing.classes)}
    for key, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto.SerializeToString(deterministic=True)


def onnx_runner(data: bytes | StrPath, threads: int | None = None) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function from images to logits that runs in onnxruntime on the CPU.

    Args:
        data: the file, or its bytes.
        threads: number of CPU threads. Default: as many as PyTorch uses.

    Returns:
        The function.

    Raises:
        ImportError: if onnxruntime is missing.

    """
    (runtime,) = needs("export", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    source = data if isinstance(data, bytes) else str(data)
    session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about torchvision and its own deprecation warnings."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
