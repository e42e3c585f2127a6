"""ONNX files and torch.export programs in their runtimes."""

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from hcnn.data.preprocessing import Preprocessing
from hcnn.export import PlainNetwork, export_onnx, export_program, onnx_runner
from hcnn.export.onnx_file import onnx_bytes
from hcnn.export.parity import check_outputs, needs
from hcnn.export.torch_program import trace
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.factory import build


@pytest.mark.parametrize("name", ["zeros", "plus circular"])
def test_onnx_and_program_take_any_batch_and_size(name, tmp_path, digits, settled, standard) -> None:
    model = settled(name)
    images = digits.test.images[:40]
    assert export_onnx(tmp_path / "a.onnx", model, images, standard) < 1e-5
    assert export_program(tmp_path / "a.pt2", model, images, standard) < 1e-5
    program = torch.export.load(tmp_path / "a.pt2").module()
    other = images[:3].repeat(1, 1, 2, 1)  # 16×8, which neither was made with
    with torch.no_grad():
        expected = model(standard.standardize(other))
        for run in (onnx_runner(tmp_path / "a.onnx"), program):
            got = run(other.float() / 255)
            assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    text = (tmp_path / "a.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in text  # no stack traces, no paths
    proto = onnx.load_from_string(text)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 18
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert about == {"input": "pixels / 255, channels first", "classes": json.dumps(list("0123456789"))}
    onnx.checker.check_model(proto)


def test_the_onnx_file_holds_filters_and_is_reproducible(tmp_path, digits, settled, standard) -> None:
    model = settled("zeros")
    for name in "ab":
        export_onnx(tmp_path / name, model, digits.test.images[:2], standard)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    weights = sum(p.numel() for p in model.fold().parameters())
    assert (tmp_path / "a").stat().st_size < 4 * weights + 25_000
    graph = onnx.load(str(tmp_path / "a")).graph
    assert all(node.domain == "" for node in graph.node)  # standard operators only


def test_the_onnx_file_says_what_it_takes_and_nothing_of_the_exporter(settled) -> None:
    level = logging.getLogger("torch.onnx._internal.exporter._registration").level
    proto = onnx.load_from_string(onnx_bytes(PlainNetwork(settled("zeros"))))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"input": "standardized images"}
    assert (proto.producer_name, proto.producer_version) == ("hcnn", "")
    assert not proto.graph.value_info
    assert not proto.graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert logging.getLogger("torch.onnx._internal.exporter._registration").level == level


@pytest.mark.parametrize(("name", "side"), [("published", 3), ("plus circular", 4)])
def test_a_program_holds_matrices_and_takes_the_smallest_promised_images(name, side, tmp_path, settled) -> None:
    model = settled(name)
    channels = model.config.channels
    export_program(tmp_path / "a.pt2", model, torch.randn(2, channels, 8, 8))
    program = torch.export.load(tmp_path / "a.pt2")
    assert "index_select" not in str(program.graph)
    x = torch.randn(1, channels, side, side)
    with torch.no_grad():
        expected = model(x)
    assert (program.module()(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("support", "downsample", "side"), [(5, (), 3), (7, (3,), 8)])
def test_long_filters_of_a_periodic_network_are_traced(support, downsample, side) -> None:
    config = HierarchicalCNNConfig(
        channels=1, classes=3, width=4, rank=2, depth=5, attribute_support=(3, 3), spatial_support=support,
        downsample=downsample, boundary="circular",
    )  # fmt: skip
    model, x = build(config).eval(), torch.randn(1, 1, side, side)
    program = trace(PlainNetwork(model)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError, match=rf"Guard failed: .*>= {side}"):
        program(x[..., : side - (2 if downsample else 1), :])


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_a_network_whose_logits_are_none_is_not_written(export, tmp_path, settled, standard) -> None:
    model, images = settled("zeros"), torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    large = Preprocessing((0.0,), (1e-30,), (8, 8), standard.classes)
    with torch.no_grad():
        model.readout.scale.fill_(1e30)
        assert not model(large.standardize(images)).isfinite().all()
    with pytest.raises(ValueError, match=r"differ by nan .* Nothing was written"):
        export(tmp_path / "a", model, images, large)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "size", "least"),
    [("zeros", (1, 20), "(3, 3)"), ("plus circular", (4, 2), "(4, 4)"), ("line", (2,), "(3,)")],
)
def test_images_smaller_than_a_program_takes_are_refused(name, size, least, tmp_path, settled) -> None:
    message = re.escape(f"expected images of at least {least}, the smallest that a program takes; got {size}")
    with pytest.raises(ValueError, match=message):
        export_program(tmp_path / "a.pt2", settled(name), torch.zeros(2, 1, *size))
    assert not [*tmp_path.iterdir()]


