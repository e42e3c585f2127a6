"""Processes that torchrun started."""

import subprocess
import sys
import textwrap
import threading

import torch

from hcnn.training import distributed

SCRIPT = """
    import os
    import sys
    import time
    from pathlib import Path

    import torch
    from hcnn.training.distributed import process_group, share

    device = torch.device("cpu")
    for number in range(2):
        if os.environ["RANK"] == "0":
            time.sleep(3 * number)  # as while it draws the curves of one seed, and the others are at the next one
        found = share(number, process_group(device), device)
        Path(sys.argv[1], f"{os.environ['RANK']}-{number}").write_text(str(found))
"""


def test_processes_meet_again(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, script, tmp_path], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {path.name: path.read_text() for path in tmp_path.glob("?-?")}
    assert found == {"0-0": "0", "1-0": "0", "0-1": "1", "1-1": "1"}


def test_the_end_of_a_process_waits_for_messages_that_the_backend_still_holds() -> None:
    message = torch.zeros(3)
    kept = [distributed._lend(message)]
    kept[0] += 1
    assert message.tolist() == [1, 1, 1]
    threading.Timer(0.3, kept.clear).start()
    distributed._leave()
    assert not kept
