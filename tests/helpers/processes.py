"""Real processes to kill, without the two seconds that importing PyTorch takes each time."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path


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
            print("\\nexit", os.waitstatus_to_exitcode(status), flush=True)  # the child may be killed within a line
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
            lines += [line] if line else []
        return int(line.split()[1]), lines


class Command:
    """A running `hcnn` command, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, folder: Path, arguments: Sequence[str], pid: int) -> None:
        self.folder, self.args, self.pid = folder, list(arguments), pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ended = self.folder / "exit"
        return int(ended.read_text()) if ended.exists() else None

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float = 300) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Output and errors, when it has ended."""
        self.wait(timeout)
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()


class Commands:
    """A process that has imported all of `hcnn.cli` and forks a child for each command."""

    LOOP = """
        import json, os, select, sys
        import torch, sklearn.datasets, tensorboard, PIL.Image
        from hcnn.cli import main

        children = {}
        ready = open(3, "w")
        print("ready", file=ready, flush=True)
        while True:
            waiting = bool(select.select([0], [], [], 0.005)[0])
            line = sys.stdin.readline() if waiting else None
            if line == "":
                break
            if line:
                folder, arguments = json.loads(line)
                if (pid := os.fork()) == 0:
                    ready.close()
                    for number, name in enumerate(("/dev/null", "stdout", "stderr")):
                        path = os.path.join(folder, name)  # an absolute name stays as it is
                        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
                    sys.argv = ["hcnn", *arguments]
                    sys.exit(main(arguments))
                children[pid] = folder
                print(pid, file=ready, flush=True)
            if children:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    partial = os.path.join(children.pop(pid), "exit")
                    with open(partial + "~", "w") as file:
                        file.write(str(os.waitstatus_to_exitcode(status)))
                    os.replace(partial + "~", partial)
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.count = scratch, 0
        self.answers, write = os.pipe()
        program = textwrap.dedent(self.LOOP).replace("open(3,", f"open({write},")
        self.process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, pass_fds=[write])
        os.close(write)
        self.reader = os.fdopen(self.answers)
        assert self.reader.readline() == "ready\n"

    def start(self, *arguments: object) -> Command:
        """Start `hcnn` with these arguments."""
        words = [str(argument) for argument in arguments]
        folder = self.scratch / str(self.count)
        folder.mkdir()
        self.count += 1
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(folder), words]).encode() + b"\n")
        self.process.stdin.flush()
        return Command(folder, words, int(self.reader.readline()))

    def run(self, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` of `hcnn` with these arguments gives."""
        command = self.start(*arguments)
        code = command.wait(timeout)
        out, errors = command.communicate()
        return subprocess.CompletedProcess[str](command.args, code, out, errors)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.reader.close()
