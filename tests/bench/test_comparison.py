"""`hcnn compare` over real runs: the table, its files, its picture, and what it says of what it cannot read."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hcnn
from hcnn import cli
from hcnn.bench.comparison import make_entries
from hcnn.bench.comparison_files import csv_text, markdown
from hcnn.bench.published import SYSTEMS
from hcnn.bench.results import Result, read_results
from hcnn.bench.throughput import load_throughput, measure_all, save_throughput
from hcnn.bench.timing import measure_throughput
from hcnn.models.pretrained import pretrained_record
from hcnn.models.registry import list_models


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Two seeds of ResNet-20 and a taught WRN-16-1, trained by the command on small arrays called cifar10."""
    home = tmp_path_factory.mktemp("comparison")
    random = np.random.default_rng(0)
    np.savez(
        home / "cifar10.npz", images=random.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8),
        labels=np.arange(60) % 10,
        test_images=random.integers(0, 256, (20, 3, 16, 16), dtype=np.uint8), test_labels=np.arange(20) % 10,
    )  # fmt: skip
    base = ["train", str(home / "cifar10.npz"), "--recipe", "fast", "--epochs", "1", "--batch-size", "20"]
    base += ["--threads", "1"]
    threads = torch.get_num_threads()
    for model, folder, extra in (
        ("resnet20_cifar10", "resnet/0", []),
        ("resnet20_cifar10", "resnet/1", ["--seed", "1"]),
        ("wrn16_1_cifar10", "taught", ["--teacher", str(home / "results/resnet/0"), "--teach", "attention"]),
    ):
        assert cli.main([*base, "--model", model, "--output", str(home / "results" / folder), *extra]) == 0
    torch.set_num_threads(threads)
    for path in (home / "results").rglob("result.json"):  # the table knows data by name
        path.write_text(path.read_text().replace(str(home / "cifar10.npz"), "cifar10"))
    return home / "results"


def test_a_run_kept_twice_counts_once(results, tmp_path) -> None:
    shutil.copytree(results, tmp_path / "results")
    shutil.copytree(results / "resnet", tmp_path / "results" / "seeds")
    said: list[str] = []
    assert [one.seed for one in read_results(tmp_path / "results", said.append)] == [0, 1, 0]
    assert [line.split(": ")[1] for line in said] == [
        f"the same run as {tmp_path / 'results' / 'resnet' / seed / 'result.json'}" for seed in "01"
    ]


