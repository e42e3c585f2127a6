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
from hcnn.models.factory import build
from hcnn.runs.load import load_run
from hcnn.training.recipes import get_recipe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tables.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(SCRIPT.parent))  # as when it is run: its rows lie beside it
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
    if len(row.seeds) > 1:
        summary = json.loads((place / "results" / row.name / "summary.json").read_text())
        assert summary["seeds"] == list(row.seeds)
        assert set(summary["test_accuracy"]) == {"mean", "std", "values"}


SOME = ["1.3+", "1.4", "1.5", "1.6-9", "1.7", "1.8-wrn16_1_taught", "1.cpu", "2.2", "2.7-linear", "3-taught"]


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in tables.ROWS]
)
def test_each_row_end_to_end(place, name) -> None:
    _row(place, name)


def test_rows_are_the_networks_and_recipes_they_say() -> None:
    for name, row in tables.ROWS.items():
        settings = tables.settings_of(row, 0, "cpu", Path("work"), tiny=False)
        assert settings.network.classes == (100 if name.startswith("2") else 10)
        assert not row.ships or hcnn.model_config(row.ships) == settings.network  # as create_model will look for it
    settings = tables.settings_of(tables.find("1.4"), 0, "cpu", Path("work"), tiny=False)
    assert settings.recipe == get_recipe("paper")
    assert settings.network == hcnn.model_config("hcnn_cifar10")
    assert tables.settings_of(tables.find("1.cpu"), 0, "cpu", Path("work"), tiny=False).recipe.epochs == 20
    weights = {}
    for name in ("2.7-mean", "2.7-equal"):
        settings = tables.settings_of(tables.find(name), 0, "cpu", Path("work"), tiny=False)
        weights[name] = hcnn.count_parameters(build(settings.network)).trained
    assert abs(weights["2.7-equal"] / weights["2.7-mean"] - 1) < 0.01


def test_three_seeds_go_on_from_the_single_run(tmp_path, capsys) -> None:
    assert run(tmp_path, "2.1", "--tiny") == 0
    capsys.readouterr()
    assert run(tmp_path, "2.4", "--tiny") == 0
    said = capsys.readouterr().out
    assert "seed 0: loss" not in said  # no check, no training: row 2.1 is its first seed
    assert "seed 1: loss" in said


def test_a_row_in_pieces_ends_with_the_same_weights(place, tmp_path) -> None:
    assert run(place, "1.1", "--tiny") == 0
    assert run(tmp_path, "1.1", "--tiny", "--minutes", "0") == 75  # it stops with a checkpoint
    assert not (tmp_path / "results" / "hcnn-fast").exists()
    assert run(tmp_path, "1.1", "--tiny") == 0
    digests = [
        json.loads((folder / "results" / "hcnn-fast" / "result.json").read_text())["weights_sha256"]
        for folder in (place, tmp_path)
    ]
    assert digests[0] == digests[1]


def test_what_was_chosen_is_trained_on_everything_and_tested(place) -> None:
    assert run(place, "3-ema,cutmix", "--tiny", "--final") == 0
    folder = place / "results" / "step-ema-cutmix-final"
    config, result = (json.loads((folder / file).read_text()) for file in ("config.json", "result.json"))
    assert config["recipe"]["ema"] == 0.999
    assert config["recipe"]["augmentation"]["cutmix"] == 1.0
    assert config["recipe"]["augmentation"]["translation"] == get_recipe("fast").augmentation.translation
    assert result["test_set"].startswith("read once")
    assert "validation_accuracy" not in result
    assert "--final" in (folder / "command.txt").read_text()


def test_no_teacher_has_seen_what_its_student_is_chosen_on() -> None:
    for row in tables.ROWS.values():
        if row.chooses and row.teacher:
            assert tables.find(row.teacher).chooses


def test_costs_are_the_arithmetic_that_they_say() -> None:
    one, three = (tables.estimate(tables.find(name)) for name in ("1.1", "1.5"))
    assert one.steps == 30 * 50_000 // 100
    assert one.flop == pytest.approx(6 * 1.93e9 * 1.5e6, rel=0.01)
    assert (three.steps, three.flop) == (3 * one.steps, 3 * one.flop)
    assert tables.estimate(tables.find("3-taught")).flop > tables.estimate(tables.find("3-plain")).flop


def test_curves_are_drawn_later(tmp_path, capsys) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1.0, "train_accuracy": 0.5, "lr": 0.1}\n')
    assert tables.main(["--curves", str(tmp_path)]) == 0
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "curves.png")


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
    assert "is distilled from row 1.8-wrn40_1: run that first" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    assert run(tmp_path, "1.1", "--tiny", "--budget", "1e-9") == 2
    assert "--budget is 1e-09" in capsys.readouterr().err
    assert not (tmp_path / "work" / "hcnn-fast").exists()
    assert run(tmp_path, "1.1", "--tiny", "--final") == 2
    assert "1.1 trains on all images anyway" in capsys.readouterr().err
    folder = tmp_path / "work" / "hcnn-fast" / "0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 7}')
    assert run(tmp_path, "1.1", "--tiny") == 2
    assert f"{folder / 'config.json'} is not that of a run" in capsys.readouterr().err


def test_results_of_another_run_are_not_overwritten(tmp_path, capsys) -> None:
    folder = tmp_path / "results" / "hcnn-fast"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 7}')
    assert run(tmp_path, "1.1", "--tiny") == 2
    assert f"{folder} holds another run" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()  # nothing was started
    assert sorted(path.name for path in folder.iterdir()) == ["config.json"]


def test_a_tiny_run_stays_away_from_results_unless_told(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tables.main(["1.1", "--tiny", "--device", "cpu"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_it_needs_torch_numpy_and_safetensors_only(tmp_path) -> None:
    words = ["--device", "cpu", "--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    code = f"""
import sys
for name in ("rich", "matplotlib", "pooch", "sklearn", "tensorboard", "PIL"):
    sys.modules[name] = None
sys.path.insert(0, {str(SCRIPT.parent)!r})
import tables
missing = tables.main(["1.1", "--data-dir", {str(tmp_path / "data")!r}, *{words!r}])
print("without data:", missing)
sys.exit(tables.main(["2.1", "--tiny", *{words!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "without data: 2" in done.stdout
    assert "cifar-10-binary.tar.gz" in done.stderr  # what to put
    assert str(tmp_path / "data") in done.stderr  # where
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "cifar100-hcnn-fast" / "result.json").exists()
    assert not (tmp_path / "out" / "cifar100-hcnn-fast" / "curves.png").exists()
