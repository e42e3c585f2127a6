"""What result.json says of the processes that trained a run."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hcnn
from hcnn.data.image_set import ImageSet, Splits
from hcnn.runs import environment
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.progress import Progress
from hcnn.training.recipe import Recipe

IMAGES = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATA = Splits(ImageSet(IMAGES, torch.arange(8) % 2, ("a", "b"), "pets"))
NETWORK = hcnn.model_config("hcnn_digits", width=4, rank=2, depth=4, downsample=(), classes=2)


@pytest.fixture
def commit(tmp_path, monkeypatch) -> Callable[[], str]:
    """Commits to a checkout that the package seems to be imported from; returns which commit it is then at."""
    place = tmp_path / "checkout"
    place.mkdir()

    def git(*words: str) -> None:
        user = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
        subprocess.run(["git", "-C", str(place), *user, *words], check=True, capture_output=True)

    def make() -> str:
        git("commit", "--allow-empty", "--message", "another version")
        found = environment.commit()
        assert found is not None
        return found

    git("init")
    monkeypatch.setattr(environment, "__file__", str(place / "src" / "hcnn" / "runs" / "environment.py"))
    return make


def test_the_commit_is_that_of_the_code_that_trained(tmp_path, commit) -> None:
    begun, later = commit(), []

    def edit(progress: Progress) -> None:
        later.append(commit())

    settings = RunSettings(NETWORK, Recipe(epochs=1, batch_size=4), "pets")
    assert train_run(tmp_path / "run", settings, DATA, on_step=edit)["commit"] == begun
    assert len({begun, *later}) == 3


def test_the_repository_of_a_hook_is_not_taken_for_that_of_the_package(commit, monkeypatch) -> None:
    found = commit()
    monkeypatch.setenv("GIT_DIR", "somewhere else")
    assert environment.commit() == found


def test_a_resumed_run_names_what_trained_it_before(tmp_path, commit) -> None:
    def stop(progress: Progress) -> None:
        if progress.epoch_done:
            raise InterruptedError

    folder: Path = tmp_path / "run"
    settings = RunSettings(NETWORK, Recipe(epochs=3, batch_size=4), "pets")
    commits = [commit()]
    with pytest.raises(InterruptedError):
        train_run(folder, settings, DATA, on_step=stop)
    with pytest.raises(InterruptedError):  # by the same code: once is enough
        train_run(folder, settings, DATA, resume=True, on_step=stop)
    commits.append(commit())
    result = train_run(folder, settings, DATA, resume=True)
    assert [one["commit"] for one in (*result["earlier"], result)] == commits
    assert result["earlier"] == [{name: result[name] for name in result["earlier"][0]} | {"commit": commits[0]}]
    assert {"processes", "hardware", "versions"} < result["earlier"][0].keys()
    assert "earlier" not in train_run(tmp_path / "other", settings, DATA)
