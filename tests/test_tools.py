"""Tools for those who maintain the project refuse what they cannot do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hcnn.models.pretrained import pretrained_file, pretrained_record

ROOT = Path(__file__).resolve().parents[1]


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / words[0], *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("given", "found"), [(["path,nonsense,x"], "'nonsense', 'x'"), ([], "nothing")])
def test_the_matrix_names_unknown_settings(given, found) -> None:
    done = tool("matrix.py", "--only", *given)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("--only: expected some of columns,")
    assert done.stderr.endswith(f"; got {found}\n")


def test_weights_of_a_run_that_is_trained_further_are_not_shipped(tmp_path) -> None:
    record, weights = pretrained_record("hcnn_digits"), tmp_path / "weights.safetensors"
    weights.write_bytes(pretrained_file("hcnn_digits.safetensors").read_bytes())
    (tmp_path / "result.json").write_text(json.dumps(record["result"]), encoding="utf-8")
    record["config"]["recipe"]["epochs"] += 5
    (tmp_path / "config.json").write_text(json.dumps(record["config"]), encoding="utf-8")
    done = tool("ship_weights.py", tmp_path, "hcnn_digits")
    assert done.returncode == 1
    had = record["result"]["epochs"]
    assert f"expected a finished run; its weights are those of {had} epochs, and it is to have {had + 5}" in done.stderr
