"""What pyproject.toml, the Makefile, the lock and the hooks say of each other."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def pins(name: str) -> dict[str, list[str]]:
    """The versions that a file of pins allows of each package."""
    found: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / name).read_text("utf-8"), re.M):
        found.setdefault(canonicalize_name(package), []).append(version)
    return found


def group(name: str) -> list[str]:
    """The requirements of a dependency group, those that it includes among them."""
    found: list[str] = []
    for one in PROJECT["dependency-groups"][name]:
        found += group(one["include-group"]) if isinstance(one, dict) else [one]
    return found


def wanted() -> list[Requirement]:
    """Everything that developers install directly."""
    extras = re.search(r"^EXTRAS := (\S+)$", MAKEFILE, re.M)
    assert extras is not None
    project = PROJECT["project"]
    found = [*project["dependencies"], *group("dev")]
    for extra in extras[1].split(","):
        found += project["optional-dependencies"][extra]
    return [Requirement(one) for one in found]


@pytest.mark.parametrize("name", ["requirements.lock", "constraints.txt"])
def test_every_requirement_is_pinned_to_a_version_that_it_allows(name) -> None:
    pinned = pins(name)
    for one in wanted():
        assert pinned.get(canonicalize_name(one.name)), f"{name} lacks {one.name}; run `make lock`"
        for version in pinned[canonicalize_name(one.name)]:
            assert one.specifier.contains(version, prereleases=True), f"{name}: {one.name} {version} is not {one}"


def test_the_lock_has_the_versions_of_the_constraints_and_names_no_host() -> None:
    locked, constrained = pins("requirements.lock"), pins("constraints.txt")
    different = {name: one for name, one in constrained.items() if name in locked and locked[name] != one}
    assert not different, f"run `make lock`: {different}"
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in text
    assert text.count("--hash=sha256:") > len(locked)


def test_the_hooks_run_what_make_lint_runs() -> None:
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    lint = re.search(r"^lint: .*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert lint is not None
    assert hooks == [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    assert "http" not in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


def test_the_classifiers_name_the_versions_of_python_that_are_required() -> None:
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert named == ["11", "12", "13"]
    assert PROJECT["project"]["requires-python"] == f">=3.{named[0]}"
    assert sys.version_info >= (3, int(named[0]))


def test_developers_tools_are_groups_and_no_extras() -> None:
    assert not {"dev", "docs", "test", "lint"} & PROJECT["project"]["optional-dependencies"].keys()
    assert {"lint", "test", "dev", "docs"} <= PROJECT["dependency-groups"].keys()
