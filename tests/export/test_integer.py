"""The C file in 8-bit integers: bit for bit a NumPy evaluation, under sanitizers, and on a Cortex-M4 in QEMU."""

import dataclasses
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import hcnn
from hcnn import cli
from hcnn.data.preprocessing import FloatPreprocessing, Preprocessing
from hcnn.export import CSource, export_c_int8
from hcnn.export.check_images import synthetic_images
from hcnn.export.integer import program
from hcnn.export.integer.arena import Use, place
from hcnn.export.integer.chain import Chain, Convolution, chain_of
from hcnn.export.integer.evaluate import convolve, integer_logits
from hcnn.export.integer.quantize import IntegerConvolution, IntegerNetwork, Rescale, array_range, quantize, rescaling
from hcnn.export.integer.source import integer_source
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.factory import build
from hcnn.models.network import Network

Array = NDArray[np.int64]
Written = tuple[Network, Preprocessing, Tensor, CSource, IntegerNetwork, Path]

# Sides that strides do not divide, one pixel wide pairs of columns, filters in odd number, and every kind of axis.
KINDS = {
    "zeros": (9, 7),
    "circular": (12, 8),
    "line": (13,),
    "multiscale": (6, 7),
    "linear": (8, 5),
    "odd": (7, 9),
    "negative": (8, 8),
    "resnet8": (9, 7),
}
CONFIGS = {
    "linear": HierarchicalCNNConfig(
        channels=3, width=8, rank=4, depth=6, attribute_support=(3, 5), downsample=(4,), readout="linear"
    ),
    "odd": HierarchicalCNNConfig(
        channels=2, width=4, classes=3, depth=5, attribute_support=(1, 3), downsample=(2,), rank=4
    ),
}
WARNINGS = ("-Wall", "-Wextra", "-pedantic", "-Werror")
STRICT = (*WARNINGS, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
COMPILERS = {"C": ("gcc", "-std=c99", *STRICT), "C++": ("g++", "-x", "c++", *STRICT)}
CORTEX = Path(__file__).with_name("cortex_m4")

needs_gcc = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="needs gcc and g++")
needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="needs arm-none-eabi-gcc and qemu-system-arm",
)


def network_of(name: str, settled: Callable[[str], Network]) -> Network:
    if name in ("zeros", "circular", "line", "multiscale"):
        return settled(name)
    torch.manual_seed(0)
    config = {"resnet8": hcnn.model_config("resnet8_digits", width=5)}.get(name) or CONFIGS.get(name, CONFIGS["odd"])
    model = build(config)
    with torch.no_grad():
        for _ in range(3):
            model(1.5 * torch.randn(8, config.channels, 8, 8) + 0.3)
        if name == "negative":
            model.get_parameter("readout.scale").neg_()
    return model.eval()


@pytest.fixture(scope="module")
def written(settled, tmp_path_factory) -> Callable[[str], Written]:
    """A network by the name of its kind, with images, its integers, and its C file, net.c in a folder of its own."""
    made: dict[str, Written] = {}

    def write(name: str) -> Written:
        if name not in made:
            model, folder = network_of(name, settled), tmp_path_factory.mktemp("c")
            classes, channels = model.config.classes, model.config.channels
            names = ('a "quoted" name', "é", "net_work\n", *map(str, range(3, classes)))
            standard = Preprocessing((0.3,) * channels, (0.4,) * channels, KINDS[name], names)
            images = torch.randint(0, 256, (24, channels, *KINDS[name]), dtype=torch.uint8)
            source, network, compared = export_c_int8(folder / "net.c", model, images, standard)
            assert compared
            made[name] = model, standard, images, source, network, folder
        return made[name]

    return write


# ------------------------------------------------------------------------- what the integers are, in NumPy


def rescaled(by: Rescale, values: Array, k: int = 0) -> Array:
    return (values * by.left * int(by.multiplier[k]) + (1 << (31 + by.right))) >> (32 + by.right)


