"""What must be quick does not load what is slow."""

import subprocess
import sys

import pytest

import hcnn
from hcnn import cli
from hcnn.training.recipes import RECIPES

HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "onnx", "onnxruntime", "pooch", "rich.markdown")


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]])
def test_help_and_version_load_nothing_heavy(words) -> None:
    code = f"""
import sys
from hcnn.cli import main
try:
    code = main({words!r})
except SystemExit as stop:
    code = stop.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hcnn" in done.stdout


@pytest.mark.parametrize("name", hcnn.__all__)
def test_public_names_are_found_when_they_are_asked_for(name) -> None:
    code = f"import hcnn; assert {name!r} in dir(hcnn); hcnn.{name}; from hcnn import {name}"
    assert getattr(hcnn, name).__name__ == name
    if name in ("create_model", "translate"):  # from a fresh start, where nothing is loaded yet
        subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'hcnn' has no attribute 'craete_model'"):
        hcnn.craete_model  # noqa: B018 # pyright: ignore
    assert hcnn.models.__name__ == "hcnn.models"


def test_the_help_of_the_demo_says_how_long_it_trains(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    assert f"Default: {RECIPES['digits'].epochs}." in capsys.readouterr().out