def test_a_comparison_wants_images(settled) -> None:
    model = settled("zeros")
    with pytest.raises(ValueError, match=r"a\.onnx: expected images to compare it with the network on; got none"):
        check_outputs(model, model, None, torch.zeros(0, 1, 8, 8), "a.onnx")


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("zeros", ["height", "width"]),
        ("circular", ["height", "width"]),
        ("line", ["length"]),
        ("volume", ["depth", "height", "width"]),
    ],
)
def test_dimensions_of_the_onnx_file_have_names(name, sides, settled) -> None:
    graph = onnx.load_from_string(onnx_bytes(PlainNetwork(settled(name)))).graph
    (given,), (made,) = graph.input, graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (given, made)]
    assert shapes == [["batch", 1, *sides], ["batch", 10]]


@pytest.mark.parametrize("name", ["zeros", "plus circular", "multiscale"])
def test_an_empty_batch_has_no_answers_in_pytorch_and_in_every_file(name, tmp_path, settled) -> None:
    model = settled(name)
    empty = torch.zeros(0, 1, 8, 8)
    for network in (model, model.fold(), PlainNetwork(model)):
        assert network(empty).shape == (0, 10)
    logits, arrays = model(empty, return_arrays=True)
    assert logits.shape == (0, 10)
    assert [len(array.values) for array in arrays.values()] == [0] * len(model.layers)
    export_program(tmp_path / "a.pt2", model, torch.zeros(1, 1, 8, 8))
    for run in (onnx_runner(onnx_bytes(PlainNetwork(model))), torch.export.load(tmp_path / "a.pt2").module()):
        assert run(empty).shape == (0, 10)
    with pytest.raises(ValueError, match="layer 1: expected at least one entry along each of"):
        model.train()(empty)  # it has no statistics


@pytest.mark.filterwarnings("ignore")  # of an exporter that PyTorch deprecates
@pytest.mark.parametrize("name", ["zeros", "plus circular", "line", "multiscale"])
def test_the_older_onnx_exporter_writes_the_same_network(name, settled) -> None:
    model = settled(name)
    x = torch.randn(3, 1, *[12, 8][: model.config.spatial_axes])
    file: Any = io.BytesIO()  # as the older exporter takes it
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    dynamic = {"images": {0: "batch", 2: "height"}, "logits": {0: "batch"}}
    torch.onnx.export(PlainNetwork(model), (x[:2],), file, dynamo=False, dynamic_axes=dynamic, **names)
    run = onnx_runner(file.getvalue())
    with torch.no_grad():
        expected = model(x)
    assert (run(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert run(x[:0]).shape == (0, 10)


def test_an_export_that_differs_is_not_written(settled, standard) -> None:
    model = settled("zeros")
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"here\.onnx: its logits differ by .* expected at most 1e-05. Nothing was"):
        check_outputs(lambda x: torch.ones(2, 10), model, standard, images, "here.onnx")
    with pytest.raises(ValueError, match=r"expected logits of shape \(2, 10\); got \(2, 9\)"):
        check_outputs(lambda x: torch.ones(2, 9), model, standard, images, "here.onnx")
    with pytest.raises(ValueError, match="differ by nan"):
        check_outputs(lambda x: torch.full((2, 10), torch.nan), model, standard, images, "here.onnx")


def test_a_package_that_lacks_a_package_of_its_own_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "installed_but_broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_package'$"):
        needs("export", "installed_but_broken")
