"""The one rule of imports: a package imports only itself and those below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hcnn"
# From the bottom; packages that stand in one line do not import each other.
FLOORS = [
    {"text"},
    {"functional", "storage"},
    {"layers", "data", "plotting"},
    {"models", "testing"},
    {"training"},
    {"runs"},
    {"export", "explore", "bench", "evaluation"},
    {"prediction", "estimator", "timm"},
    {"cli"},
    {"front"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def imports(path: Path) -> set[str]:
    """Top-level packages of hcnn that a file imports, within functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "hcnn":
            names += [f"hcnn.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("hcnn.")}
    return found & FLOOR.keys()


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path) -> None:
    package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if package == "__init__":
        return
    assert package in FLOOR, f"{package}: give it a floor in this test"
    wrong = {name for name in imports(path) if name != package and FLOOR[name] >= FLOOR[package]}
    assert not wrong, f"{path.relative_to(SOURCE)} imports {sorted(wrong)}"


# Modules that take long to load. What needs one loads it where it is used: neither `import hcnn` nor the help of the
# command may load one that `import torch` does not load by itself.
HEAVY = {
    *("torch._dynamo", "torch._inductor", "torch._functorch", "torch.onnx", "torch.export", "torch.distributed.run"),
    *("sympy", "scipy", "sklearn", "pandas", "matplotlib", "PIL", "networkx"),
    *("onnx", "onnxruntime", "triton", "faiss", "huggingface_hub", "http.server"),
}


def loaded(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.fixture(scope="module")
def of_torch() -> set[str]:
    return loaded("import torch")


@pytest.mark.parametrize(
    "code",
    [
        "import hcnn",
        "from hcnn.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code",
    ],
    ids=["import hcnn", "hcnn --help"],
)
def test_what_takes_long_to_load_is_loaded_where_it_is_needed(code, of_torch) -> None:
    found = loaded(code)
    assert "hcnn" in found
    assert not (found - of_torch) & HEAVY
