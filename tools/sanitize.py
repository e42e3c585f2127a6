"""`make sanitize`: the tests of the native kernels with a library compiled for two sanitizers of the compiler."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Compile, run the tests, and return their exit code."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "src/hcnn/functional/native/build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
        library = build.build(Path(folder) / "kernels.so", flags)
        found = [
            subprocess.run(
                [build.compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
            ).stdout.strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        # Python is not compiled for it, so its runtime must come first; what Python itself never frees is no finding.
        settings = {
            "LD_PRELOAD": ":".join(found),
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # null as malloc gives it, which is tested
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "HCNN_NATIVE_LIBRARY": str(library),
        }
        tests = [sys.executable, "-m", "pytest", "-s", "tests/functional/test_native.py", *sys.argv[1:]]
        return subprocess.run(tests, cwd=ROOT, env={**os.environ, **settings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
