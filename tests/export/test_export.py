"""Exported files against the network they were made from: real runtimes, a real compiler, real digits."""

import ctypes
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hcnn import cli
from hcnn.data import archives, datasets
from hcnn.data.image_set import Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.export import (
    PlainNetwork,
    c_source,
    export_c,
    export_onnx,
    export_program,
    export_safetensors,
    int8_bytes,
    load_folded,
    onnx_runner,
)
from hcnn.export.c_source import FLAGS
from hcnn.export.int8 import calibration_images, measure_int8
from hcnn.export.onnx_file import onnx_bytes
from hcnn.export.parity import check_outputs
from hcnn.export.plain_network import flatten_taps
from hcnn.functional import dense_weight
from hcnn.layers.folded import FoldedConv
from hcnn.models.hierarchical import AttributeNetwork, HierarchicalCNNConfig, MultiscaleConfig, build
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

SMALL = HierarchicalCNNConfig(channels=1, width=8, rank=4, depth=6, attribute_support=(3, 5), downsample=(4,))
CONFIGS = {
    "zeros": SMALL,
    "circular": HierarchicalCNNConfig(**{**vars(SMALL), "boundary": "circular", "attribute_support": (5, 9)}),
    "plus": HierarchicalCNNConfig(**{**vars(SMALL), "inner_elu": True}),
    "plus circular": HierarchicalCNNConfig(**{**vars(SMALL), "inner_elu": True, "boundary": "circular"}),
    "published": HierarchicalCNNConfig(
        **{**vars(SMALL), "inner_elu": True, "inner_affine": True, "readout": "linear", "channels": 3}
    ),
    "line": HierarchicalCNNConfig(**{**vars(SMALL), "spatial_axes": 1}),
    "multiscale": MultiscaleConfig(channels=1, width=4, depth=4, downsample=(2,)),
}
STANDARD = Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789"))


def _settled(config: HierarchicalCNNConfig | MultiscaleConfig) -> AttributeNetwork:
    """A network whose statistics, and linear readout, are not the initial ones."""
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for _ in range(3):
            model(1.5 * torch.randn(8, config.channels, *[8] * config.spatial_axes) + 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def digits() -> Splits:
    return datasets.load("digits", validation=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    recipe = get_recipe("digits", epochs=1)
    train_run(folder, RunSettings(SMALL, recipe, "digits"), digits)
    return folder


# ------------------------------------------------------------------------------------------------- the plain network


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("sizes", "support", "stride"), [((8,), (5,), (2,)), ((4, 8), (5, 7), (2, 2)), ((4, 6, 2), (3, 3, 3), (1, 2, 1))]
)
def test_taps_and_their_index_are_the_dense_weight(sizes, support, stride, boundary) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, *support, 3, 3, dtype=torch.float64)
    taps = flatten_taps(weight, sizes, stride, boundary, channel_axis=True)
    padded = torch.cat([taps.weight, torch.zeros_like(taps.weight[:, :1])], 1)
    gathered = padded[:, taps.index]  # (k, o, a, c, 3, 3); -1 is the row of zeros
    dense = gathered.movedim(1, 0).reshape(-1, taps.index.shape[1] * 2, 3, 3)
    torch.testing.assert_close(dense, dense_weight(weight, sizes, stride, boundary, channel_axis=True))


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_plain_network_says_what_the_network_says(config, compact) -> None:
    model = _settled(config)
    x = torch.randn(3, config.channels, *[12, 8][: config.spatial_axes])
    with torch.no_grad():
        expected, got = model(x), PlainNetwork(model, compact=compact)(x)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_network_in_double_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a float32 network on the CPU; got torch\.float64 on cpu"):
        PlainNetwork(_settled(SMALL).double())


# ------------------------------------------------------------------------------------------------------ ONNX, program