def test_a_run_older_than_a_field_keeps_its_name(results, tmp_path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results / "resnet" / "0", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["downsample"]  # as if the field, with its default, had been added later
    (folder / "config.json").write_text(json.dumps(config))
    assert [one.model for one in read_results(folder)] == ["resnet20_cifar10"]


def test_runs_with_other_images_or_another_teaching_are_of_other_recipes(tmp_path) -> None:
    record = pretrained_record("hcnn_small_cifar10_circular")
    for name, config, result in (
        ("0", {}, {"seed": 0}),
        ("1", {}, {"seed": 1}),
        ("2", {"teaching": {"attention": 1.0}}, {}),
        ("3", {}, {"train_images": 100}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(record["config"] | config))
        (tmp_path / name / "result.json").write_text(json.dumps(record["result"] | {"weights_sha256": name} | result))
    found = read_results(tmp_path)
    assert [[one.recipe for one in found].index(one.recipe) for one in found] == [0, 0, 2, 3]
    assert found[3].images == 100 * record["result"]["epochs"]


def test_runs_are_of_one_recipe_whichever_version_wrote_it_unless_one_got_more_epochs(tmp_path) -> None:
    record = pretrained_record("hcnn_small_cifar10_circular")
    older = {name: value for name, value in record["config"]["recipe"].items() if name != "topography"}
    longer = {"extended": [{"from_epochs": 50, "to_epochs": 100, "step": 25_000}]}
    for name, config in (("0", {}), ("1", {"recipe": older}), ("2", longer)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(record["config"] | config))
        (tmp_path / name / "result.json").write_text(json.dumps(record["result"] | {"weights_sha256": name}))
    assert len(older) < len(record["config"]["recipe"])
    found = read_results(tmp_path)
    assert [[one.recipe for one in found].index(one.recipe) for one in found] == [0, 0, 2]


def test_runs_that_are_not_one_training_from_random_weights_are_left_out(tmp_path) -> None:
    record = pretrained_record("hcnn_small_cifar10_circular")
    epochs = record["result"]["epochs"]
    more = record["config"]["recipe"] | {"epochs": epochs + 5}
    initial = {"source": "hcnn_small_cifar10_circular", "weights_sha256": "0" * 64, "freeze": 0}
    for name, config in (("init", {"init": initial}), ("longer", {"recipe": more})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(record["config"] | config))
        (tmp_path / name / "result.json").write_text(json.dumps(record["result"]))
    said: list[str] = []
    assert read_results(tmp_path, said.append) == []
    assert [line.split(": ")[1] for line in said] == [
        "it started from trained weights, which the comparison does not count",
        f"it is being trained further, from {epochs} to {epochs + 5} epochs",
    ]


def test_rows_hold_our_figures_beside_the_publications(results) -> None:
    found = read_results(results)
    assert [(one.model, one.distilled, one.seed) for one in found] == [
        ("resnet20_cifar10", False, 0), ("resnet20_cifar10", False, 1), ("wrn16_1_cifar10", True, 0),
    ]  # fmt: skip
    rows = {row.system.title: row for row in make_entries(found)}
    assert len(rows) == len(SYSTEMS)
    resnet = rows["ResNet-20"]
    assert resnet.seeds == (0, 1)
    assert resnet.accuracies == tuple(100 * one.accuracy for one in found[:2])
    assert resnet.tested
    assert (resnet.system.cifar10, resnet.learned, resnet.multiply_adds) == (91.25, 269_722, 40_551_040)
    assert "±" in resnet.accuracy
    assert resnet.run == "short run, not a reproduction: 60 images seen, test accuracy"
    assert rows["WRN-16-1, attention from WRN-40-1"].seeds == (0,)
    assert rows["WRN-16-1, alone"].run == "not yet trained"
    assert (rows["HCNN"].stored, rows["HCNN"].learned) == (97_650 + 341, 344_640 + 341)
    assert (rows["HyperNetwork, WRN-40-1"].stored, rows["HyperNetwork, WRN-40-1"].computing) == (97_770, 563_930)


def test_runs_are_one_row_that_differ_in_the_seed_alone() -> None:
    one = Result(Path("a"), "resnet20_cifar10", False, "cifar10", "a recipe", 0, 0.9, tested=True, images=100)
    runs = [
        one,
        replace(one, seed=1, accuracy=0.8),
        replace(one, recipe="another recipe", images=300, accuracy=0.7),
        replace(one, tested=False, images=200, accuracy=0.6),
        replace(one, model="resnet20_cifar100", data="cifar100", images=50, accuracy=0.5),
        replace(one, distilled=True),  # there is no such row
        replace(one, model=None),
        replace(one, data="svhn", images=500),  # ten classes, too
    ]
    rows = [row for row in make_entries(runs) if row.accuracies]
    assert {row.system.title for row in rows} == {"ResNet-20"}
    assert [row.accuracy for row in rows] == ["70.00 (n = 1)", "60.00 (n = 1)", "85.00 ± 7.07 (n = 2)", "50.00 (n = 1)"]
    assert [row.seeds for row in rows] == [(0,), (0,), (0, 1), (0,)]
    assert [row.data for row in rows] == ["cifar10"] * 3 + ["cifar100"]
    assert [row.tested for row in rows] == [True, False, True, True]


def test_the_command_writes_table_and_picture(results, tmp_path, capsys) -> None:
    assert cli.main(["compare", str(results), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "All-CNN-C: not yet trained" in out
    text = (tmp_path / "out" / "comparison.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| ResNet-20"))
    assert "0.27M | 91.25 | – | CIFAR-10" in line
    assert "269,722 | 269,722 | 40.6M" in line
    short, missing = (
        text.partition(f"## {title}\n")[2] for title in ("Short runs, not reproductions", "Not yet trained")
    )
    assert short.partition("## ")[0].count("images seen") == 2
    assert missing.partition("## ")[0].count("\n| ") == 1 + len(SYSTEMS) - 2
    assert "## Full runs" not in text
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SYSTEMS)
    resnet = next(row for row in rows if row["model"] == "resnet20")
    assert (resnet["seeds"], resnet["learned"], resnet["measured_on"]) == ("0 1", "269722", "test")
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert min(image.size) > 400


def test_measured_figures_are_kept_and_shown(results, tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    figures = {"resnet20_cifar10": {"train": [50.0, 40.0, 60.0], "infer": [200.0, 190.0, 210.0]}}
    machine = {"processor": "a processor", "threads": 1}
    kept = {"hardware": machine, "torch": "2", "batch": 20, "models": figures}
    (folder / "throughput.json").write_text(json.dumps(kept))
    assert cli.main(["compare", str(folder)]) == 0
    text = (folder / "comparison.md").read_text()
    assert "50 (40 to 60) | 200 (190 to 210) |" in text
    assert "Images/s: a processor, 1 thread(s), torch 2, batches of 20" in text
    kept["hardware"] = {"processor": "<b>\n# |fast|", "threads": 1}
    (folder / "throughput.json").write_text(json.dumps(kept))
    assert cli.main(["compare", str(folder)]) == 0
    assert r"Images/s: \<b\>\\n\# \|fast\|, 1 thread(s)" in (folder / "comparison.md").read_text()


def test_what_is_measured_is_read_again(tmp_path) -> None:
    measured = measure_all(["hcnn_small_cifar10"], batch=2, seconds=0)
    save_throughput(measured, tmp_path)
    found = load_throughput(tmp_path)
    assert found is not None
    assert found["batch"] == 2
    for kind in ("train", "infer"):
        median, low, high = found["models"]["hcnn_small_cifar10"][kind]
        assert low <= median <= high


def test_throughput_counts_images() -> None:
    model = hcnn.create_model("resnet20_digits")
    speed = measure_throughput(model, torch.randn(4, 1, 8, 8), train=True, seconds=0.05)
    assert 0 < speed.low <= speed.median <= speed.high
    assert speed.steps >= 3
    assert all(p.grad is None for p in model.parameters())
    folded = hcnn.create_model("hcnn_digits").inference()
    assert measure_throughput(folded, torch.randn(4, 1, 8, 8), train=False, seconds=0.05).steps >= 3
    assert not folded.training


def test_the_table_in_results_is_of_the_results_there() -> None:
    folder = Path(__file__).parents[2] / "results"
    throughput = load_throughput(folder)
    rows = make_entries(read_results(folder), throughput)
    assert all(row.accuracies for row in rows)
    assert all(row.train and row.infer for row in rows), "hcnn compare --measure, on a quiet machine"
    again = "make it again: hcnn compare results"
    assert (folder / "comparison.md").read_text() == markdown(rows, throughput), again
    assert (folder / "comparison.csv").read_text() == csv_text(rows), again


def test_only_runs_without_a_row_are_said_to_have_none(tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    for name, data, more in (
        ("known", "cifar10", {}), ("other", "svhn", {}), ("taught", "cifar10", {"teacher": {}}),
    ):  # fmt: skip
        (folder / name).mkdir(parents=True)
        record = pretrained_record("hcnn_small_cifar10_circular")
        record["result"] |= {"data": data, "weights_sha256": name}
        record["config"] |= more
        for part in ("config", "result"):
            (folder / name / f"{part}.json").write_text(json.dumps(record[part]))
    assert cli.main(["compare", str(folder)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "no row for" in line]
    assert [line.partition("result.json: ")[2] for line in lines] == [
        "hcnn_small_cifar10_circular on svhn", "hcnn_small_cifar10_circular on cifar10, distilled",
    ]  # fmt: skip
    assert (folder / "comparison.md").read_text().count("images seen") == 1


def test_a_run_is_short_that_has_seen_fewer_images_than_ten_epochs_of_cifar() -> None:
    row = replace(make_entries([])[0], accuracies=(90.0,), images=500_000)
    assert row.run.startswith("full run: 500,000 images seen")
    assert replace(row, images=499_999).run.startswith("short run, not a reproduction: 499,999 images seen")
    assert replace(row, learned=5, computing=3).stored == replace(row, learned=3, computing=5).stored == 3


def test_every_row_has_its_networks() -> None:
    for system in SYSTEMS:
        assert f"{system.model}_cifar10" in list_models()


def test_what_cannot_be_read_is_said(results, tmp_path, capsys) -> None:
    def error(*arguments) -> str:
        assert cli.main([str(one) for one in arguments]) == 2
        return capsys.readouterr().err.replace("\n", " ")

    assert "expected a folder of results" in error("compare", tmp_path / "none")
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    (folder / "taught" / "config.json").unlink()
    capsys.readouterr()
    assert cli.main(["compare", str(folder)]) == 0
    assert "no config.json beside it" in capsys.readouterr().out
    kept = json.loads((folder / "resnet/0/result.json").read_text())
    (folder / "resnet/0/result.json").write_text("{}")
    assert cli.main(["compare", str(folder)]) == 0
    assert "neither test nor validation accuracy in it" in capsys.readouterr().out
    (folder / "resnet/0/result.json").write_text(json.dumps(kept | {"test_accuracy": 1.5}))
    assert "accuracy: expected 0 to 1; got 1.5" in error("compare", folder)
    (folder / "resnet/0/result.json").write_text("{")
    assert "resnet/0/result.json: expected a run's result" in error("compare", folder)
    shutil.rmtree(folder / "resnet")
    machine = {"hardware": {"processor": "a processor", "threads": 1}, "torch": "2", "batch": 20}
    never = {"resnet20_cifar10": {"train": [1, 1, 1e999], "infer": [1, 1, 1]}}
    short = {"resnet20_cifar10": {"train": [1], "infer": [1, 1, 1]}}
    for kept in ([], {"models": 3}, {**machine, "models": never}, {**machine, "models": short}):
        (folder / "throughput.json").write_text(json.dumps(kept))
        assert "throughput.json: expected the figures that `hcnn compare --measure` writes" in error("compare", folder)
    assert "--batch and --seconds: expected at least one image" in error("compare", results, "--measure", "--batch", 0)
    assert "a finite time above 0; got 20, inf" in error("compare", results, "--measure", "--seconds", "inf")
    assert "--seconds: only with --measure" in error("compare", results, "--seconds", 3)


def test_figures_that_find_no_place_are_not_measured(results, tmp_path, capsys) -> None:
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / "throughput.json").mkdir()
    words = ["compare", str(tmp_path / "results"), "--measure", "--batch", "1", "--seconds", "0.001"]
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert "images/s" not in captured.out
    assert "throughput.json: expected a file or a free name; it is a folder" in captured.err


def test_the_command_line_knows_the_baselines(results, capsys) -> None:
    assert cli.main(["summary", "densenet_bc40_cifar10"]) == 0
    assert "176,122" not in (out := capsys.readouterr().out)  # it shows weights and normalizations apart
    assert "blocks.2.5.conv2" in out
    assert cli.main(["models"]) == 0
    assert "hypernetwork_cifar10" in capsys.readouterr().out
    picture = results.parent / "image.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture)
    assert cli.main(["predict", str(results / "taught"), str(picture)]) == 0
    assert "%" in capsys.readouterr().out
    assert cli.main(["train", "digits", "--teach", "attention", "--output", str(results / "x")]) == 2
    assert "need a --teacher" in capsys.readouterr().err.replace("\n", " ")
    assert cli.main(["train", "digits", "--model", "resnet_digits"]) == 2
    assert "did you mean resnet8_digits" in capsys.readouterr().err.replace("\n", " ")
