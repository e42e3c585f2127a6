"""Compile the native kernels: ``python build.py`` in a checkout, the build hook of a wheel or an install.

The same source is compiled once for each instruction set that the processors of an architecture may have, and linked
to one library that chooses among them when it is loaded. Needs a C++17 compiler, g++ or clang++, and nothing else.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
LIBRARY = Path(__file__).parent / "kernels.so"

_COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
# Products and sums may be fused; nothing else of IEEE arithmetic is given up.
_COMMON += ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-Wno-ignored-attributes"]
_AVX2 = ["-mavx2", "-mfma"]
_VARIANTS = {
    "x86_64": {
        "baseline": [],
        "avx2": _AVX2,
        "avx512": [*_AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512"],
    }
}


def digest() -> str:
    """What the source is, so that a library compiled from another one is not used."""
    total = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def compiler() -> str | None:
    """The C++ compiler: what CXX names, else g++, clang++ or c++; None if there is none."""
    return next(
        (found for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and (found := shutil.which(name))),
        None,
    )


def build(target: Path = LIBRARY, extra: list[str] | None = None) -> Path:
    """Compile and link the library.

    Args:
        target: where to.
        extra: further options of the compiler, as sanitizers need them.

    Returns:
        The target.

    Raises:
        RuntimeError: without a compiler, or with what it said if it failed.
    """
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler was found (CXX, g++, clang++ or c++)")
    machine = {"AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    options = [*_COMMON, f'-DHCNN_SOURCE="{digest()}"', *(extra or [])]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            (f"kernels_{name}.o", "kernels.cpp", [f"-DHCNN_VARIANT={name}", *flags])
            for name, flags in _VARIANTS.get(machine, {"baseline": []}).items()
        ]
        jobs += [(f"{name}.o", f"{name}.cpp", []) for name in ("dispatch", "pool")]
        commands = [
            [cxx, *options, *flags, "-c", str(SOURCE / source), "-o", f"{folder}/{name}"]
            for name, source, flags in jobs
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        part = Path(f"{folder}/kernels.so")
        _run(
            [cxx, "-shared", "-pthread", *(extra or []), *(f"{folder}/{name}" for name, _, _ in jobs), "-o", str(part)]
        )
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(part, fresh)  # a process that has the old one loaded keeps it
        fresh.replace(target)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")


if __name__ == "__main__":
    print(build(extra=sys.argv[1:]))
