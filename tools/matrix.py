"""Run tests as they would run elsewhere: other terminals, locales, time zones, thread counts, instruction sets, paths.

    python tools/matrix.py                     # the whole suite, once per setting
    python tools/matrix.py tests/cli -k help   # everything after the name goes to pytest
    python tools/matrix.py --only c-locale,path   # some of the settings

The exit code is the number of settings in which pytest failed, and 2 after an unknown setting.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, dict[str, str]] = {
    "columns": {"COLUMNS": "40"},
    "c-locale": {"LC_ALL": "C"},
    "one-thread": {"OMP_NUM_THREADS": "1"},
    "threads": {"OMP_NUM_THREADS": "3"},
    "no-simd": {"ATEN_CPU_CAPABILITY": "default", "HCNN_NATIVE_ISA": "baseline"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "HCNN_NATIVE_ISA": "avx2"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "time-zone": {"TZ": "Asia/Kolkata"},
    "path": {},  # a checkout whose path has a space and an umlaut
}


def checkout(folder: Path) -> Path:
    """A copy of the files that git tracks, changes included."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def main(arguments: list[str]) -> int:
    """Run pytest once per setting and print which failed."""
    names = list(SETTINGS)
    if arguments[:1] == ["--only"]:
        names, arguments = arguments[1].split(",") if arguments[1:] else [], arguments[2:]
        unknown = sorted({*names} - {*SETTINGS})
        if not names or unknown:
            found = ", ".join(map(repr, unknown)) or "nothing"
            print(f"--only: expected some of {','.join(SETTINGS)}; got {found}", file=sys.stderr)
            return 2
    outcome: dict[str, str] = {}
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            place = checkout(Path(scratch) / "ein Ort für hcnn") if name == "path" else ROOT
            print(f"--- {name}: {SETTINGS[name] or place}", flush=True)
            environment = {**os.environ, **SETTINGS[name], "PYTHONPATH": str(place / "src")}
            start = time.monotonic()
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
            code = subprocess.run(command, cwd=place, env=environment, check=False).returncode
            failed += code != 0
            outcome[name] = f"{'passed' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - start:.0f} s"
    for name, text in outcome.items():
        print(f"{name:12} {text}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
