"""The int8 file gives the same integers on every processor: NumPy evaluates it exactly, and as older x86 would.

x86 processors without VNNI instructions add two neighbouring products of uint8 activations and int8 weights in 16 bits,
and saturate. A machine that has those instructions cannot show the fault, so these tests look at the numbers in the
file, and compute with and without saturation in NumPy.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator

from hcnn import AttributeNetwork
from hcnn.data.image_set import ImageSet, Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.export import int8, int8_bytes, onnx_runner
from hcnn.export.int8 import calibration_images, measure_int8
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.factory import build, load_pretrained
from hcnn.runs.load import load_run
from hcnn.training.evaluate import predict_logits

# Sums of products: columns (..., n) of activations and rows (o, n) of weights -> (..., o).
Sums = Callable[[np.ndarray, np.ndarray], np.ndarray]


def by_onnx(data: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    """An int8 file as a map from bytes to logits."""
    return lambda images: onnx_runner(data)(images.float() / 255)


def exactly(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return columns.astype(np.float64) @ rows.T.astype(np.float64)  # integers below 2^53 are exact


def saturating(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each two neighbouring products are added in 16 bits."""
    sums = []
    for row in rows:
        products = columns * row
        if products.shape[-1] % 2:
            products = np.concatenate([products, np.zeros_like(products[..., :1])], -1)
        pairs = products[..., ::2] + products[..., 1::2]
        sums.append(np.clip(pairs, -(2**15), 2**15 - 1).sum(-1))
    return np.stack(sums, -1)


