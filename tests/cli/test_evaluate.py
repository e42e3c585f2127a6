"""`hcnn evaluate` as a user types it: own test images, images set aside, a labelled folder, and several runs."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hcnn import cli
from hcnn.data.datasets import load
from hcnn.export.check_images import find_check_images
from hcnn.runs.held_out import load_run_data
from hcnn.runs.load import load_run

TINY = ["--set", "width=4", "--set", "rank=3", "--epochs", "1", "--seed", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("evaluated")
    found = [folder / "first", folder / "second"]
    for seed, run in enumerate(found):
        assert cli.main(["train", "digits", *TINY[:-1], str(seed), "--output", str(run)]) == 0
    return found


def labelled(folder: Path, count: int) -> Path:
    """Real digits in a folder of classes."""
    test = load("digits").test
    assert test is not None
    for index in range(count):
        place = folder / str(int(test.labels[index]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[index, 0].numpy()).save(place / f"{index}.png")
    return folder


def test_it_writes_a_page_beside_the_run(runs, capsys) -> None:
    assert cli.main(["evaluate", str(runs[0])]) == 0
    out = capsys.readouterr().out
    recorded = json.loads((runs[0] / "result.json").read_text())["test_accuracy"]
    assert f"digits, test: {recorded:.2%} of 360 images" in out
    assert "95 % interval" in out
    folder = runs[0] / "evaluation"
    assert f"wrote {folder / 'evaluation.html'}" in out
    assert json.loads((folder / "evaluation.json").read_text())["accuracy"] == pytest.approx(recorded)
    assert {one.name for one in folder.iterdir()} == {
        "evaluation.html", "evaluation.json", "classes.csv", "confusion.csv", "confusion.png", "calibration.png",
        "coverage.png", "mistakes",
    }  # fmt: skip


def test_other_images_under_the_name_of_the_runs_data_are_noticed(tmp_path, capsys, monkeypatch) -> None:
    for place, start in (("one", 0), ("two", 100)):
        random = np.random.default_rng(start)
        (tmp_path / place).mkdir()
        images, labels = random.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2
        np.savez(
            tmp_path / place / "d.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels
        )
    monkeypatch.chdir(tmp_path / "one")
    assert cli.main(["train", "d.npz", *TINY, "--train-images", "30", "--batch-size", "10", "--output", "run"]) == 0
    assert cli.main(["evaluate", "run"]) == 0
    assert "was trained on" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "two")
    assert cli.main(["evaluate", "../one/run", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["count"] == 40
    assert captured.err.startswith(
        "d.npz: these are not the images that ../one/run was trained on: the data has changed"
    )
    assert cli.main(["export", "../one/run", "--to", "c", "--int8", "--output", "m.c"]) == 0
    assert "these are not the images that ../one/run was trained on" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["draw_coverage", "_page"])
def test_an_evaluation_that_fails_leaves_none_of_its_files(runs, tmp_path, monkeypatch, name) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"hcnn.evaluation.report.{name}", fail)
    assert cli.main(["evaluate", str(runs[0]), "--output", str(tmp_path / "out")]) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_json_is_a_line_for_each_run(runs, tmp_path, capsys) -> None:
    assert cli.main(["evaluate", *map(str, runs), "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["network"] for line in lines] == ["first", "second"]
    assert all(line["count"] == 360 and len(line["confusion"]) == 10 for line in lines)


def test_a_labelled_folder_without_parts(runs, tmp_path, capsys) -> None:
    data = labelled(tmp_path / "mine", 60)
    assert cli.main(["evaluate", str(runs[0]), "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    assert f"{data}: " in (out := capsys.readouterr().out)
    assert "of 60 images" in out
    assert (tmp_path / "out" / "evaluation.html").is_file()


def test_a_folder_whose_run_set_images_aside(tmp_path, capsys) -> None:
    data = labelled(tmp_path / "mine", 120)
    command = ["train", str(data), *TINY, "--validation", "30", "--output", str(tmp_path / "run")]
    assert cli.main(command) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert f"{data}, validation: " in (out := capsys.readouterr().out)
    assert "of 30 images" in out
    # As many images as before, but one comes first that was last: others would be drawn, most of them trained on.
    last = max((data / "0").iterdir())
    last.rename(last.with_name("!first.png"))
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 2
    assert "it cannot be told which 30 images were set aside for validation; choose others with --on (train), or" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert cli.main(["evaluate", str(tmp_path / "run"), "--on", "train"]) == 0
    assert f"{data}: " in (out := capsys.readouterr().out)
    assert "of 120 images" in out
    run = load_run(tmp_path / "run")
    assert find_check_images(run).source == "64 images of mine/train"
    assert load_run_data(run).validation is None


def test_images_to_check_with_are_of_all_classes_though_a_folder_is_ordered_by_class(tmp_path) -> None:
    data = labelled(tmp_path / "mine", 150)
    assert cli.main(["train", str(data), *TINY, "--validation", "0", "--output", str(tmp_path / "run")]) == 0
    run = load_run(tmp_path / "run")
    found = find_check_images(run)
    assert found.labels is not None
    assert len(found.labels.unique()) == len(run.preprocessing.classes)
    assert torch.equal(found.images[-1], load_run_data(run).train.images[-1])


def test_several_runs_under_shifts(runs, tmp_path, capsys) -> None:
    data = labelled(tmp_path / "mine", 40)
    command = ["evaluate", *map(str, runs), "--shifts", "--data", str(data), "--output", str(tmp_path / "compared")]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "first, rotation: 5: " in out
    assert "second, jpeg: 90: " in out
    assert "hue" not in out  # grey images have none
    record = json.loads((tmp_path / "compared" / "shifts.json").read_text())
    assert record["networks"].keys() == {"first", "second"}
    with Image.open(tmp_path / "compared" / "shifts.png") as picture:
        assert np.asarray(picture).std() > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--on", "validation"], "its data has no validation images; choose others with --on (test, train)"),
        (["--data", "nowhere"], "unknown data set"),
        (["--format", "xml"], "invalid choice"),
    ],
)
def test_wrong_requests_leave_nothing(runs, tmp_path, words, says, capsys) -> None:
    before = sorted(runs[1].rglob("*"))
    try:
        code = cli.main(["evaluate", str(runs[1]), *words])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert says in capsys.readouterr().err
    assert sorted(runs[1].rglob("*")) == before


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("file", "file: Not a directory"),
        ("folder", "classes.csv: the file exists and hcnn did not write it; give another --output"),
    ],
)
def test_nothing_is_measured_where_it_cannot_be_written(runs, tmp_path, output, says, capsys) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/classes.csv"):
        (tmp_path / name).write_text("name,price\n")
    for command in (["evaluate", str(runs[0])], ["compare", str(tmp_path)]):
        if output == "folder" and command[0] == "compare":
            (tmp_path / "folder" / "comparison.csv").write_text("name,price\n")
            says = says.replace("classes", "comparison")
        assert cli.main([*command, "--output", str(tmp_path / output)]) == 2
        captured = capsys.readouterr()
        assert says in captured.err
        assert "accuracy" not in captured.out
    assert (tmp_path / "folder" / "classes.csv").read_text() == "name,price\n"


def test_runs_of_one_name_cannot_be_told_apart(runs, capsys) -> None:
    assert cli.main(["evaluate", str(runs[0]), str(runs[0])]) == 2
    assert "expected runs whose folders have different names; got first, first" in capsys.readouterr().err
