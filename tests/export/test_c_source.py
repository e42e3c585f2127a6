"""The C file: compiled as C and C++ with sanitizers, linked beside another network, against the network itself."""

import ctypes
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export import CSource, PlainNetwork, c_source, export_c
from hcnn.export.c_program import compile_program
from hcnn.export.escape import c_identifier
from hcnn.export.html_file import network_spec
from hcnn.export.integer.chain import chain_of
from hcnn.export.plain_network import PlainLayer
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.factory import build

KINDS = ("zeros", "circular", "plus", "plus circular", "published", "line", "multiscale")
WARNINGS = ("-Wall", "-Wextra", "-pedantic", "-Werror")
STRICT = (*WARNINGS, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
COMPILERS = {"C": ("gcc", "-std=c99", *STRICT), "C++": ("g++", "-x", "c++", *STRICT)}


Written = tuple[AttributeNetwork, Preprocessing, Tensor, CSource, Path]

pytestmark = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="needs gcc and g++")


@pytest.fixture(scope="module")
def written(settled, tmp_path_factory) -> Callable[[str], Written]:
    """A network by the name of its kind, five images, and its C file, net.c in a folder of its own."""
    made: dict[str, Written] = {}

    def write(name: str) -> Written:
        if name not in made:
            model, folder = settled(name), tmp_path_factory.mktemp("c")
            config, size = model.config, (12, 8)[: model.config.spatial_axes]
            names = ('a "quoted" name', "é", "??/", "net_work\n", *map(str, range(4, config.classes)))
            standard = Preprocessing((0.3,) * config.channels, (0.4,) * config.channels, size, names)
            images = torch.randint(0, 256, (5, config.channels, *size), dtype=torch.uint8)
            source, difference = export_c(folder / "net.c", model, images, standard)
            assert difference is not None
            assert difference < 1e-5
            made[name] = model, standard, images, source, folder
        return made[name]

    return write


@pytest.mark.parametrize("name", KINDS)
def test_the_library_agrees_with_the_network(name, written) -> None:
    model, standard, images, source, folder = written(name)
    config = model.config
    command = ["gcc", "-std=c99", *WARNINGS, "-O2", "-shared", "-fPIC"]
    subprocess.run([*command, str(folder / "net.c"), "-lm", "-o", str(folder / "net.so")], check=True)
    library = ctypes.CDLL(str(folder / "net.so"))
    logits = np.zeros(config.classes, np.float32)
    pointer = logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    found = (ctypes.c_char_p * config.classes).in_dll(library, "net_classes")
    assert [one.decode() for one in found] == list(standard.classes)
    for image in images:  # several calls: the static buffers must not remember
        best = library.net_classify(image.numpy().ctypes.data_as(ctypes.c_char_p), pointer)
        with torch.no_grad():
            expected = model(standard.standardize(image[None]))[0]
        assert np.abs(logits - expected.numpy()).max() < 1e-5 * expected.abs().max()
        assert best == expected.argmax()
    symbols = subprocess.run(["nm", "-D", "-u", str(folder / "net.so")], capture_output=True, text=True, check=True)
    assert "malloc" not in symbols.stdout
    size_of = subprocess.run(["size", str(folder / "net.so")], capture_output=True, text=True, check=True)
    text, data, bss = map(int, size_of.stdout.splitlines()[1].split()[:3])
    assert source.table_bytes < text + data < source.table_bytes + 16_000
    assert source.buffer_bytes <= bss < source.buffer_bytes + 1000


