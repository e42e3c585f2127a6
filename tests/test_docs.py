"""The documentation against the package, without Sphinx: code runs, names exist, links lead somewhere."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hcnn
from hcnn.cli.commands import COMMANDS
from hcnn.data.datasets import load
from hcnn.models.pretrained import pretrained_record
from hcnn.runs.seeds import summarize_seeds
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.recipes import get_recipe

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if not {"generated", "_build", "gallery", "api"} & set(path.relative_to(ROOT).parts)
)
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
CODE = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}:{number}")
    for path in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
]


def resolve(name: str) -> object:
    """The object of a dotted name, however much of it is modules."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.fixture(scope="module")
def folder_of_a_reader(tmp_path_factory) -> Path:
    """Where the pages' code runs: `make demo` has left runs/demo, here after one epoch."""
    folder = tmp_path_factory.mktemp("reader")
    settings = RunSettings(hcnn.model_config("hcnn_digits"), get_recipe("digits", epochs=1), "digits")
    train_run(folder / "runs" / "demo", settings, load("digits"))
    return folder


@pytest.mark.parametrize("block", CODE)
def test_code_on_the_pages_runs(block, folder_of_a_reader, monkeypatch) -> None:
    monkeypatch.chdir(folder_of_a_reader)
    exec(compile(block, "page", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_links_on_the_pages_exist(page) -> None:
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"\{py:obj\}`~?([\w.]+)`", text) + re.findall(r"`(hcnn(?:\.[a-zA-Z_]\w*)+)(?:\(\))?`", text)
    for name in names if page.name != "CHANGELOG.md" else []:  # which speaks of names that are gone
        resolve(name)
    for target in re.findall(r"\]\((?!https?://|#)([^)\s#]+)", text):
        place = page.parent / target
        made = {"generated", "gallery"} & set(Path(target).parts)  # written by the build
        assert made or place.exists() or place.with_suffix(".md").exists(), f"{page.name}: no {target}"
        if page.is_relative_to(ROOT / "docs"):
            assert made or place.name != "README.md", f"{page.name}: expected {target} without README.md, for Sphinx"


def commands(page: Path) -> list[str]:
    """The `hcnn` commands in the indented code of a page, without comments and what the shell does around them."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^    (?:.*&& )?hcnn (.+)$", text, re.MULTILINE)
    return [re.split(r" [#<>|&]", line)[0].strip() for line in found if "$" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_on_the_pages_are_understood(page) -> None:
    """Options are parsed, not carried out; the parser leaves with an error where it knows one of them not."""
    for line in commands(page):
        name, *words = shlex.split(line)
        assert name in COMMANDS or name in ("--help", "--version"), line
        if name in COMMANDS:
            COMMANDS[name].read(name, words)


def test_the_readme_has_commands_and_is_short() -> None:
    assert {line.split()[0] for line in commands(ROOT / "README.md")} >= {"train", "predict", "export", "explore"}
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_the_numbers_of_the_readme_are_those_of_the_results() -> None:
    def read(path: str) -> Any:
        return json.loads((ROOT / "results" / path).read_text(encoding="utf-8"))

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    demo = read("digits/seeds.json")["test_accuracy"]
    assert len(demo["values"]) == 3
    assert f"| {100 * demo['mean']:.1f} ± {100 * demo['std']:.1f} % of the test images (3 seeds) |" in text
    trained = {json.loads(path.read_text())["weights_sha256"] for path in (ROOT / "results").glob("*/result.json")}
    shipped = [name for name in hcnn.list_pretrained() if "cifar10" in name]
    assert len(shipped) >= 5
    for name in shipped:
        result = pretrained_record(name)["result"]
        data = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[result["data"]]
        row = f"| {data}, `{name}`, {result['parameters']['composed']:,} weights for inference"
        [line] = [line for line in text.splitlines() if line.startswith(row)]
        said = f"| {100 * result['test_accuracy']:.2f} % of the test images (1 seed, {result['epochs']} epochs)"
        assert said in line, name
        assert result["weights_sha256"] in trained, name
    for name in ("hcnn_small_cifar10", "hcnn_small_cifar10_circular"):
        runs = [json.loads(path.read_text()) for path in (ROOT / f"results/{name}-100").rglob("result.json")]
        mean, std = (100 * summarize_seeds(runs)["test_accuracy"][key] for key in ("mean", "std"))
        [line] = [line for line in text.splitlines() if f"`{name}`, " in line]
        assert line.endswith(f"; {len(runs)} seeds: {mean:.1f} ± {std:.1f} % |")
    bench = read("benchmarks/cpu-2-cores/bench.json")
    speed = {
        (row["overrides"].get("boundary", "zeros"), row["two_step"]): row["images_per_second"]
        for row in bench["methods"]
        if (row["name"], row["method"], row["dtype"], row["train"]) == ("hcnn_cifar10", "auto", "float32", True)
        and (row["native"] or row["two_step"])
    }
    for boundary in ("zeros", "circular"):
        ours, two_step = speed[boundary, False], speed[boundary, True]
        assert re.search(rf"\| {ours:.1f} images/s; [\w' -]*two-step[\w ]*: {two_step:.1f} \|", text), boundary


@pytest.fixture
def extensions(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")


def test_the_reference_of_commands_has_every_option(extensions) -> None:
    page = importlib.import_module("command_page").command_page()
    sections = dict(zip(COMMANDS, re.split(r"^\(hcnn-\w+\)=$", page, flags=re.MULTILINE)[1:], strict=True))
    for name, command in COMMANDS.items():
        entries = re.findall(r"^`(.+)`\n: (.+)$", sections[name], re.MULTILINE)
        options = {word for usage, _ in entries for word in re.split("[ ,]+", usage) if word.startswith("--")}
        assert options | {"--help", "--help-all"} >= {*command.parser(name)._option_string_actions} - {"-h"}, name
        assert all(text.strip() for _, text in entries)


def test_the_pages_that_run_a_network_are_small_and_have_examples(extensions, tmp_path) -> None:
    importlib.import_module("live_pages").write_live_pages(tmp_path / "live")
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for path, least in ((tmp_path / "live" / "draw-a-digit.html", 8), (tmp_path / "live" / "classify-a-photo.html", 6)):
        text = path.read_text(encoding="utf-8")
        assert f'src="{path.name}' in index
        assert len(text) < 300_000
        assert len(json.loads(text.split('id="network">')[1].split("</script>")[0])["examples"]) >= least


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_import_what_the_package_has(example) -> None:
    tree = ast.parse(example.read_text(encoding="utf-8"))
    assert (ast.get_docstring(tree) or "").count("===="), "sphinx-gallery wants a title"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hcnn"):
            for alias in node.names:
                resolve(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hcnn":
            resolve(f"hcnn.{node.attr}")


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example) -> None:
    if "aeon" in example.read_text(encoding="utf-8"):
        pytest.importorskip("aeon", reason="hcnn[examples] is not installed")
    command = [sys.executable, str(example)]
    environment = {"MPLBACKEND": "agg", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {hcnn.__version__}\n" in citation
    assert "1703.04140" in citation
