"""Names from outside in every format that an export writes: they are shown, and mean nothing to the format."""

import json
import random
import re
import subprocess

import pytest
from markdown_it import MarkdownIt

from hcnn.export.escape import c_identifier, c_string, markdown
from hcnn.export.model_card import Records, model_card
from hcnn.text import printable

ATTACKS = (
    "# A heading",
    "a\n\n# A heading",
    "a\n---\nlicense: evil\n---",
    "<script>alert(1)</script>",
    "<!-- a",
    "a | b |",
    "`code`",
    "[text](https://evil.example)",
    "![i](https://evil.example/x.png)",
    "https://evil.example",
    "www.evil.example",
    "a@b.example",
    "<https://evil.example>",
    "[a]: https://evil.example",
    "*a* _b_ ~~c~~ **d**",
    "$$x^2$$ \\(x\\)",
    "&lt;b&gt; &amp;",
    "a\\",
    "1. a",
    "- a",
    "> a",
    "\tcode",
    "a  \nb",
    "\x1b[31mred",
    "\u202egnp.exe",
    "[^1]",
    "```\ncode\n```",
    "{{ a }}",
    "犬",
    "O'Neil, Jr. - 1/2",
)
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def kinds(text: str) -> list[str]:
    """The kinds of all that a Markdown reader finds in a text, in order."""
    found = []
    for token in READER.parse(text):
        found.append(token.type + (token.tag if token.type.startswith("heading") else ""))
        found += [child.type for child in token.children or () if child.type not in ("text", "text_special")]
    return found


def shown(text: str) -> str:
    """A text of one paragraph as a reader sees it."""
    (_, inline, _) = READER.parse(text)
    return "".join(child.content for child in inline.children or ())


@pytest.mark.parametrize("name", ATTACKS)
def test_markdown_shows_a_name_and_nothing_else(name) -> None:
    text = f"x {markdown(name)} x"
    assert kinds(text) == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(text) == f"x {printable(name)} x"
    assert "https://" not in text  # some readers make links of bare addresses
    assert "www." not in text


def test_any_text_is_only_text_in_markdown() -> None:
    draw = random.Random(0)
    alphabet = "".join(map(chr, range(33, 127))) + "a\n\t\r\0\x1b 犬\u2028\u202e"
    for _ in range(500):
        name = "".join(draw.choices(alphabet, k=draw.randrange(1, 30)))
        text = f"x {markdown(name)} x"
        assert kinds(text) == ["paragraph_open", "inline", "paragraph_close"], name
        assert shown(text) == f"x {printable(name)} x"
        cells = READER.parse(f"| a | b |\n|---|---|\n| {markdown(name)}x | 1 |\n")
        assert [token.type for token in cells].count("td_open") == 2, name


@pytest.mark.parametrize("where", ["classes", "data", "recipe", "result"])
def test_a_model_card_keeps_its_shape_whatever_the_names(where, settled) -> None:
    attack = " ".join(ATTACKS)

    def card(text: str) -> str:
        chosen = {name: text if name == where else "plain" for name in ("classes", "data", "recipe", "result")}
        config = {
            "data": chosen["data"],
            "data_sha256": chosen["data"],
            "seed": 0,
            "preprocessing": {"mean": [0.3], "std": [0.4], "size": [8, 8], "classes": [chosen["classes"], "b"]},
            "recipe": {"schedule": chosen["recipe"], chosen["recipe"]: 1, "augmentation": {"flip": chosen["recipe"]}},
        }
        result = {
            "seconds": 1.0,
            "hardware": {"processor": chosen["result"]},
            "versions": {chosen["result"]: chosen["result"]},
            "test_accuracy": 0.5,
            "test_images": 10,
            "seed": chosen["result"],
        }
        return model_card(settled("zeros"), Records(config, result, {}), size=(8, 8), usage="print()")

    expected, got = card("plain"), card(attack)
    assert kinds(got.split("---\n", 2)[2]) == kinds(expected.split("---\n", 2)[2])
    assert got.splitlines()[:5] == expected.splitlines()[:5]  # the front matter
    assert len(got.splitlines()) == len(expected.splitlines())


@pytest.mark.parametrize("compiler", [["gcc", "-std=c99"], ["g++", "-x", "c++"]])
def test_c_holds_names_to_the_byte(compiler, tmp_path) -> None:
    names = [*ATTACKS, "??/", '"; int x; "', "\\", "%s%n", "a" * 300, "\udce9"]
    source = "\n".join(f"puts({c_string(name)});" for name in names)
    (tmp_path / "a.c").write_text(f"#include <stdio.h>\nint main(void) {{\n{source}\nreturn 0; }}\n", "ascii")
    command = [*compiler, "-Wall", "-Wextra", "-pedantic", "-Werror", str(tmp_path / "a.c"), "-o", str(tmp_path / "a")]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "a"], capture_output=True, check=True)
    assert done.stdout == b"".join(name.encode(errors="backslashreplace") + b"\n" for name in names)


def test_names_of_any_files_begin_names_in_c() -> None:
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices("aZ09__-. é", k=draw.randrange(60)))
        name = c_identifier(text)
        assert re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name), text
        assert len(name) <= 40
        assert c_identifier(name) == name, text  # what names the file by default is accepted as --prefix


def test_class_names_in_an_onnx_file_are_json(settled) -> None:
    onnx = pytest.importorskip("onnx")
    from hcnn.data.preprocessing import Preprocessing
    from hcnn.export import PlainNetwork
    from hcnn.export.onnx_file import onnx_bytes

    standard = Preprocessing((0.3,), (0.4,), (8, 8), ATTACKS[:10])
    proto = onnx.load_from_string(onnx_bytes(PlainNetwork(settled("zeros"), standard), standard))
    assert json.loads({entry.key: entry.value for entry in proto.metadata_props}["classes"]) == list(ATTACKS[:10])