@pytest.mark.parametrize("language", COMPILERS)
@pytest.mark.parametrize("name", ["plus circular", "published", "line"])
def test_the_program_is_clean_under_sanitizers_as_c_and_as_cpp(name, language, written) -> None:
    model, standard, images, _, folder = written(name)
    program = folder / f"program-{language}"
    sources = ["-DHCNN_MAIN", str(folder / "net.c"), "-lm", "-o", str(program)]
    subprocess.run([*COMPILERS[language], *sources], check=True)
    done = subprocess.run([program], input=images.numpy().tobytes(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(images)  # a line break in a name breaks no line
    with torch.no_grad():
        expected = model(standard.standardize(images))
    got = torch.tensor([[float(word) for word in line.split()[: model.config.classes]] for line in lines])
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    words = [line.split(" ", model.config.classes)[-1] for line in lines]
    shown = [name.replace("\n", "\\x0a") for name in standard.classes]
    assert words == [shown[k] for k in expected.argmax(1)]

    truncated = subprocess.run([program], input=images.numpy().tobytes()[:-1], capture_output=True, check=False)
    size = images[0].numel()
    assert truncated.returncode == 1
    assert truncated.stderr.decode() == f"expected images of {size} bytes; the last one has {size - 1}\n"
    assert truncated.stdout.decode().splitlines() == lines[:-1]
    nothing = subprocess.run([program], input=b"", capture_output=True, check=False)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, b"", b"")


USE = """
#include "one.h"
#include "two.h"
#include "one.h"
#include <cstdio>
{sources}
int main()
{{
    static unsigned char bytes[one_CHANNELS * one_HEIGHT * one_WIDTH];
    float logits[one_CLASSES];
    std::fread(bytes, 1, sizeof bytes, stdin);
    std::printf("%s %s", one_classes[one_classify(bytes, logits)], two_classes[two_classify(bytes, logits)]);
}}
"""


@pytest.mark.parametrize("how", ["linked as C", "linked as C++", "included in one file"])
def test_two_networks_live_in_one_cpp_program(how, settled, tmp_path) -> None:
    image = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    expected = []
    for name, kind in (("one", "circular"), ("two", "plus")):
        model, classes = settled(kind), tuple(f"{name}{k}" for k in range(10))
        standard = Preprocessing((0.3,), (0.4,), (8, 8), classes)
        export_c(tmp_path / f"{name}.c", model, image, standard)
        with torch.no_grad():
            expected.append(classes[model(standard.standardize(image)).argmax()])
    files = [tmp_path / f"{name}.c" for name in ("one", "two")]
    inside = "\n".join(f'#include "{file.name}"' for file in files) if how == "included in one file" else ""
    (tmp_path / "use.cpp").write_text(USE.format(sources=inside))
    parts = [tmp_path / "use.cpp"]
    if not inside:
        for file in files:
            parts.append(file.with_suffix(".o"))
            subprocess.run(
                [*COMPILERS[how.removeprefix("linked as ")], "-c", str(file), "-o", str(parts[-1])], check=True
            )
    command = ["g++", *STRICT, "-Wno-unused-result", *map(str, parts), "-lm", "-o", str(tmp_path / "use")]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "use"], input=image.numpy().tobytes(), capture_output=True, check=True)
    assert done.stdout.decode().split() == expected


def test_every_name_of_the_file_begins_with_the_prefix(settled, standard, tmp_path) -> None:
    (tmp_path / "a.c").write_text(c_source(PlainNetwork(settled("zeros"), standard), standard, (8, 8), "dogs_2").text)
    subprocess.run(["gcc", "-std=c99", "-c", str(tmp_path / "a.c"), "-o", str(tmp_path / "a.o")], check=True)
    symbols = subprocess.run(["nm", "--defined-only", tmp_path / "a.o"], capture_output=True, text=True, check=True)
    entries = [line.split()[1:] for line in symbols.stdout.splitlines()]
    outside = [name for _, name in entries if "." not in name]  # a dot: static inside a function
    assert len(outside) > 20
    assert all(name.startswith("dogs_2_") for name in outside)
    public = {name for kind, name in entries if kind.isupper()}
    assert public == {"dogs_2_classes", "dogs_2_logits", "dogs_2_classify"}


