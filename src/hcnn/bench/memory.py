"""Peak memory of one training step, measured in a process of its own, above the memory that it used before."""

import json
import mmap
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hcnn.bench.case import Case, prepare

STATM = Path("/proc/self/statm")  # the memory of this process, in pages; Linux alone has it


def peak_of_step(case: dict[str, Any]) -> float:
    """Peak resident memory of a training step, above that of the idle process with the network loaded.

    Args:
        case: name, overrides, two_step, dtype and batch of `hcnn.bench.case.Case`, as a dict.

    Returns:
        Bytes.

    Raises:
        ValueError: if the process fails, for example for lack of memory.
    """
    command = [sys.executable, "-m", "hcnn.bench.memory", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the process that measures memory ended with {done.returncode}: {done.stderr[-300:]}")
    return float(done.stdout.split()[-1])


def _resident() -> int:
    return int(STATM.read_text(encoding="utf-8").split()[1]) * mmap.PAGESIZE


def watched_peak(step: Callable[[], None]) -> int:
    """The largest resident memory of this process while a function runs, in bytes."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        step()
    finally:  # else the process of a step that fails would never end
        done.set()
        watcher.join()
    return peak


def _main() -> None:
    step = prepare(Case(**json.loads(sys.argv[1])), train=True, images=1)
    step()  # the memory for one image stands for that of loading and compiling
    idle = _resident()
    step = prepare(Case(**json.loads(sys.argv[1])), train=True)
    print(max(watched_peak(step) - idle, 0))


if __name__ == "__main__":
    _main()
