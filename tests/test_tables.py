"""The rows of the paper's tables, end to end at a tiny scale, with what a bare GPU machine has installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hcnn
from hcnn.recipes import get_recipe
from hcnn.runs import load_run

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "tables.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tables"] = module
    spec.loader.exec_module(module)
    return module


tables = _script()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tables")


def run(place: Path, *words: str) -> int:
    folders = ["--output", str(place / "results"), "--work", str(place / "work")]
    return tables.main([*words, "--device", "cpu", *folders])


def _row(place: Path, name: str) -> None:
    row = tables.find(name)
    if row.teacher:
        assert run(place, row.teacher, "--tiny") == 0
    assert run(place, name, "--tiny") == 0
    for seed in row.seeds:
        folder = place / "results" / row.name / (str(seed) if len(row.seeds) > 1 else "")
        result, config = (json.loads((folder / file).read_text()) for file in ("result.json", "config.json"))
        assert config["seed"] == seed
        assert ("test_accuracy" in result) != row.chooses
        assert ("validation_accuracy" in result) == row.chooses
        assert ("test_coarse_accuracy" in result) == (row.data == "cifar100" and not row.chooses)
        assert (folder / "metrics.jsonl").read_text().count("\n") == 1
        assert name in (folder / "command.txt").read_text()
        assert (folder / "curves.png").exists()
        assert not (folder / "weights.safetensors").exists()


SOME = ["1.1", "1.3+", "1.5", "1.7", "1.8-wrn16_1_taught", "2.2", "2.7-linear", "3-cutmix"]


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in tables.ROWS]
)
def test_each_row_end_to_end(place, name) -> None:
    _row(place, name)


def test_rows_are_the_networks_and_recipes_they_say() -> None:
    for name, row in tables.ROWS.items():
        settings = tables.settings_of(row, 0, "cpu", Path("work"), tiny=False)
        assert settings.network.classes == (100 if name.startswith("2") else 10)
    settings = tables.settings_of(tables.find("1.4"), 0, "cpu", Path("work"), tiny=False)
    assert settings.recipe == get_recipe("paper")
    assert settings.network == hcnn.model_config("hcnn_cifar10")
    assert tables.settings_of(tables.find("1.cpu"), 0, "cpu", Path("work"), tiny=False).recipe.epochs == 20
    weights = {}
    for name in ("2.7-mean", "2.7-equal"):
        settings = tables.settings_of(tables.find(name), 0, "cpu", Path("work"), tiny=False)
        weights[name] = hcnn.count_parameters(tables.build(settings.network)).trained
    assert abs(weights["2.7-equal"] / weights["2.7-mean"] - 1) < 0.01


def test_a_row_in_pieces_ends_with_the_same_weights(place, tmp_path) -> None:
    assert run(place, "1.1", "--tiny") == 0
    assert run(tmp_path, "1.1", "--tiny", "--minutes", "0") == 75  # it stops with a checkpoint
    assert not (tmp_path / "results" / "hcnn-fast" / "result.json").exists()
    assert run(tmp_path, "1.1", "--tiny") == 0
    digests = [
        json.loads((folder / "results" / "hcnn-fast" / "result.json").read_text())["weights_sha256"]
        for folder in (place, tmp_path)
    ]
    assert digests[0] == digests[1]


def test_coarse_accuracy_is_of_the_superclass_of_the_likeliest_class(place) -> None:
    assert run(place, "2.1", "--tiny") == 0
    data = tables.load_data(tables.find("2.1"), None, tiny=True)
    folder = place / "work" / "cifar100-hcnn-fast" / "0"
    model = load_run(folder)
    with torch.no_grad():
        likeliest = model.model(model.preprocessing.standardize(data.test.images)).argmax(1)
    expected = (likeliest // 5 == data.test.labels // 5).float().mean().item()
    assert tables.coarse_accuracy(folder, data.test, "cpu") == pytest.approx(expected)


def test_wrong_input_ends_with_2_and_a_reason(place, tmp_path, capsys) -> None:
    assert run(place, "1.11") == 2
    assert "unknown row '1.11'; did you mean 1.1" in capsys.readouterr().err
    assert run(tmp_path, "1.8-wrn16_1_taught", "--tiny") == 2  # its teacher has not been trained
    assert "is not a finished run" in capsys.readouterr().err
    assert run(tmp_path, "1.1", "--tiny", "--budget", "1e-9") == 2
    assert "--budget is 1e-09" in capsys.readouterr().err
    assert not (tmp_path / "work" / "hcnn-fast").exists()
    folder = tmp_path / "work" / "hcnn-fast" / "0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 7}')
    assert run(tmp_path, "1.1", "--tiny") == 2
    assert "holds another run" in capsys.readouterr().err


def test_it_needs_torch_numpy_and_safetensors_only(tmp_path) -> None:
    code = f"""
import sys
for name in ("tyro", "rich", "matplotlib", "pooch", "sklearn", "tensorboard", "PIL"):
    sys.modules[name] = None
sys.argv = ["tables.py", "2.1", "--tiny", "--device", "cpu", "--output", {str(tmp_path / "out")!r},
            "--work", {str(tmp_path / "work")!r}]
exec(compile(open({str(SCRIPT)!r}).read(), "tables.py", "exec"), {{"__name__": "__main__"}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "cifar100-hcnn-fast" / "result.json").exists()
    assert not (tmp_path / "out" / "cifar100-hcnn-fast" / "curves.png").exists()