@pytest.mark.parametrize("name", ["zeros", "plus circular"])
def test_onnx_and_program_take_any_batch_and_size(name, tmp_path, digits) -> None:
    model = _settled(CONFIGS[name])
    images = digits.test.images[:40]
    assert export_onnx(tmp_path / "a.onnx", model, images, STANDARD) < 1e-5
    assert export_program(tmp_path / "a.pt2", model, images, STANDARD) < 1e-5
    program = torch.export.load(tmp_path / "a.pt2").module()
    other = images[:3].repeat(1, 1, 2, 1)  # 16×8, which neither was made with
    with torch.no_grad():
        expected = model(STANDARD.standardize(other))
        for run in (onnx_runner(tmp_path / "a.onnx"), program):
            got = run(other.float() / 255)
            assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    text = (tmp_path / "a.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in text  # no stack traces, no paths
    proto = onnx.load_from_string(text)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 18
    assert {entry.key: entry.value for entry in proto.metadata_props}["classes"] == json.dumps(list("0123456789"))
    onnx.checker.check_model(proto)


def test_the_onnx_file_holds_filters_and_is_reproducible(tmp_path, digits) -> None:
    model = _settled(SMALL)
    for name in "ab":
        export_onnx(tmp_path / name, model, digits.test.images[:2], STANDARD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    weights = sum(p.numel() for p in model.fold().parameters())
    assert (tmp_path / "a").stat().st_size < 4 * weights + 25_000
    graph = onnx.load(str(tmp_path / "a")).graph
    assert all(node.domain == "" for node in graph.node)  # standard operators only


@pytest.mark.parametrize(
    ("name", "sides"), [("zeros", ["height", "width"]), ("circular", ["height", "width"]), ("line", ["length"])]
)
def test_dimensions_of_the_onnx_file_have_names(name, sides) -> None:
    graph = onnx.load_from_string(onnx_bytes(PlainNetwork(_settled(CONFIGS[name])))).graph
    (given,), (made,) = graph.input, graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (given, made)]
    assert shapes == [["batch", 1, *sides], ["batch", 10]]


@pytest.mark.parametrize("name", ["zeros", "plus circular", "multiscale"])
def test_an_empty_batch_has_no_answers_in_pytorch_and_in_every_file(name, tmp_path) -> None:
    model = _settled(CONFIGS[name])
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
def test_the_older_onnx_exporter_writes_the_same_network(name) -> None:
    model = _settled(CONFIGS[name])
    x = torch.randn(3, 1, *[12, 8][: model.config.spatial_axes])
    file = io.BytesIO()
    names = {"input_names": ["images"], "output_names": ["logits"]}
    dynamic = {"images": {0: "batch", 2: "height"}, "logits": {0: "batch"}}
    torch.onnx.export(PlainNetwork(model), (x[:2],), file, dynamo=False, dynamic_axes=dynamic, **names)
    run = onnx_runner(file.getvalue())
    with torch.no_grad():
        expected = model(x)
    assert (run(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert run(x[:0]).shape == (0, 10)


def test_an_export_that_differs_is_not_written(tmp_path) -> None:
    model = _settled(SMALL)
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"here\.onnx: its logits differ by .* expected at most 1e-05. Nothing was"):
        check_outputs(lambda x: torch.ones(2, 10), model, STANDARD, images, "here.onnx")
    with pytest.raises(ValueError, match=r"expected logits of shape \(2, 10\); got \(2, 9\)"):
        check_outputs(lambda x: torch.ones(2, 9), model, STANDARD, images, "here.onnx")
    with pytest.raises(ValueError, match="differ by nan"):
        check_outputs(lambda x: torch.full((2, 10), torch.nan), model, STANDARD, images, "here.onnx")


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


# --------------------------------------------------------------------------------------------------------------- C99


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_c_compiles_without_warnings_and_agrees(config, tmp_path) -> None:
    model = _settled(config)
    size = (12, 8)[: config.spatial_axes]
    names = ('a "quoted" name', "é", "??/", *map(str, range(3, config.classes)))
    standard = Preprocessing((0.3,) * config.channels, (0.4,) * config.channels, size, names)
    images = torch.randint(0, 256, (5, config.channels, *size), dtype=torch.uint8)
    source, difference = export_c(tmp_path / "net.c", model, images, standard)
    assert difference is not None
    assert difference < 1e-5
    # As a library, which is how it will be used.
    command = ["gcc", *FLAGS, "-pedantic", "-shared", "-fPIC", str(tmp_path / "net.c"), "-lm", "-o"]
    subprocess.run([*command, str(tmp_path / "net.so")], check=True)
    library = ctypes.CDLL(str(tmp_path / "net.so"))
    logits = np.zeros(config.classes, np.float32)
    pointer = logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    found = (ctypes.c_char_p * config.classes).in_dll(library, "hcnn_classes")
    assert [one.decode() for one in found] == list(names)
    for image in images:  # several calls: the static buffers must not remember
        best = library.hcnn_classify(image.numpy().ctypes.data_as(ctypes.c_char_p), pointer)
        with torch.no_grad():
            expected = model(standard.standardize(image[None]))[0]
        assert np.abs(logits - expected.numpy()).max() < 1e-5 * expected.abs().max()
        assert best == expected.argmax()
    symbols = subprocess.run(["nm", "-D", "-u", str(tmp_path / "net.so")], capture_output=True, text=True, check=True)
    assert "malloc" not in symbols.stdout
    size_of = subprocess.run(["size", str(tmp_path / "net.so")], capture_output=True, text=True, check=True)
    text, data, bss = map(int, size_of.stdout.splitlines()[1].split()[:3])
    assert source.table_bytes < text + data < source.table_bytes + 16_000
    assert source.buffer_bytes <= bss < source.buffer_bytes + 1000


def test_multiply_adds_of_the_c_file_are_counted_exactly() -> None:
    config = HierarchicalCNNConfig(channels=3, classes=2, width=4, depth=3, attribute_support=(3, 3), downsample=())
    source = c_source(PlainNetwork(_settled(config), STANDARD), STANDARD, (5, 4))
    first = 20 * 3 * 4 * 9
    pairs = 2 + 3  # two outputs along v1: the first filter reaches over the border, the second does not
    second = 20 * pairs * 2 * 9
    assert source.multiply_adds == first + second


def test_c_refuses_volumes() -> None:
    config = HierarchicalCNNConfig(**{**vars(SMALL), "spatial_axes": 3})
    network = PlainNetwork(_settled(config))
    with pytest.raises(ValueError, match="expected one or two spatial axes with a size each; the network has 3"):
        c_source(network, STANDARD, (8, 8, 8))


# -------------------------------------------------------------------------------------------------- folded weights


def test_folded_weights_come_back(tmp_path) -> None:
    model = _settled(CONFIGS["plus"])
    export_safetensors(tmp_path / "out", model, STANDARD, "# card\n")
    again, preprocessing = load_folded(tmp_path / "out")
    assert preprocessing == STANDARD
    assert again.folded
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert (again(x) - model(x)).abs().max() < 1e-5 * model(x).abs().max()
    (tmp_path / "bad").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="is a pickle; hcnn reads safetensors only"):
        load_folded(tmp_path / "bad")
    assert any(isinstance(layer, FoldedConv) for layer in again.layers)


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_exports_everything(run, capsys) -> None:
    for target, file in (("onnx", "model.onnx"), ("torch", "model.pt2"), ("c", "model.c")):
        assert cli.main(["export", str(run), "--to", target]) == 0
        out = capsys.readouterr().out
        assert "checking with 64 images of digits/test" in out
        assert re.search(r"largest difference from the trained network: \d+e-0[678]", out), out
        assert (run / file).is_file()
    assert "multiply-adds an image of 1x8x8" in out
    assert cli.main(["export", str(run), "--to", "safetensors"]) == 0
    card = (run / "folded" / "README.md").read_text()
    for part in ("## Architecture", "| total |", "`digits`", "| lr | 0.1 |", "One seed: no spread", "## Limits"):
        assert part in card, part
    recorded = json.loads((run / "result.json").read_text())
    assert f"test: {recorded['test_accuracy']:.2%} of 360 images, seed 0" in card
    assert cli.main(["export", str(run), "--to", "onnx", "--int8"]) == 0
    out = capsys.readouterr().out
    assert "calibrated on 256 images of digits/train" in out
    numbers = r"float32 [\d.]+%, int8 [\d.]+% \([+-][\d.]+%\); [\d.]+% of the answers differ"
    assert re.search(rf"accuracy on 200 images of digits/validation: {numbers}", out), out
    assert cli.main(["export", str(run), "--to", "c", "--image-size", "16", "--output", str(run / "16.c")]) == 0
    assert "1x16x16" in capsys.readouterr().out


def _error(capsys, *arguments: object) -> str:
    assert cli.main([str(one) for one in arguments]) == 2
    return capsys.readouterr().err.replace("\n", " ")


def test_what_cannot_be_exported_is_explained(run, tmp_path, capsys) -> None:
    assert "--int8: only for --to onnx" in _error(capsys, "export", run, "--to", "c", "--int8")
    assert "--image-size: only for --to c" in _error(capsys, "export", run, "--to", "onnx", "--image-size", "9")
    assert "expected config.json in it" in _error(capsys, "export", tmp_path, "--to", "onnx")
    assert "name another data set with --data" in _error(capsys, "export", run, "--to", "onnx", "--data", "nowhere")
    assert not list(tmp_path.iterdir())


def test_int8_is_measured_on_images_that_the_network_was_not_trained_on(run, digits) -> None:
    loaded = load_run(run)
    model, standard = loaded.model, loaded.preprocessing
    calibration = calibration_images(digits.train)
    assert len(calibration) == 256
    first = [image.numpy().tobytes() for image in digits.train.images[:256]]
    assert len({image.numpy().tobytes() for image in calibration} & {*first}) < 128  # data may be ordered by class
    data = int8_bytes(model, calibration, standard)

    by_test = measure_int8(data, model, Splits(digits.train, test=digits.test), standard)
    assert (by_test.images, by_test.source, by_test.held_out) == (360, "digits/test", True)
    with torch.no_grad():
        exact = model(standard.standardize(digits.test.images)).argmax(1)
    answers = onnx_runner(data)(digits.test.images.float() / 255).argmax(1)
    expected = [(exact == digits.test.labels), (answers == digits.test.labels), (exact != answers)]
    got = [by_test.float32, by_test.int8, by_test.changed]
    assert got == pytest.approx([one.double().mean().item() for one in expected])

    only_training = measure_int8(data, model, Splits(digits.train), standard)
    assert (only_training.source, only_training.held_out) == ("digits/train", False)
    with pytest.raises(ValueError, match="digits/validation: expected the classes of the network, a, b; got 0, 1, 2"):
        measure_int8(data, model, digits, Preprocessing((0.0,), (1.0,), (8, 8), ("a", "b")))


def _somewhere_else(run: Path, folder: Path, data: str) -> Path:
    """A copy of a run on a machine that lacks its data."""
    folder.mkdir()
    for name in ("config.json", "result.json", "weights.safetensors"):
        folder.joinpath(name).write_bytes((run / name).read_bytes().replace(b'"data": "digits"', data.encode()))
    return folder


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('"data": "cifar10"', "cifar10 is not in "),
        ('"data": "/nowhere/photos"', "/nowhere/photos: the images cannot be read (no such file or folder"),
    ],
)
def test_a_network_is_exported_where_its_data_is_not(data, reason, run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(archives, "fetch", None)  # nothing is downloaded for a check
    moved = _somewhere_else(run, tmp_path / "run", data)
    arguments = ["export", str(moved), "--to", "onnx", "--data-dir", str(tmp_path)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert f"checking with 64 synthetic images, because {reason}" in out
    assert re.search(r"largest difference from the trained network: \d+e-0[678]", out), out
    if "cifar" not in data:  # int8 needs real images
        assert "name another data set with --data" in _error(capsys, *arguments, "--int8")


def test_pretrained_weights_are_exported_without_any_data(tmp_path, capsys) -> None:
    arguments = ["hcnn_small_cifar10", "--to", "c", "--output", str(tmp_path / "a.c"), "--data-dir", str(tmp_path)]
    assert cli.main(["export", *arguments]) == 0
    assert f"64 synthetic images, because cifar10 is not in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "name"), [("onnx", "a.onnx"), ("torch", "a.pt2"), ("c", "a.c"), ("safetensors", "f")]
)
def test_only_files_of_an_earlier_export_are_replaced(target, name, run, tmp_path, capsys) -> None:
    path = tmp_path / name
    arguments = ["export", run, "--to", target, "--output", path]
    assert cli.main([str(one) for one in arguments]) == 0
    assert cli.main([str(one) for one in arguments]) == 0  # our own
    written = [path / "README.md", path / "model.safetensors"] if target == "safetensors" else [path]
    for one in written:
        before = one.read_bytes()
        for other in (b"# My notes\n", b"", b"PK\x03\x04 of something", b"\x08\x07\x12\x07pytorch"):
            one.write_bytes(other)
            error = _error(capsys, *arguments)
            assert f"{one}: the file exists and hcnn export did not write it; add --force to replace it" in error
            assert one.read_bytes() == other
        assert cli.main([str(part) for part in (*arguments, "--force")]) == 0
        assert one.read_bytes()[:100] == before[:100]


def test_folders_links_to_nothing_and_devices_are_never_replaced(run, tmp_path, capsys) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("folder", "a folder"), ("link", "a link to nothing"), ("pipe", "a device")):
        error = _error(capsys, "export", run, "--to", "c", "--force", "--output", tmp_path / name)
        assert f"expected a file or a free name; it is {kind}" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(missing, run, tmp_path) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None\nfrom hcnn import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "export", str(run), "--to", "onnx", "--output", str(tmp_path / "a.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"this needs {missing}: pip install 'hcnn[export]'" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "a.onnx").exists()
