"""Fixtures that several tests share; what they give is in `helpers`."""

import os
import sys

# The arrays of the tests are too small for several threads. `make test` runs two files at a time instead.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.disks import mounted
from helpers.processes import Commands, Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    with zygote.process:
        zygote.process.kill()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Starts `hcnn` commands as processes of their own, quickly."""
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    """Matplotlib warns of more than 20 open figures, and tests that look at figures keep them."""
    yield
    if plot := sys.modules.get("matplotlib.pyplot"):
        plot.close("all")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=2m") as folder:
        yield folder
