"""Real processes to kill and real disks to fill, for the tests of files, weights and checkpoints."""

import contextlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest


class Zygote:
    """A process with torch and hcnn imported, which forks a child for each piece of code."""

    LOOP = """
        import json, os, sys, traceback
        import torch
        from hcnn.storage import checkpoints, log, run_lock, safetensors
        torch.set_num_threads(1)
        for line in sys.stdin:
            if (pid := os.fork()) == 0:
                print(os.getpid(), flush=True)
                try:
                    exec(json.loads(line), {})
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            print("exit", os.waitstatus_to_exitcode(status), flush=True)
    """

    def __init__(self) -> None:
        command = [sys.executable, "-c", textwrap.dedent(self.LOOP)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, code: str) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self.process.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self) -> tuple[int, list[str]]:
        """The exit code of the child, and what it printed since."""
        lines: list[str] = []
        while not (line := self.line()).startswith("exit "):
            assert self.process.poll() is None
            lines.append(line)
        return int(line.split()[1]), lines


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    with zygote.process:
        zygote.process.kill()


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=2m") as folder:
        yield folder
