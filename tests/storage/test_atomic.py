"""Plain files on full and read-only disks, and strict JSON."""

import contextlib
import errno
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from hcnn.storage.atomic import (
    ensure_writable,
    leftovers,
    output_folder,
    write_atomically,
    write_json,
    write_together,
)
from hcnn.storage.checkpoints import save_checkpoint
from hcnn.storage.log import append_line
from hcnn.storage.safetensors import save_weights

if TYPE_CHECKING:
    pass

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork, SIGKILL and tmpfs")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ----------------------------------------------------- full and read-only disks


@needs_posix
def test_a_full_disk_leaves_file_and_log_as_they_were(small_disk: Path) -> None:
    write_json(small_disk / "result.json", {"accuracy": 0.5})
    size = append_line(small_disk / "log.jsonl", {"step": 1})
    with pytest.raises(OSError, match=r"while writing 3,000,000 bytes: '.*result\.json'"):
        write_atomically(small_disk / "result.json", bytes(3_000_000))
    with pytest.raises(OSError, match=r"while appending 3,000,014 bytes: '.*log\.jsonl'") as caught:
        append_line(small_disk / "log.jsonl", {"notes": "x" * 3_000_000})
    assert caught.value.errno == errno.ENOSPC
    assert json.loads((small_disk / "result.json").read_text()) == {"accuracy": 0.5}
    assert (small_disk / "log.jsonl").stat().st_size == size
    assert names(small_disk) == ["log.jsonl", "result.json"]


@needs_posix
def test_ensure_writable_on_a_full_and_on_a_read_only_disk(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    with pytest.raises(OSError, match=r"No space left on device \(the output folder cannot be written\): '.*run'"):
        ensure_writable(small_disk / "run")
    assert names(small_disk) == ["filler"]
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"Read-only file system \(the output folder .*run'") as caught:
        ensure_writable(small_disk / "run")
    assert caught.value.errno == errno.EROFS


def test_ensure_writable_makes_folders_and_leaves_them_empty(tmp_path: Path) -> None:
    assert ensure_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert ensure_writable(tmp_path / "a" / "b").is_dir()
    assert names(tmp_path / "a" / "b") == []


def test_several_threads_may_ask_for_one_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(lambda _: ensure_writable(tmp_path), range(100))} == {tmp_path}
    assert names(tmp_path) == []


def test_an_output_folder_goes_again_if_nothing_was_written_into_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    def fail(kept: bool) -> None:
        with output_folder(tmp_path / "mine" / "a" / "b") as folder:
            if kept:
                (folder / "result").write_text("half")
            raise ZeroDivisionError

    for kept in (False, True):
        with pytest.raises(ZeroDivisionError):
            fail(kept)
        assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["mine", *(["a", "b", "result"] if kept else [])]


@pytest.mark.parametrize("below", ["", "run", "run/one"])
def test_ensure_writable_refuses_a_file_and_what_is_below_one(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"Not a directory \(the output folder .*file") as caught:
        ensure_writable(tmp_path / "file" / below)
    assert caught.value.filename == str(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


@needs_posix
@pytest.mark.parametrize("name", ["nothing", "link"])
def test_ensure_writable_says_that_a_link_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(name)
    for folder in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(OSError, match=r"(No such file|Too many levels).*\(the output folder cannot be written\)"):
            ensure_writable(folder)
    assert names(tmp_path) == ["link"]


# ------------------------------------------------------ plain files and the log


@needs_posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_get_the_permissions_of_ordinary_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_weights(tmp_path / "w.safetensors", {"x": torch.ones(3)}, {})
        write_json(tmp_path / "a.json", {})
        append_line(tmp_path / "log.jsonl", {})
        save_checkpoint(tmp_path, 1, {"x": torch.ones(3)}, {})
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5  # the checkpoint is two
    for path in files:
        assert path.stat().st_mode & 0o777 == mode, path


def test_write_atomically_names_path_and_size_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"while writing 1,234 bytes: '.*nowhere.*x'"):
        write_atomically(tmp_path / "nowhere" / "x", bytes(1234))
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"while writing 3 bytes: '.*folder'"):
        write_atomically(tmp_path / "folder", b"abc")
    (tmp_path / f".x.tmp-{os.getpid()}").symlink_to(tmp_path / "victim")  # a leftover, at worst a trap
    write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == ["folder", "x"]


def test_only_what_killed_writers_of_a_file_left_is_removed(tmp_path: Path) -> None:
    kept = [".x.tmp-", ".x.tmp-old", ".xy.tmp-7", "x", "x.tmp-7"]
    for name in [*kept, ".x.tmp-7", ".x.tmp-81"]:
        (tmp_path / name).write_bytes(b"")
    for name, path in leftovers(tmp_path):
        if name == "x":
            path.unlink()
    assert names(tmp_path) == sorted(kept)


@needs_posix
@pytest.mark.parametrize("letter", ["x", "Й"])
def test_the_longest_names_of_a_file_system_can_be_written(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    write_atomically(path, b"abc")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == [path.name]


def test_files_that_belong_together_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    write_together({tmp_path / "net.h": b"old", tmp_path / "net.c": b"old"})
    with pytest.raises(FileNotFoundError, match=r"while writing 2 bytes: '.*nowhere.*x'"):
        write_together({tmp_path / "net.h": b"new", tmp_path / "net.c": b"new", tmp_path / "nowhere" / "x": b"12"})
    assert [path.read_bytes() for path in (tmp_path / "net.h", tmp_path / "net.c")] == [b"old", b"old"]
    assert names(tmp_path) == ["net.c", "net.h"]


def test_json_is_strict_and_stable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5], "a": "é"})
    assert path.read_bytes() == b'{\n  "b": [\n    1,\n    2.5\n  ],\n  "a": "\\u00e9"\n}\n'
    for obj, reason in [({"x": math.nan}, "nan"), ({"x": {1}}, "type set is not JSON serializable")]:
        with pytest.raises(ValueError, match=rf"a\.json: expected what strict JSON can hold; .*{reason}"):
            write_json(path, obj)
        with pytest.raises(ValueError, match=r"a\.json: expected what strict JSON can hold"):
            append_line(path, obj)
    assert path.read_bytes().startswith(b'{\n  "b"')
