"""The comparison of two settings over seeds: its numbers, what differs, and folders that cannot be compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "paired_seeds.py"


def _setting(folder: Path, accuracies: dict[int, float], **model: object) -> Path:
    for seed, accuracy in accuracies.items():
        run = folder / f"run-{seed}"
        run.mkdir(parents=True)
        config = {"network": "HierarchicalCNN", "model": {"width": 8, **model}, "recipe": {"lr": 1}, "data_sha256": "0"}
        (run / "config.json").write_text(json.dumps({**config, "seed": seed}))
        (run / "result.json").write_text(json.dumps({"seed": seed, "test_accuracy": accuracy}))
    return folder


def _run(*folders: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), *map(str, folders)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_differences_are_taken_within_seeds(tmp_path) -> None:
    zeros = _setting(tmp_path / "zeros", {0: 0.75, 1: 0.5, 2: 0.625}, boundary="zeros")
    circular = _setting(tmp_path / "circular", {2: 0.5, 0: 0.625, 1: 0.375}, boundary="circular")
    done = _run(zeros, circular)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:5]]
    assert rows[0][:4] == ["zeros", "75.00", "50.00", "62.50"]
    assert rows[1][:4] == ["circular", "62.50", "37.50", "50.00"]
    assert rows[2] == ["difference", "+12.50", "+12.50", "+12.50", "+12.50 ± 0.00"]
    assert rows[0][4] == "62.50 ± 31.03"  # 4.30 · 12.5 / √3
    assert "They differ in: model.boundary (zeros against circular)" in done.stdout


def test_what_cannot_be_compared_is_refused(tmp_path) -> None:
    two = _setting(tmp_path / "two", {0: 0.5, 1: 0.5})
    others = _setting(tmp_path / "others", {0: 0.5, 2: 0.5})
    mixed = _setting(_setting(tmp_path / "mixed", {0: 0.5}), {1: 0.5}, boundary="circular")
    for second, message in (
        (others, "expected the same seeds in both; got [0, 1] and [0, 2]"),
        (_setting(tmp_path / "one", {0: 0.5}), "expected folders of finished runs with two to five seeds; found 1"),
        (mixed, "mixed: expected runs that differ in the seed only"),
    ):
        done = _run(two, second)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.mark.parametrize("name", ["zeros", "circular"])
def test_the_runs_that_are_published_can_be_compared(name) -> None:
    folder = SCRIPT.parents[1] / "results" / "boundary" / name
    done = _run(folder, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[4].endswith("| +0.00 ± 0.00 |")
    assert "They differ in: nothing" in done.stdout