@pytest.mark.parametrize("prefix", ["", "a b", "2nd", "_x", "é", "a__b", "x; int y", "a-b"])
def test_a_prefix_that_cannot_begin_a_name_is_refused(prefix, settled, standard) -> None:
    network = PlainNetwork(settled("zeros"), standard)
    with pytest.raises(ValueError, match="expected a prefix of letters, digits and single underscores"):
        c_source(network, standard, (8, 8), prefix)
    assert c_source(network, standard, (8, 8), c_identifier(prefix)).text


def test_the_source_file_is_not_its_own_header(settled, standard, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"expected the name of a source file, such as .*net\.c"):
        export_c(tmp_path / "net.h", settled("zeros"), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), standard)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inner_elu", [False, True])
def test_multiply_adds_of_the_c_file_are_counted_exactly(inner_elu) -> None:
    standard = Preprocessing((0.3,) * 3, (0.4,) * 3, (8, 8), ("a", "b"))
    config = HierarchicalCNNConfig(
        channels=3, classes=2, width=4, depth=4, attribute_support=(3, 3), downsample=(), rank=3, inner_elu=inner_elu
    )
    source = c_source(PlainNetwork(build(config).eval(), standard), standard, (5, 4))
    first = 20 * 3 * 4 * 9
    pairs = 2 + 3  # two outputs along v1: the first filter reaches over the border, the second does not
    second = 20 * pairs * 4 * 9
    pairs *= 2  # likewise along v2, and the one output along v1 sees both its values
    inner = 20 * (2 * 4) * 3 * 9  # of HCNN(+): each value of v1, v2 is filtered in space by 3 filters
    third = inner + 20 * pairs * 2 * 3 if inner_elu else 20 * pairs * 2 * 9
    assert source.multiply_adds == first + second + third


def test_a_periodic_image_that_a_filter_wraps_around_twice_is_refused(standard) -> None:
    config = HierarchicalCNNConfig(
        channels=1, classes=10, width=4, depth=4, attribute_support=(3, 3), spatial_support=5, boundary="circular",
        downsample=(1, 2),
    )  # fmt: skip
    network, message = build(config).eval(), r"a periodic image of \(1, 1\) is too small for a filter of \(5, 5\)"
    with pytest.raises(ValueError, match=message):
        PlainNetwork(network, standard)(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=message):
        c_source(PlainNetwork(network, standard), standard, (4, 4))
    with pytest.raises(ValueError, match=message):
        network_spec(PlainNetwork(network, standard), dataclasses.replace(standard, size=(4, 4)))
    with pytest.raises(ValueError, match=message):
        chain_of(network, standard, (4, 4)).arrays(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


def test_c_wants_the_standardization(settled, standard) -> None:
    with pytest.raises(ValueError, match="expected a network that includes its standardization; got one without"):
        c_source(PlainNetwork(settled("zeros")), standard, (8, 8))


def test_numbers_in_the_c_file_are_those_of_the_network_to_the_last_bit(settled, standard) -> None:
    network = PlainNetwork(settled("zeros"), standard)
    text = c_source(network, standard, (8, 8), "one").text
    for j, layer in enumerate(network.layers):
        assert isinstance(layer, PlainLayer)
        (found,) = re.findall(rf"one_w{j}\[\] = {{(.*)}};", text)
        values = torch.tensor([float(value.removesuffix("f")) for value in found.split(", ")])
        assert torch.equal(values, layer.taps.weight.flatten())


def test_a_compiler_that_rejects_the_file_is_quoted(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"(?s)the compiler does not accept the C file:\n.*nothing"):
        compile_program(CSource("int nothing = ;", "", 0, 0, 0), tmp_path)


def test_c_wants_a_size_for_each_axis(settled, standard) -> None:
    with pytest.raises(ValueError, match=r"the network has 2, the size is \(8,\)"):
        c_source(PlainNetwork(settled("zeros"), standard), standard, (8,))


def test_c_refuses_volumes(settled, standard) -> None:
    with pytest.raises(ValueError, match="expected one or two spatial axes with a size each; the network has 3"):
        c_source(PlainNetwork(settled("volume")), standard, (8, 8, 8))