def elu(values: Array) -> Array:
    """In units of 2^-10, from the value of the exponential at the nearest 64th below 0."""
    nearest = np.minimum((-values + 8) // 16, 255)
    x = np.where(nearest == 255, -5.0, -nearest / 64)
    return np.where(values > 0, values, np.round((np.exp(np.minimum(x, 0)) - 1) * 1024).astype(np.int64))


def numpy_convolution(layer: IntegerConvolution, x: Array, added: Array | None) -> Array:
    """From (channels, height, width) to 8 bits, by the definition: one output after the other, in int64."""
    g, weight = layer.convolution, layer.weight.astype(np.int64)
    older_out, older_in = g.index.shape
    lines = x.reshape(older_in, g.length, *x.shape[1:])
    (down, right), (high, wide) = g.step, g.support
    padding = ((0, 0), (0, 0), (high // 2,) * 2, (wide // 2,) * 2)
    lines = np.pad(lines, padding, mode="wrap" if g.circular else "constant")
    rows, columns = (x.shape[1] - 1) // down + 1, (x.shape[2] - 1) // right + 1
    out = np.zeros((older_out, g.outputs, len(weight), rows, columns), np.int64)
    for o, n, k in np.ndindex(*out.shape[:3]):
        out[o, n, k] = layer.bias[o * g.outputs + n, k]
        for a, t, dy, dx in np.ndindex(older_in, weight.shape[2], high, wide):
            at = n * g.attribute_step - g.lead + t
            at = at % g.length if g.circular else at
            if g.index[o, a] >= 0 and 0 <= at < g.length:
                seen = lines[a, at, dy : dy + down * rows : down, dx : dx + right * columns : right]
                out[o, n, k] += weight[k, g.index[o, a], t, dy, dx] * seen[:rows, :columns]
        out[o, n, k] = rescaled(layer.inner, out[o, n, k], k)
    if added is not None:
        assert layer.residual is not None
        out += rescaled(layer.residual, added.reshape(out.shape))
    out = {"elu": elu, "relu": lambda v: np.maximum(v, 0), "none": lambda v: v}[g.activation](out)
    out = out.reshape(g.averaged, -1, rows, columns).sum(0)
    return np.clip(rescaled(layer.outer, out) + layer.zero, -128, 127)


def numpy_logits(network: IntegerNetwork, image: NDArray[np.uint8]) -> Array:
    arrays = [image.reshape(len(image), *network.chain.size).astype(np.int64) - network.pixel_zero[:, None, None]]
    for layer in network.convolutions:
        source, residual = layer.convolution.source, layer.convolution.residual
        added = None if residual is None else arrays[residual]
        arrays.append(numpy_convolution(layer, arrays[source], added) - layer.zero)
    pooled = arrays[-1].sum((1, 2)).reshape(-1, network.chain.newest).sum(0)
    if network.readout is None:
        return network.sign * pooled
    return network.readout.astype(np.int64) @ pooled + network.readout_bias


def lines_of(done: subprocess.CompletedProcess[bytes], classes: int) -> Array:
    return np.array([[int(word) for word in line.split()[:classes]] for line in done.stdout.decode().splitlines()])


@pytest.mark.parametrize("name", KINDS)
def test_the_integers_are_those_of_numpy_and_near_the_network(name, written) -> None:
    model, standard, images, _, network, _ = written(name)
    got = integer_logits(network, images)
    for image, expected in list(zip(images.numpy(), got.numpy(), strict=True))[:3]:
        np.testing.assert_array_equal(numpy_logits(network, image), expected)
    with torch.no_grad():
        exact = model(standard.standardize(images))
    assert (got * network.unit - exact).abs().max() < 0.07 * exact.abs().max()
    if name == "negative":
        assert (got.double() * exact).sum() > 0


@needs_gcc
@pytest.mark.parametrize(
    ("name", "language"),
    [*((name, "C") for name in KINDS), *((name, "C++") for name in ("circular", "linear", "resnet8"))],
)
def test_the_program_is_bit_exact_under_sanitizers_as_c_and_as_cpp(name, language, written) -> None:
    model, standard, images, _, network, folder = written(name)
    images = images[:6]  # sanitizers are slow
    program, classes = folder / f"program-{language}", model.config.classes
    command = [*COMPILERS[language], "-DHCNN_MAIN", str(folder / "net.c"), "-o", str(program)]
    subprocess.run(command, check=True)  # without -lm
    done = subprocess.run([program], input=images.numpy().tobytes(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = integer_logits(network, images).numpy()
    np.testing.assert_array_equal(lines_of(done, classes), expected)
    shown = [one.replace("\n", "\\x0a") for one in standard.classes]
    words = [line.split(" ", classes)[-1] for line in done.stdout.decode().splitlines()]
    assert words == [shown[k] for k in expected.argmax(1)]
    truncated = subprocess.run([program], input=images.numpy().tobytes()[:-1], capture_output=True, check=False)
    size = images[0].numel()
    assert truncated.returncode == 1
    assert truncated.stderr.decode() == f"expected images of {size} bytes; the last one has {size - 1}\n"


@needs_gcc
@pytest.mark.skipif(shutil.which("uname") is None, reason="needs uname")
def test_no_number_is_a_float(written, tmp_path) -> None:
    folder = written("linear")[-1]
    if subprocess.run(["uname", "-m"], capture_output=True, check=True).stdout.strip() not in (b"x86_64", b"aarch64"):
        pytest.skip("the option that forbids floating point is of x86 and Arm")
    command = [
        "gcc",
        "-std=c99",
        "-O2",
        "-mgeneral-regs-only",
        "-c",
        str(folder / "net.c"),
        "-o",
        str(tmp_path / "n.o"),
    ]
    subprocess.run(command, check=True)
    assert not re.search(r"\b(float|double)\b", re.sub(r"/\*.*?\*/", "", (folder / "net.c").read_text(), flags=re.S))


# ----------------------------------------------------------------------------------------- the shipped network


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> tuple[CSource, IntegerNetwork, Path, Tensor]:
    model = hcnn.create_model("hcnn_small_cifar10", pretrained=True).eval()
    assert model.preprocessing is not None
    folder = tmp_path_factory.mktemp("shipped")
    images = synthetic_images(3, (32, 32), 24)
    source, network, _ = export_c_int8(folder / "net.c", model, images, model.preprocessing)
    return source, network, folder, images


def test_the_shipped_network_fits_a_microcontroller(shipped) -> None:
    source, network, _, images = shipped
    filters = sum(layer.weight.size for layer in network.convolutions)
    assert filters == 24_030  # the composed weights, once
    assert source.table_bytes < 1.4 * filters
    assert source.buffer_bytes < 42_000
    assert source.multiply_adds == 38_211_840  # without structural zeros; 63 M in the dense form
    np.testing.assert_array_equal(numpy_logits(network, images[0].numpy()), integer_logits(network, images[:1])[0])


def on_cortex(folder: Path, work: Path, images: Tensor, *options: str) -> tuple[Array, Array, Array]:
    """Logits (n, classes) and instructions (n,) on a Cortex-M4, and sizes (text, data, bss) of the object file."""
    values = ",".join("{" + ",".join(map(str, image.flatten().tolist())) + "}" for image in images)
    text = f"static const unsigned char images[{len(images)}][{images[0].numel()}] = {{{values}}};\n"
    (work / "images.h").write_text(text)
    compiler = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-O2"]
    command = [*compiler, "-std=c99", *WARNINGS, *options, "-c", str(folder / "net.c"), "-o", str(work / "net.o")]
    subprocess.run(command, check=True)
    startup = [f"-I{work}", f"-I{folder}", "-nostartfiles", "--specs=nano.specs", "-T", str(CORTEX / "link.ld")]
    both = [str(CORTEX / "main.c"), str(work / "net.o"), "-o", str(work / "net.elf")]
    subprocess.run([*compiler, "-std=gnu99", *startup, *both], check=True)
    machine = ["qemu-system-arm", "-machine", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
    counted = ["-icount", "shift=0,sleep=off", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(
        [*machine, *counted, "-kernel", str(work / "net.elf")], capture_output=True, check=True, timeout=300
    )
    rows = np.array([line.split() for line in (done.stdout + done.stderr).decode().splitlines()], np.int64)
    sizes = subprocess.run(["arm-none-eabi-size", str(work / "net.o")], capture_output=True, text=True, check=True)
    assert (rows[:, :-2].argmax(1) == rows[:, -2]).all()
    return rows[:, :-2], rows[:, -1], np.array(sizes.stdout.splitlines()[1].split()[:3], np.int64)


@needs_arm
def test_ten_images_on_a_cortex_m4(shipped, tmp_path) -> None:
    source, network, folder, images = shipped
    expected = integer_logits(network, images[:10]).numpy()
    logits, instructions, sizes = on_cortex(folder, tmp_path, images[:10])
    np.testing.assert_array_equal(logits, expected)
    assert instructions.max() < 70e6
    assert instructions.max() < 1.01 * instructions.min()
    text, data, bss = sizes.tolist()
    assert text + data < 40 * 1024
    assert source.buffer_bytes <= bss < source.buffer_bytes + 64
    logits, slower, _ = on_cortex(folder, tmp_path, images[:2], "-Dnet_PLAIN_C")
    np.testing.assert_array_equal(logits, expected[:2])
    assert slower.min() > 1.3 * instructions.max()  # so the dual products are in use


@needs_arm
@pytest.mark.parametrize("name", ["circular", "line", "odd", "resnet8"])
def test_every_kind_of_network_on_a_cortex_m4(name, written, tmp_path) -> None:
    _, _, images, _, network, folder = written(name)
    logits, _, _ = on_cortex(folder, tmp_path, images[:10])
    np.testing.assert_array_equal(logits, integer_logits(network, images[:10]).numpy())


# --------------------------------------------------------------------------------------------- pieces


def test_arrays_overwrite_only_what_was_read() -> None:
    """Random chains with shortcuts: a memory of marks shows that every read finds what was written."""
    draw = random.Random(0)
    for _ in range(200):
        rows, uses = [draw.randint(1, 6)], list[Use]()
        widths = [0]
        for number in range(draw.randint(1, 6)):
            step, reach = draw.choice([1, 1, 2]), draw.choice([0, 1, 2])
            source = number if draw.random() < 0.8 else draw.randint(0, number)
            out = (rows[source] - 1) // step + 1
            wide = draw.choice([4, 8, 12])
            same = [n for n in range(1, number + 1) if rows[n] == out and widths[n] == wide]
            read = tuple(min(rows[source], y * step + reach + 1) for y in range(out))
            read = draw.choice([read, read, read, (0,) * out])  # of a periodic array all rows are read until the end
            uses.append(Use(source, draw.choice(same) if same else None, out, wide, read))
            rows.append(out)
            widths.append(wide)
        offsets, size = place(uses)
        memory: list[tuple[int, int] | None] = [None] * size
        for number, use in enumerate(uses, start=1):
            loaded = 0
            for y in range(use.rows):
                needed = range(loaded, use.read[y]) if use.read[y] else range(rows[use.source])
                for r in needed if use.source else ():
                    at, wide = offsets[use.source - 1], widths[use.source]
                    assert memory[at + r * wide : at + (r + 1) * wide] == [(use.source, r)] * wide
                loaded = use.read[y]
                start = offsets[number - 1] + y * use.row_bytes
                if use.residual:
                    at = offsets[use.residual - 1] + y * use.row_bytes
                    assert memory[at : at + use.row_bytes] == [(use.residual, y)] * use.row_bytes
                memory[start : start + use.row_bytes] = [(number, y)] * use.row_bytes
        last = offsets[-1], rows[-1] * widths[-1]
        assert all(one is not None and one[0] == len(uses) for one in memory[last[0] : sum(last)])
        assert len(memory) == size


@pytest.mark.parametrize("scale", [1e-12, 3e-7, 0.01, 0.3, 0.5, 0.9, 7.0, 100.0])
def test_rescaling_rounds_the_exact_product(scale) -> None:
    by = rescaling(np.array([scale, scale / 3]), 2000, "a")
    assert 1 <= by.right <= 30  # the C file shifts 32 bits
    values = np.arange(-2000, 2001)
    for k, exact in enumerate((scale, scale / 3)):
        got = rescaled(by, values, k)
        assert np.abs(got - exact * values).max() < 0.5 + 1e-6 * scale * 2000
    with pytest.raises(ValueError, match="do not fit in 32 bits"):
        rescaling(np.array([scale]), 2**31, "a")


def test_sums_that_float32_cannot_hold_are_exact() -> None:
    channels = 601
    geometry = Convolution(
        np.ones((1, 1, channels, 1, 1)), np.zeros((1, 1), np.int64), np.zeros((1, 1)), channels, 1, 1, 0, (1, 1),
        activation="none",
    )  # fmt: skip
    weight, bias = np.full((1, 1, channels, 1, 1), 127, np.int8), np.array([[1 - channels * 127 * 255]])
    inner, outer = (rescaling(np.array([scale]), 1000, "a") for scale in (8.0, 1.0))
    layer = IntegerConvolution(geometry, weight, bias, inner, None, outer, 0)
    assert convolve(layer, torch.full((1, channels, 1, 1), 255)).item() == 8


@pytest.mark.parametrize(("low", "high"), [(3.0, 5.0), (-5.0, -3.0), (-1.0, 2.0), (0.0, 0.0)])
def test_zero_is_one_of_the_8_bits_of_any_array(low, high) -> None:
    scale, zero = array_range(torch.linspace(low, high, 100))
    assert scale > 0
    assert -128 <= zero <= 127


def test_the_range_of_an_array_is_that_of_all_its_columns() -> None:
    arrays = torch.zeros(1000, 32, 32)
    arrays[..., 5] = 1.0
    scale, zero = array_range(arrays)
    assert (255 * scale, zero) == (pytest.approx(1), -128)
    arrays[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="values that are not finite"):
        array_range(arrays)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("bias", [None, 0.7, 0.0])
def test_filters_without_weights_give_their_bias(number, bias, settled) -> None:
    standard = Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789"))
    chain, images = chain_of(settled("zeros"), standard, (8, 8)), synthetic_images(1, (8, 8), 20)
    layers = list(chain.convolutions)
    weight, biases = layers[number].weight.copy(), layers[number].bias.copy()
    if bias is None:  # one filter
        weight[1], biases[:, 1] = 0, 0.7
    else:
        weight[:], biases[:] = 0, bias
    layers[number] = dataclasses.replace(layers[number], weight=weight, bias=biases)
    chain = dataclasses.replace(chain, convolutions=tuple(layers))
    network, exact = quantize(chain, images), chain.logits(chain.arrays(images)[-1])
    assert (integer_logits(network, images) * network.unit - exact).abs().max() < 0.07 * exact.abs().max()


@pytest.mark.parametrize("bias", [0.7, 0.0])
def test_a_readout_without_weights_gives_its_bias(bias) -> None:
    torch.manual_seed(0)
    standard = Preprocessing((0.3,) * 3, (0.4,) * 3, KINDS["linear"], tuple("0123456789"))
    model, images = build(CONFIGS["linear"]).eval(), synthetic_images(3, KINDS["linear"], 20)
    with torch.no_grad():
        model.get_parameter("readout.linear.weight").zero_()
        model.get_parameter("readout.linear.bias").fill_(bias)[3] = -2 * bias
    network = quantize(chain_of(model, standard, KINDS["linear"]), images)
    with torch.no_grad():
        exact = model(standard.standardize(images))
    torch.testing.assert_close((integer_logits(network, images) * network.unit).float(), exact, atol=1e-6, rtol=1e-6)


def test_what_is_too_large_for_the_integers_is_refused() -> None:
    def error(channels: int, size: tuple[int, int], readout: NDArray[np.float64] | None = None) -> str:
        index = np.array([[0], [-1]])  # an output that sees all channels, and one that sees none
        one = Convolution(np.ones((1, 1, channels, 1, 1)), index, np.zeros((2, 1)), channels, 1, 1, 0, (1, 1))
        standard = Preprocessing((0.0,) * channels, (1.0,) * channels, size, ("a", "b"))
        chain = Chain((one,), readout, np.zeros(2), 1.0, 1, standard, size)
        with pytest.raises(ValueError, match="export c --int8: ") as found:
            integer_source(quantize(chain, torch.full((1, channels, *size), 255, dtype=torch.uint8)))
        return str(found.value)

    assert "convolution 1 cannot be quantized: its sums do not fit in 32 bits" in error(70_000, (1, 1))
    assert "the logits do not fit in 32 bits" in error(1, (200, 200), np.ones((2, 1)))
    assert "sizes of at most 32,767, which fit in 16 bits; convolution 1 has one of 32,768" in error(1, (1, 2**15))


@needs_gcc
def test_a_program_with_other_integers_is_not_written(settled, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(program, "integer_logits", lambda network, images: integer_logits(network, images) + 1)
    standard = Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789"))
    with pytest.raises(ValueError, match="the compiled file gives other integers than it should"):
        export_c_int8(tmp_path / "net.c", settled("zeros"), synthetic_images(1, (8, 8), 4), standard)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized_is_explained(settled, tmp_path) -> None:
    path, images = tmp_path / "net.c", torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    standard = Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789"))

    def error(model: Network, images: Tensor = images, standard: Preprocessing = standard, **options: str) -> str:
        try:
            export_c_int8(path, model, images, standard, **options)
        except ValueError as found:
            return str(found)
        raise AssertionError("no ValueError")

    assert "an ELU inside its filters (HCNN(+)), which int8 does not support" in error(settled("plus"))
    assert "one or two spatial axes; the network has 3" in error(
        settled("volume"), torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    )
    wrong = hcnn.create_model("resnet20_digits").eval()
    assert "expected an attribute network or a ResNet-8 (such as resnet8_cifar10); got a ResNet" in error(wrong)
    assert "expected calibration images; got none" in error(settled("zeros"), images[:0])
    assert "expected a prefix of letters" in error(settled("zeros"), prefix="2")
    floats = FloatPreprocessing(**dataclasses.asdict(standard))
    assert "expected a network that takes bytes" in error(settled("zeros"), standard=floats)
    broken = settled("zeros")
    with torch.no_grad():
        broken.get_parameter("layers.0.weight")[0] = torch.nan
    assert "expected at most 1e-05" in error(broken)
    assert not list(tmp_path.iterdir())
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="values that are not finite on the calibration images"):
            array_range(torch.tensor([0.0, 1.0, value]))
    with pytest.raises(ValueError, match="expected the name of a source file"):
        export_c_int8(tmp_path / "net.h", settled("zeros"), images, standard)


def test_the_command_writes_integers_and_says_what_they_lose(run, tmp_path, capsys) -> None:
    assert cli.main(["export", str(run), "--to", "c", "--int8"]) == 0
    out = capsys.readouterr().out
    assert "calibrated on 256 images of digits/train" in out
    numbers = r"float32 [\d.]+%, int8 [\d.]+% \([+-][\d.]+%\); [\d.]+% of the answers differ"
    assert re.search(rf"accuracy on 200 images of digits/validation: {numbers}", out), out
    assert "multiply-adds an image of 1x8x8" in out
    assert "int32_t *logits" in (run / "model.int8.h").read_text()
    assert cli.main(["export", str(run), "--to", "c", "--int8"]) == 0  # its own file may be replaced
    capsys.readouterr()

    def error(*arguments: object) -> str:
        assert cli.main(["export", *map(str, arguments), "--output", str(tmp_path / "net.c")]) == 2
        assert not list(tmp_path.iterdir())
        return capsys.readouterr().err.replace("\n", " ")

    assert "--image-size: not with --int8" in error(run, "--to", "c", "--int8", "--image-size", "16")
    assert "nowhere" in error(run, "--to", "c", "--int8", "--data", "nowhere")
