"""The log of a run: whole lines, cut back to what a checkpoint recorded."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hcnn.storage.log import append_line, sync_log, truncate_log

if TYPE_CHECKING:
    pass

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork, SIGKILL and tmpfs")


def test_an_interrupted_and_resumed_log_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    for step in range(6):
        append_line(whole, {"step": step, "loss": 1 / (step + 3)})
    recorded = 0
    for step in range(4):
        if step == 2:
            recorded = sync_log(resumed)
        size = append_line(resumed, {"step": step, "loss": 1 / (step + 3)})
        assert size == resumed.stat().st_size
    with resumed.open("ab") as log:
        log.write(b'{"step": 4, "lo')  # killed halfway through a line
    truncate_log(resumed, recorded)
    for step in range(2, 6):
        append_line(resumed, {"step": step, "loss": 1 / (step + 3)})
    assert resumed.read_bytes() == whole.read_bytes()


def test_truncate_log_refuses_a_log_that_is_not_the_recorded_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert sync_log(path) == 0
    truncate_log(path, 0)
    with pytest.raises(ValueError, match=r"log\.jsonl: expected a log of at least 9 bytes, .* found 0$"):
        truncate_log(path, 9)
    size = append_line(path, {"step": 1})
    with pytest.raises(ValueError, match=rf"expected a log of at least 1,000 bytes, .* found {size}$"):
        truncate_log(path, 1000)
    with pytest.raises(ValueError, match=r"expected a line to end at byte 5, .* none does"):
        truncate_log(path, 5)
    assert path.stat().st_size == size
    truncate_log(path, 0)
    assert path.read_bytes() == b""
