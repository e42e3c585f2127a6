"""ONNX files with static int8 quantization; calibration on training images, and the loss on held-out images."""

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.data.image_set import ImageSet, Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.export.onnx_file import onnx_bytes
from hcnn.export.parity import needs
from hcnn.export.plain_network import PlainLayer, PlainNetwork
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.network import Network
from hcnn.storage.safetensors import shortened
from hcnn.training.evaluate import predict_logits

CALIBRATION_IMAGES, MEASURED_IMAGES = 256, 2000

# x86 processors without VNNI instructions add two neighbouring products of unsigned 8-bit activations and signed 8-bit
# weights in 16 bits, and saturate: 2 · 255 · 127 does not fit, 2 · 255 · 64 does. So weights use 7 bits, and the
# integers that a convolution computes are the same on every processor.
LARGEST_WEIGHT = 64


def int8_bytes(model: AttributeNetwork, calibration: Tensor, preprocessing: Preprocessing) -> bytes:
    """An ONNX file whose convolutions multiply int8 by uint8, quantized by onnxruntime.

    Weights are symmetric per filter k and use 7 bits (-64 to 64), so that the convolutions give the same integers on
    every processor; activations are quantized per tensor, with ranges from the calibration images. As in the float
    file, the channel matrices are gathered from the filters when the file is loaded.

    Args:
        model: a trained network.
        calibration: uint8 training images (n, c, *u).
        preprocessing: standardization to include.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: if there are no calibration images, or the network cannot be exported, as `PlainNetwork` says.
        ImportError: if onnx, onnxscript or onnxruntime is missing.

    """
    if not len(calibration):
        raise ValueError("export onnx --int8: expected calibration images; got none")
    onnx, quantization = needs("export", "onnx", "onnxruntime.quantization")
    network = PlainNetwork(model, preprocessing)
    dense = PlainNetwork(model, preprocessing, compact=False)
    source = onnx_bytes(dense, preprocessing)
    names, nodes = _weights(onnx, source, dense)
    with tempfile.TemporaryDirectory(prefix="hcnn-export-") as folder, warnings.catch_warnings(), _quiet_root():
        warnings.simplefilter("ignore")
        given, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(source)
        quantization.quantize_static(
            str(given),
            str(target),
            _reader(quantization, calibration),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=nodes,
            per_channel=True,
            extra_options={"TensorQuantOverrides": _ranges(network, names)},
        )
        proto = onnx.load(str(target))
    for layer, name in zip(network.layers, names, strict=True):
        assert isinstance(layer, PlainLayer)
        _gather(onnx, proto, layer, name)
    proto.producer_name, proto.producer_version = "hcnn", ""
    return proto.SerializeToString(deterministic=True)


def calibration_images(train: ImageSet) -> Tensor:
    """256 training images, drawn at random with a fixed seed, since a data set may be ordered by class.

    Args:
        train: the training set.

    Returns:
        uint8 (n, c, *u); all of them where there are fewer.

    """
    return train.images[_drawn(len(train), CALIBRATION_IMAGES)]


def _drawn(n: int, count: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count]


@dataclass(frozen=True)
class Int8Loss:
    """How the answers of an int8 file differ from those of its network.

    Attributes:
        images: how many images it was measured on.
        source: which images these are.
        held_out: False if the network was trained on them.
        float32: accuracy of the network.
        int8: accuracy of the int8 file.
        changed: share of the images that get another class.
    """

    images: int
    source: str
    held_out: bool
    float32: float
    int8: float
    changed: float


def measure_int8(
    run: Callable[[Tensor], Tensor], model: Network, splits: Splits, preprocessing: Preprocessing
) -> Int8Loss:
    """Compare a network in int8 with the network that it was made from, on images that this was not trained on.

    Args:
        run: the network in int8, from bytes (n, c, *u) to logits (n, classes) in any unit.
        model: the network in float32.
        splits: its data: validation images are used, else test images, and training images only where there are
            neither. Of more than 2,000 images 2,000 are drawn at random, with a fixed seed.
        preprocessing: of the network.

    Returns:
        Both accuracies, and how often the answers differ.

    Raises:
        ValueError: if the data has other classes than the network.

    """
    held = splits.validation or splits.test
    source = held or splits.train
    if source.classes != preprocessing.classes:
        raise ValueError(
            f"{source.name}: expected the classes of the network, {shortened(preprocessing.classes)}; "
            f"got {shortened(source.classes)}"
        )
    chosen = source.subset(_drawn(len(source), MEASURED_IMAGES))
    answers: list[Tensor] = []
    for images in chosen.images.split(100):
        exact = predict_logits(model, preprocessing.standardize(images))
        answers.append(torch.stack([exact.argmax(1), run(images).argmax(1)]))
    exact, quantized = torch.cat(answers, 1)
    float32, int8 = ((one == chosen.labels).float().mean().item() for one in (exact, quantized))
    changed = (exact != quantized).float().mean().item()
    return Int8Loss(len(chosen), source.name, held is not None, float32, int8, changed)


