"""Hardware and source version, for the records of a run."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, threads and GPU, for the records."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    found = {"processor": name, "threads": torch.get_num_threads(), "device": str(device)}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def commit() -> str | None:
    """The commit of this package if it is imported from a git checkout, marked if changed since; otherwise None."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        # A hook of another repository runs with these, and they would come before the folder.
        others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
        here = {name: value for name, value in os.environ.items() if name not in others}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=here).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