def saturating_in_the_worst_order(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """As `saturating`, with the largest weights of a sign side by side: no layout of a kernel does worse."""
    orders = [np.argsort(row) for row in rows]
    sums = [saturating(columns[..., order], row[None, order]) for order, row in zip(orders, rows, strict=True)]
    return np.concatenate(sums, -1)


class Evaluation:
    """An int8 ONNX file, evaluated in NumPy: its convolutions in integers, everything else by onnx's reference.

    Args:
        data: the file.
        sums: how products are added.
    """

    def __init__(self, data: bytes, sums: Sums = exactly) -> None:
        self.graph = onnx.load_from_string(data).graph
        self.sums = sums
        self.channels = self.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        self.constants = {entry.name: to_array(entry) for entry in self.graph.initializer}
        makers = {name: node for node in self.graph.node for name in node.output}
        self.convolutions: dict[str, tuple[Sequence[onnx.NodeProto], onnx.NodeProto]] = {}
        for node in self.graph.node:
            parts = [makers[name] for name in node.input if name in makers]
            if node.op_type == "Conv" and all(part.op_type == "DequantizeLinear" for part in parts):
                assert len(parts) == len(node.input)
                (quantizer,) = (one for one in self.graph.node if node.output[0] in one.input)
                self.convolutions[node.name] = parts, quantizer

    def run(self, images: np.ndarray, given: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Every tensor of the file for images (b, c, *u); those `given` are not computed."""
        known: dict[str, Any] = self.constants | {"images": images} | (given or {})
        for node in self.graph.node:
            if node.output[0] in known:
                continue
            if node.name in self.convolutions:
                known[self.convolutions[node.name][1].output[0]] = self.convolve(node, known)
            else:
                inputs = {name: known[name] for name in node.input if name}
                known |= dict(zip(node.output, ReferenceEvaluator(node).run(None, inputs), strict=True))
        return known

    def convolve(self, node: onnx.NodeProto, known: dict[str, np.ndarray]) -> np.ndarray:
        """The uint8 output of a convolution of uint8 by int8; scales are multiplied in float32, as in onnxruntime."""
        parts, quantizer = self.convolutions[node.name]
        (x, x_scale, x_zero), (w, w_scale, w_zero), *more = ([known[n] for n in part.input] for part in parts)
        y_scale, y_zero = (known[name] for name in quantizer.input[1:])
        bias = more[0][0] if more else np.int32(0)  # a bias of zeros is not in the file
        assert (x.dtype, w.dtype, bias.dtype) == (np.uint8, np.int8, np.int32)
        assert not w_zero.any()
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        axes = x.ndim - 2
        assert attributes["group"] == 1
        assert set(attributes["dilations"]) == {1}
        margins = np.reshape(attributes["pads"], (2, axes)).T.tolist()
        padded = np.pad(x.astype(np.int64), [(0, 0), (0, 0), *margins], constant_values=int(x_zero))
        windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], tuple(range(2, 2 + axes)))
        windows = windows[(..., *(slice(None, None, n) for n in attributes["strides"]), *[slice(None)] * axes)]
        columns = np.moveaxis(windows, 1, -1)  # (b, *u', *ku, c): channels last, as the kernels read them
        columns = columns.reshape(*columns.shape[: 1 + axes], -1)
        rows = np.moveaxis(w.astype(np.int64), 1, -1).reshape(len(w), -1)
        total = self.sums(columns, rows) - int(x_zero) * rows.sum(1) + bias  # (b, *u', o)
        scaled = total.astype(np.float32) * (x_scale * w_scale / y_scale).astype(np.float32)
        return np.moveaxis(np.clip(np.rint(scaled) + int(y_zero), 0, 255).astype(np.uint8), -1, 1)

    def matrices(self) -> dict[str, np.ndarray]:
        """The weights of each integer convolution, (o, all that is summed over)."""
        known: dict[str, Any] = dict(self.constants)
        for node in self.graph.node:
            if all(name in known for name in node.input):
                inputs = {name: known[name] for name in node.input}
                known |= dict(zip(node.output, ReferenceEvaluator(node).run(None, inputs), strict=True))
        weights = {name: known[parts[1].input[0]] for name, (parts, _) in self.convolutions.items()}
        return {name: w.reshape(len(w), -1).astype(np.int64) for name, w in weights.items()}


def worst_pairs(data: bytes) -> tuple[int, int]:
    """The smallest and the largest sum of two products in a file: any two of one output, for any activations."""
    matrices = Evaluation(data).matrices().values()
    ordered = [np.sort(rows, 1) for rows in matrices]
    lowest = min(int(np.minimum(rows[:, :2], 0).sum(1).min()) for rows in ordered)
    highest = max(int(np.maximum(rows[:, -2:], 0).sum(1).max()) for rows in ordered)
    return 255 * lowest, 255 * highest


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth color images of 32×32 with some noise, uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(72, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return ((smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def trained(images) -> bytes:
    """The int8 file of a trained network."""
    pretrained = load_pretrained("hcnn_small_cifar10")
    assert isinstance(pretrained.model, AttributeNetwork)
    return int8_bytes(pretrained.model, images[:64], pretrained.preprocessing)


def pixels(images: torch.Tensor) -> np.ndarray:
    return (images.float() / 255).numpy()


def test_convolutions_of_onnxruntime_are_the_exact_integers(trained, images) -> None:
    evaluation = Evaluation(trained)
    outputs = [quantizer.output[0] for _, quantizer in evaluation.convolutions.values()]
    inputs = [parts[0].input[0] for parts, _ in evaluation.convolutions.values()]
    names = [*inputs, *outputs]
    proto = onnx.load_from_string(trained)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = pixels(images[64:66])
    values: dict[str, Any] = dict(zip(names, session.run(names, {"images": batch}), strict=True))
    known = evaluation.run(batch, {name: values[name] for name in inputs})  # each from onnxruntime's own inputs
    assert len(outputs) == 11
    for name in outputs:
        np.testing.assert_array_equal(known[name], values[name])
        assert known[name].std() > 5


def test_the_file_evaluated_in_numpy_says_what_onnxruntime_says(trained, images) -> None:
    got = onnx_runner(trained)(images[64:68].float() / 255).numpy()
    expected = Evaluation(trained).run(pixels(images[64:68]))["logits"]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def small(boundary: Literal["zeros", "circular"], *, inner_elu: bool) -> bytes:
    """The int8 file of an untrained network of three layers."""
    torch.manual_seed(0)
    config = HierarchicalCNNConfig(
        channels=1,
        width=8,
        rank=4,
        depth=4,
        attribute_support=(3, 5),
        downsample=(),
        inner_elu=inner_elu,
        boundary=boundary,
    )
    grey = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    return int8_bytes(build(config).eval(), grey, Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789")))


@pytest.fixture(scope="module", params=["trained", "plus"])
def file(request, trained) -> bytes:
    # HCNN(+): its inner filters stay in float, its attribute step is of integers.
    return trained if request.param == "trained" else small("circular", inner_elu=True)


def test_no_two_products_of_a_sum_saturate_16_bits(file) -> None:
    lowest, highest = worst_pairs(file)
    assert -(2**15) <= lowest < -(2**14)  # the range is used, too
    assert 2**14 < highest < 2**15


@pytest.mark.parametrize("sums", [saturating, saturating_in_the_worst_order])
def test_a_processor_that_saturates_computes_the_same_integers(file, sums) -> None:
    evaluation = Evaluation(file)
    white_noise = np.random.default_rng(0).random((1, evaluation.channels, 8, 8)).astype(np.float32)
    exact, other = evaluation.run(white_noise), Evaluation(file, sums).run(white_noise)
    assert np.array_equal(exact["logits"], other["logits"])


def test_weights_of_8_bits_would_saturate(monkeypatch) -> None:
    """The two tests above can fail: 127 in place of 64 is what onnxruntime does by default."""
    monkeypatch.setattr(int8, "LARGEST_WEIGHT", 127)
    data = small("zeros", inner_elu=False)
    lowest, highest = worst_pairs(data)
    assert lowest < -(2**15)
    assert highest >= 2**15
    white_noise = np.random.default_rng(0).random((1, 1, 8, 8)).astype(np.float32)
    exact, other = (Evaluation(data, sums).run(white_noise)["logits"] for sums in (exactly, saturating))
    assert np.abs(exact - other).max() > 0.01 * np.abs(exact).max()


def test_int8_keeps_one_set_of_filters_and_most_answers(run, digits) -> None:
    loaded = load_run(run)
    data = int8_bytes(loaded.model, digits.train.images[:100], loaded.preprocessing)
    proto = onnx.load_from_string(data)
    filters = [entry for entry in proto.graph.initializer if entry.name.endswith("_filters")]
    assert len(filters) == len(loaded.model.layers)
    assert all(entry.data_type == onnx.TensorProto.INT8 for entry in filters)
    images = digits.validation.images
    exact = loaded.model(loaded.preprocessing.standardize(images)).argmax(1)
    assert (onnx_runner(data)(images.float() / 255).argmax(1) == exact).float().mean() > 0.9


def test_int8_wants_calibration_images(settled, standard) -> None:
    with pytest.raises(ValueError, match="export onnx --int8: expected calibration images; got none"):
        int8_bytes(settled("zeros"), torch.zeros(0, 1, 8, 8, dtype=torch.uint8), standard)


def test_int8_is_measured_on_images_that_the_network_was_not_trained_on(run, digits) -> None:
    loaded = load_run(run)
    model, standard = loaded.model, loaded.preprocessing
    calibration = calibration_images(digits.train)
    assert len(calibration) == 256
    first = [image.numpy().tobytes() for image in digits.train.images[:256]]
    assert len({image.numpy().tobytes() for image in calibration} & {*first}) < 128  # data may be ordered by class
    data = int8_bytes(model, calibration, standard)

    by_test = measure_int8(by_onnx(data), model, Splits(digits.train, test=digits.test), standard)
    assert (by_test.images, by_test.source, by_test.held_out) == (360, "digits/test", True)
    with torch.no_grad():
        exact = model(standard.standardize(digits.test.images)).argmax(1)
    answers = onnx_runner(data)(digits.test.images.float() / 255).argmax(1)
    expected = [(exact == digits.test.labels), (answers == digits.test.labels), (exact != answers)]
    got = [by_test.float32, by_test.int8, by_test.changed]
    assert got == pytest.approx([one.double().mean().item() for one in expected])

    only_training = measure_int8(by_onnx(data), model, Splits(digits.train), standard)
    assert (only_training.source, only_training.held_out) == ("digits/train", False)
    with pytest.raises(ValueError, match="digits/validation: expected the classes of the network, a, b; got 0, 1, 2"):
        measure_int8(by_onnx(data), model, digits, Preprocessing((0.0,), (1.0,), (8, 8), ("a", "b")))


def test_of_many_images_2000_drawn_at_random_are_measured(settled, standard) -> None:
    model = settled("zeros")
    images = torch.arange(2100).div(9, rounding_mode="floor").byte().reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    many = ImageSet(images.contiguous(), torch.arange(2100) % 10, standard.classes, "many")
    seen = []

    def run(images: torch.Tensor) -> torch.Tensor:
        seen.append(images[:, 0, 0, 0])
        return predict_logits(model, standard.standardize(images))

    loss = measure_int8(run, model, Splits(many), standard)
    assert (loss.images, loss.changed, loss.int8) == (2000, 0, loss.float32)
    assert torch.cat(seen).max() == images.max()  # data may be ordered by class