def _weights(onnx: Any, source: bytes, dense: PlainNetwork) -> tuple[list[str], list[str]]:
    """Names of the channel matrices in the file and of the convolutions that use them, layer by layer."""
    graph = onnx.load_from_string(source).graph
    held = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    convolutions = [(node.input[1], node.name) for node in graph.node if node.op_type == "Conv"]
    found = []
    for layer in dense.layers:
        assert isinstance(layer, PlainLayer)
        matrix = layer.weight.numpy()
        found.append(next(pair for pair in convolutions if pair[0] in held and np.array_equal(held[pair[0]], matrix)))
        convolutions.remove(found[-1])
    return [weight for weight, _ in found], [node for _, node in found]


def _ranges(network: PlainNetwork, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """One range per filter k, whatever the output o, so that all outputs can gather from the same int8 filters.

    onnxruntime maps the range to -127 … 127; the range is widened so that the filter itself stays in 7 bits.
    """
    widened = 127 / LARGEST_WEIGHT
    overrides = {}
    for layer, name in zip(network.layers, names, strict=True):
        assert isinstance(layer, PlainLayer)
        largest = layer.weight.abs().flatten(1).amax(1).clamp_min(1e-12) * widened
        rows = largest.repeat(len(layer.taps.index)).tolist()
        overrides[name] = [{"axis": 0, "rmin": -value, "rmax": value} for value in rows]
        for entry in overrides[name][1:]:
            del entry["axis"]
    return overrides


def _gather(onnx: Any, proto: Any, layer: PlainLayer, name: str) -> None:
    """Replace an int8 channel matrix in the file by the filters and the operations that gather them."""
    graph, helper = proto.graph, onnx.helper
    entry = next(one for one in graph.initializer if one.name == f"{name}_quantized")
    matrix = onnx.numpy_helper.to_array(entry)
    outputs, inputs = layer.taps.index.shape
    filters, taps, *rest = layer.weight.shape
    split = matrix.reshape(outputs, filters, inputs, *rest)  # (o, k, a, c, *ku)
    compact = np.zeros((filters, taps, *rest), np.int8)
    assert layer.index is not None
    index = layer.index.numpy().astype(np.int64).reshape(outputs, inputs)
    for o in range(outputs):
        compact[:, index[o]] = split[o]
    compact[:, -1] = 0  # for pairs without a tap
    if not np.array_equal(compact[:, index.ravel()].reshape(filters, outputs, inputs, *rest).swapaxes(0, 1), split):
        raise ValueError(f"int8: the quantized matrix of {name} does not come from one set of filters")
    graph.initializer.remove(entry)
    table = f"index_{_digest(index)}"
    new = {
        f"{name}_filters": compact,
        f"{name}_split": np.array([filters, outputs, inputs, *rest], np.int64),
        f"{name}_shape": np.array(matrix.shape, np.int64),
        table: index.ravel().astype(np.int32),
    }
    known = {one.name for one in graph.initializer}
    graph.initializer.extend(onnx.numpy_helper.from_array(v, key) for key, v in new.items() if key not in known)
    order = [1, 0, *range(2, 3 + len(rest))]
    nodes = [
        helper.make_node("Gather", [f"{name}_filters", table], [f"{name}_rows"], axis=1),
        helper.make_node("Reshape", [f"{name}_rows", f"{name}_split"], [f"{name}_k"]),
        helper.make_node("Transpose", [f"{name}_k"], [f"{name}_o"], perm=order),
        helper.make_node("Reshape", [f"{name}_o", f"{name}_shape"], [f"{name}_quantized"]),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _digest(index: np.ndarray) -> str:
    return hashlib.sha256(index.tobytes()).hexdigest()[:12]


@contextmanager
def _quiet_root() -> Iterator[None]:
    """Silence onnxruntime's advice on the root logger about a step that this file does not need."""
    logger = logging.getLogger()
    logger.addFilter(_no_advice)
    try:
        yield
    finally:
        logger.removeFilter(_no_advice)


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()


def _reader(quantization: Any, images: Tensor) -> Any:
    batches: Iterator[Tensor] = iter(images.split(64))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": (batch.float() / 255).numpy()}

    return Reader()
