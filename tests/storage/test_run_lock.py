"""The lock of a run folder, between real processes."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hcnn.storage.run_lock import RunFolderBusy, RunLock

if TYPE_CHECKING:
    from helpers.processes import Zygote

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork, SIGKILL and tmpfs")


@needs_posix
def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path, zygote: "Zygote") -> None:
    pid = zygote.start(f"""
        import time
        from hcnn.storage.run_lock import RunLock
        with RunLock({str(tmp_path)!r}):
            print("locked", flush=True)
            time.sleep(60)
    """)
    assert zygote.line() == "locked"
    with pytest.raises(RunFolderBusy, match=f"another run holds this folder: process {pid} on ") as caught:
        RunLock(tmp_path).__enter__()
    assert str(tmp_path) in str(caught.value)
    assert os.uname().nodename in str(caught.value)
    os.kill(pid, signal.SIGKILL)
    zygote.finish()
    with RunLock(tmp_path), pytest.raises(RunFolderBusy, match=f"process {os.getpid()} on"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass


@needs_posix
def test_forked_children_neither_keep_nor_free_the_lock(tmp_path: Path, zygote: "Zygote") -> None:
    pid = zygote.start(f"""
        import os, time
        from hcnn.storage.run_lock import RunLock
        with RunLock({str(tmp_path)!r}):
            leaver = os.fork()
            if leaver:
                os.waitpid(leaver, 0)
                if os.fork() == 0:  # the sleeper, which has closed its copy of the lock by now
                    print(os.getpid(), flush=True)
                time.sleep(60)
        os._exit(0)  # the leaver has left the with block
    """)
    sleeper = int(zygote.line())
    with pytest.raises(RunFolderBusy, match=f"process {pid} on"):
        RunLock(tmp_path).__enter__()
    os.kill(pid, signal.SIGKILL)
    zygote.finish()
    with RunLock(tmp_path):
        os.kill(sleeper, signal.SIGKILL)  # which raises where the sleeper is not alive
