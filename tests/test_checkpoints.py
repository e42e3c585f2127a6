"""Checkpoints, weights, log and lock under kills, full disks, damage and malice: real processes and disks."""

import contextlib
import errno
import io
import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hcnn.checkpoints import (
    RunFolderBusy,
    RunLock,
    append_line,
    ensure_writable,
    flatten_state,
    load_newest,
    load_weights,
    match_state,
    save_checkpoint,
    save_weights,
    sync_log,
    truncate_log,
    unflatten_state,
    write_atomically,
    write_json,
)

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork, SIGKILL and tmpfs")


def content(step: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(size, dtype=torch.float32) * step, "step": torch.tensor(step)}


def save(folder: Path, step: int, keep: int = 2, size: int = 1000) -> Path:
    return save_checkpoint(folder, step, content(step, size), {"step": step, "log_bytes": 17 * step}, keep)


def newest_step(folder: Path, size: int = 1000) -> int | None:
    """The step of the newest checkpoint, once its content is found to be that step's."""
    newest, _ = load_newest(folder)
    if newest is None:
        return None
    expected = content(newest.step, size)
    assert newest.tensors.keys() == expected.keys()
    assert all(torch.equal(newest.tensors[name], expected[name]) for name in expected)
    assert newest.state == {"step": newest.step, "log_bytes": 17 * newest.step}
    return newest.step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps_on_disk(folder: Path) -> list[int]:
    """The steps of the manifests; checks that nothing but them and one tensors file each is there."""
    files = names(folder / "checkpoints")
    manifests = [name for name in files if name.endswith(".json")]
    tensors = [name for name in files if name.endswith(".safetensors")]
    assert [name[:14] for name in tensors] == [name[:14] for name in manifests]
    assert len(files) == 2 * len(manifests)
    return [int(name[5:14]) for name in manifests]


def tensors_file(manifest: Path) -> Path:
    return manifest.with_name(json.loads(manifest.read_text())["tensors"]["file"])


class Zygote:
    """A process with torch and hcnn imported, which forks a child for each piece of code."""

    LOOP = """
        import json, os, sys, traceback
        import torch
        from hcnn import checkpoints
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


# ---------------------------------------------------------------- kills


@needs_posix
@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_at_most_the_save_in_progress(
    tmp_path: Path, zygote: Zygote, rounds: int
) -> None:
    size = 250_000  # 1 MB: writes and syncs that take long enough to be hit
    code = f"""
        import itertools, torch
        from hcnn.checkpoints import load_newest, save_checkpoint
        newest, _ = load_newest({str(tmp_path)!r})
        for step in itertools.count(newest.step + 1 if newest else 0):
            weight = torch.arange({size}, dtype=torch.float32) * step
            tensors = {{"weight": weight, "step": torch.tensor(step)}}
            save_checkpoint({str(tmp_path)!r}, step, tensors, {{"step": step, "log_bytes": 17 * step}})
            print(step, flush=True)
    """
    moments = random.Random(20170304)
    last = -1
    for _ in range(rounds):
        pid = zygote.start(code)
        time.sleep(moments.uniform(0.03, 0.2))
        os.kill(pid, signal.SIGKILL)
        status, printed = zygote.finish()
        assert status == -signal.SIGKILL
        found = newest_step(tmp_path, size)
        saved = max([last, *map(int, printed)])  # what save_checkpoint had returned for
        assert (-1 if found is None else found) in (saved, saved + 1)
        last = saved if found is None else found
    assert last > 0  # however busy the machine, some saves were through
    save(tmp_path, last + 1, size=size)
    assert steps_on_disk(tmp_path) == [last, last + 1]


@needs_posix
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step again"])
def test_kill_9_at_every_line_of_a_save_leaves_a_valid_checkpoint(
    tmp_path: Path, zygote: Zygote, again: bool, stride: int
) -> None:
    """Even with keep=1, and even where the only checkpoint is replaced by another of its own step."""
    before = tmp_path / "before"
    save_checkpoint(before, 1, {"x": torch.tensor(1)}, {"version": 1})
    code = """
        import os, signal, sys, torch
        from hcnn import checkpoints
        lines = 0
        def trace(frame, event, arg):
            global lines
            if frame.f_code.co_filename != checkpoints.__file__:
                return None
            if event == "line":
                lines += 1
                if lines == LAST:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        checkpoints.save_checkpoint("FOLDER", STEP, {"x": torch.tensor(2)}, {"version": 2}, keep=1)
    """.replace("STEP", "1" if again else "2")
    version, leftovers, last = 1, 0, 1 - stride
    while True:
        last += stride
        folder = tmp_path / "run"
        shutil.copytree(before, folder)
        zygote.start(code.replace("FOLDER", str(folder)).replace("LAST", str(last)))
        status, _ = zygote.finish()
        assert status in (0, -signal.SIGKILL)
        newest, _ = load_newest(folder)
        assert newest is not None, f"killed at line {last}: no checkpoint is left"
        assert newest.state["version"] == newest.tensors["x"].item()
        assert newest.state["version"] >= version, f"killed at line {last}: went backwards"
        version = newest.state["version"]
        for manifest in (folder / "checkpoints").glob("*.json"):
            assert tensors_file(manifest).is_file(), f"killed at line {last}: {manifest} has no tensors"
        leftovers += len(names(folder / "checkpoints")) != 2
        save(folder, 3, keep=1)
        assert steps_on_disk(folder) == [3], f"killed at line {last}: leftovers survive the next save"
        shutil.rmtree(folder)
        if status == 0:
            break
    assert version == 2
    assert last > 100  # the tracer did see the save
    assert leftovers > 10 / stride  # and kills did hit between its renames and removals


# ---------------------------------------------------------- full and read-only disks


@needs_posix
@pytest.mark.parametrize("culprit", ["tensors", "manifest"])
def test_a_full_disk_leaves_the_previous_checkpoints_and_nothing_else(small_disk: Path, culprit: str) -> None:
    save(small_disk, 1, size=120_000)
    save(small_disk, 2, size=120_000)
    before = {path: path.read_bytes() for path in (small_disk / "checkpoints").iterdir()}
    size = 300_000 if culprit == "tensors" else 120_000
    state = {} if culprit == "tensors" else {"notes": "x" * 1_000_000}
    with pytest.raises(OSError, match=r"No space left on device while writing 1,\d\d\d,\d\d\d bytes") as caught:
        save_checkpoint(small_disk, 3, content(3, size), state)
    assert caught.value.errno == errno.ENOSPC
    suffix = "safetensors" if culprit == "tensors" else "json"
    assert str(small_disk / "checkpoints" / "step-000000003") in str(caught.value)
    assert str(caught.value).rstrip("'").endswith(suffix)
    assert {path: path.read_bytes() for path in (small_disk / "checkpoints").iterdir()} == before
    assert newest_step(small_disk, 120_000) == 2
    save(small_disk, 3)
    assert steps_on_disk(small_disk) == [2, 3]


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
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"Read-only file system \(the output folder .*run'") as caught:
        ensure_writable(small_disk / "run")
    assert caught.value.errno == errno.EROFS


def test_ensure_writable_makes_folders_and_leaves_them_empty(tmp_path: Path) -> None:
    assert ensure_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert ensure_writable(tmp_path / "a" / "b").is_dir()
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("below", ["", "run", "run/one"])
def test_ensure_writable_refuses_a_file_and_what_is_below_one(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"Not a directory \(the output folder .*file") as caught:
        ensure_writable(tmp_path / "file" / below)
    assert caught.value.filename == str(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------------- damage


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def expect_fallback(folder: Path, culprit: Path, reason: str) -> None:
    newest, rejected = load_newest(folder)
    assert newest is not None
    assert newest.step == 1
    assert [item.path for item in rejected] == [culprit]
    assert reason in rejected[0].reason
    assert str(rejected[0]) == f"{culprit}: {rejected[0].reason}"


def test_any_flipped_bit_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    manifest = save(tmp_path, 2)
    good = manifest.read_bytes()
    for offset in range(len(good)):
        manifest.write_bytes(flipped(good, 8 * offset + offset % 8))
        expect_fallback(tmp_path, manifest, "does not match its own SHA-256: truncated or altered")
    manifest.write_bytes(good)
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize("where", [0, 0.003, 0.01, 0.1, 0.5, 0.999])
def test_a_flipped_bit_of_the_tensors_is_noticed(tmp_path: Path, where: float) -> None:
    save(tmp_path, 1)
    manifest = save(tmp_path, 2)
    tensors = tensors_file(manifest)
    good = tensors.read_bytes()
    tensors.write_bytes(flipped(good, int(where * 8 * len(good))))
    expect_fallback(tmp_path, manifest, f"its tensors {tensors.name} should have SHA-256")
    tensors.write_bytes(flipped(good, 8 * len(good) - 1))
    expect_fallback(tmp_path, manifest, "altered")


@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_rejected_by_name(tmp_path: Path, left: float) -> None:
    save(tmp_path, 1)
    manifest = save(tmp_path, 2)
    tensors, written = tensors_file(manifest), manifest.read_bytes()
    size = tensors.stat().st_size
    os.truncate(tensors, int(left * size))
    expect_fallback(tmp_path, manifest, f"should have {size:,} bytes and have {int(left * size):,}")
    manifest.write_bytes(written[: int(left * len(written))])
    expect_fallback(tmp_path, manifest, "does not match its own SHA-256")


def test_missing_tensors_missing_manifest_and_a_renamed_manifest_are_rejected(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    manifest = save(tmp_path, 2)
    tensors = tensors_file(manifest)
    hidden = tensors.rename(tmp_path / "hidden")
    expect_fallback(tmp_path, manifest, f"its tensors {tensors.name} are missing")
    hidden.rename(tensors)
    manifest.unlink()
    expect_fallback(tmp_path, tensors, "it has no manifest, so its writing was not finished")
    tensors.unlink()
    renamed = first.with_name("step-000000009.json")
    shutil.copy(first, renamed)
    expect_fallback(tmp_path, renamed, "step 1; expected format 'hcnn-checkpoint-1' and the step of its name")


def test_no_folder_and_no_valid_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nowhere") == (None, [])
    manifests = [save(tmp_path, 1), save(tmp_path, 2)]
    for manifest in manifests:
        os.truncate(manifest, 3)
    newest, rejected = load_newest(tmp_path)
    assert newest is None
    assert [item.path for item in rejected] == manifests[::-1]


# ------------------------------------------------------------- saving checkpoints


def test_old_checkpoints_go_and_a_damaged_one_is_no_spare(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step, keep=3)
    assert steps_on_disk(tmp_path) == [2, 3, 4]
    os.truncate(tensors_file(tmp_path / "checkpoints" / "step-000000004.json"), 10)
    save(tmp_path, 5, keep=2)
    assert steps_on_disk(tmp_path) == [3, 5]


def test_leftovers_of_dead_writers_go_and_foreign_files_stay(tmp_path: Path) -> None:
    save(tmp_path, 1)
    home = tmp_path / "checkpoints"
    leftovers = [
        ".step-000000002-0123456789abcdef.safetensors.tmp-4242",
        f".step-000000002.json.tmp-{os.getpid()}",
        "step-000000002-0123456789abcdef.safetensors",
    ]
    for name in [*leftovers, "notes.txt", "best.safetensors"]:
        (home / name).write_text("x")
    save(tmp_path, 3)
    assert not set(leftovers) & set(names(home))
    assert {"notes.txt", "best.safetensors"} < set(names(home))


def test_a_valid_later_checkpoint_is_refused_a_damaged_one_replaced(tmp_path: Path) -> None:
    save(tmp_path, 5)
    later = save(tmp_path, 7)
    with pytest.raises(ValueError, match=r"expected a step after 7, whose checkpoint .*000007\.json is valid"):
        save(tmp_path, 6)
    os.truncate(later, 10)
    save(tmp_path, 6)
    assert steps_on_disk(tmp_path) == [5, 6]
    assert newest_step(tmp_path) == 6


def test_arguments_of_save_checkpoint(tmp_path: Path) -> None:
    for step, keep in [(-1, 2), (1, 0), (True, 2)]:
        with pytest.raises(ValueError, match=rf"expected step ≥ 0 and keep ≥ 1, got step={step} and keep={keep}"):
            save_checkpoint(tmp_path, step, {}, {}, keep)
    for state in [{"betas": (0.9, 0.95)}, {1: 2}]:
        with pytest.raises(ValueError, match="expected a state that JSON gives back unchanged"):
            save_checkpoint(tmp_path, 1, {}, state)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"step-000000001\.json: expected what strict JSON can hold"):
        save_checkpoint(tmp_path, 1, {}, {"loss": math.nan})
    assert names(tmp_path) == []


# ------------------------------------------------------------------- tensors


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "bfloat16": torch.randn(5, 3).bfloat16(),
        "float16": torch.randn(7).half(),
        "float64": torch.tensor([math.pi, -0.0, math.inf, 5e-324], dtype=torch.float64),
        "nan payload": torch.tensor([0x7FC01234, -1], dtype=torch.int32).view(torch.float32),
        "int64": torch.tensor([2**63 - 1, -(2**63)]),
        "uint8": torch.get_rng_state()[:17],
        "bool": torch.tensor([True, False]),
        "0-d": torch.tensor(3.25),
        "empty": torch.empty(0, 3),
        "empty 1-d": torch.empty(0, dtype=torch.int64),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "transposed": base.view(4, 6).T,
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(4),
        "whole": base,
        "same again": base,
        "part": base[5:9],
    }
    save_checkpoint(tmp_path, 0, tensors, {})
    newest, _ = load_newest(tmp_path)
    assert newest is not None
    save_weights(tmp_path / "w.safetensors", tensors, {})
    for found in (newest.tensors, load_weights(tmp_path / "w.safetensors")[0]):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
            assert bits(found[name]) == bits(tensor), name
        found["whole"].zero_()  # writable, and nobody else's memory
        assert bits(found["same again"]) == bits(base)


def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for tensor, got in [
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on meta"),
    ]:
        with pytest.raises(ValueError, match=rf"tensor 'x': expected a dense tensor with values, got .*{got}"):
            save_weights(path, {"x": tensor}, {})
    with pytest.raises(ValueError, match=r"'__metadata__': .* got a reserved name"):
        save_weights(path, {"__metadata__": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"expected dtypes of safetensors, got torch\.complex128"):
        save_weights(path, {"x": torch.zeros(1, dtype=torch.complex128)}, {})
    with pytest.raises(ValueError, match=r"expected metadata of strings, got \{'epoch': 3\}"):
        save_weights(path, {}, {"epoch": 3})  # pyright: ignore[reportArgumentType]
    assert names(tmp_path) == []


def test_weights_are_the_same_bytes_whatever_the_process_and_the_order(tmp_path: Path, zygote: Zygote) -> None:
    metadata = {key: f"é {key}" for key in "qwertyuiop"}
    ours = save_weights(tmp_path / "a.safetensors", content(3), metadata)
    code = f"""
        from hcnn.checkpoints import load_weights, save_weights
        tensors, metadata = load_weights({str(tmp_path / "a.safetensors")!r})
        tensors, metadata = (dict(reversed(found.items())) for found in (tensors, metadata))
        print(save_weights({str(tmp_path / "b.safetensors")!r}, tensors, metadata), flush=True)
    """
    zygote.start(code)
    assert zygote.finish() == (0, [ours])
    assert load_weights(tmp_path / "b.safetensors")[1] == metadata


# --------------------------------------------------------- pickles, and other files


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def torch_saved(obj: object, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


PICKLES = {f"pickle protocol {protocol}": "a pickle" for protocol in range(6)} | {
    "torch.save": r"a torch.save archive \(a zip file around a pickle\)",
    "old torch.save": r"a torch.save archive \(of the old kind, a pickle\)",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_by_name_and_never_unpickled(tmp_path: Path, kind: str, suffix: str) -> None:
    canary = tmp_path / "canary"
    evil = {"weight": Malicious(canary)}
    if kind.startswith("pickle"):
        data = pickle.dumps(evil, protocol=int(kind[-1]))
    else:
        data = torch_saved(evil, new=kind == "torch.save")
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"weights\{suffix} is {PICKLES[kind]}; hcnn reads safetensors only"):
        load_weights(path)
    assert not canary.exists()
    with contextlib.closing(io.BytesIO(data)) as file:
        torch.load(file, weights_only=False) if "torch" in kind else pickle.load(file)
    assert canary.exists()  # it was a real one


def test_files_that_are_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, content(1), {"note": "x"})
    good = path.read_bytes()
    whole = r"w\.safetensors is a damaged or truncated safetensors file \(\d"
    cases = [(good[:length], whole) for length in (9, 50, len(good) // 2, len(good) - 1)]
    cases += [(good + b"x", whole), (good[:20] + b"\xff" + good[21:], whole)]
    cases += [(good.replace(b'"F32"', b'"F99"'), whole)]
    cases += [(b"", r"is no safetensors file \(0 bytes\)"), (good[:5], r"is no safetensors file \(5 bytes\)")]
    cases += [
        (b"hello, world" * 9, "is no safetensors file"),
        (b"PK\x03\x04" + bytes(99), "is a zip file; hcnn"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            load_weights(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_header_whose_length_looks_like_a_pickle_is_still_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "w.safetensors"
    for filler in range(256 * protocol, 256 * protocol + 256):
        save_weights(path, {"x": torch.ones(1)}, {"note": "x" * filler})
        if path.read_bytes()[:2] == bytes([0x80, protocol]):
            assert torch.equal(load_weights(path)[0]["x"], torch.ones(1))
            break
    else:
        pytest.fail("no header had the length that was looked for")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="damaged or truncated safetensors"):
        load_weights(path)


def test_match_state_lists_what_differs_and_shortens_the_list() -> None:
    expected: dict[str, Any] = {"a": torch.zeros(2), "b": (3, 4)} | {f"c{index}": (1,) for index in range(10)}
    match_state(expected, {name: torch.zeros(getattr(like, "shape", like)) for name, like in expected.items()}, "")
    with pytest.raises(ValueError, match="does not fit") as caught:
        match_state(expected, {"a": torch.zeros(3), "b": torch.zeros(3, 4), "d": torch.tensor(1)}, "w.safetensors")
    assert str(caught.value) == (
        "w.safetensors does not fit:\n"
        "  10 missing: c0 (1,), c1 (1,), c2 (1,), c3 (1,), c4 (1,), c5 (1,), c6 (1,), c7 (1,) and 2 more\n"
        "  1 extra: d ()\n"
        "  1 of another shape: a expected (2,), got (3,)"
    )


# -------------------------------------------------------------------- state


def same(left: Any, right: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, tuple from list, 0.0 from -0.0, and knows tensors and NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        pairs = list(zip(left.items(), right.items(), strict=True)) if len(left) == len(right) else [(0, 1)]
        return all(same(a, b) for a, b in pairs)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return repr(left) == repr(right)


def through_json(obj: object) -> Any:
    tensors, tree = flatten_state(obj)
    return unflatten_state(tensors, json.loads(json.dumps(tree, allow_nan=False)))


@pytest.mark.parametrize(
    "obj",
    [
        {"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "eps": 5e-324, "flags": [True, None, 1, 1.0, -0.0], "": ()},
        {"inf": math.inf, "-inf": -math.inf, "nan": math.nan, "big": 2**100},
        {0: {"x": torch.ones(2)}, "0": {"x": torch.zeros(2)}, -3: "three"},
        {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "a/b'": torch.ones(2)},
        {"$tensor": "not one", "nested": {"$tuple": [1], "$float": "inf", "$dict": []}},
        [[], {}, (), ((1,), [2]), "µ\ud800"],
        torch.tensor(7),
        None,
    ],
)
def test_state_comes_back_exactly(obj: object) -> None:
    assert same(through_json(obj), obj)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_goes_on_as_if_never_stored(tmp_path: Path, kind: Any) -> None:
    def steps(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (parameter.sin() ** 2).sum().backward()
            optimizer.step()

    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9} if kind is torch.optim.SGD else {"lr": 0.1, "amsgrad": True}
    one = torch.nn.Parameter(torch.arange(1.0, 5.0))
    first = kind([one], **options)
    steps(first, one, 3)
    state = first.state_dict()
    tensors, tree = flatten_state({"optimizer": state, "model": OrderedDict(p=one.detach())})
    save_checkpoint(tmp_path, 3, tensors, {"tree": tree})
    newest, _ = load_newest(tmp_path)
    assert newest is not None
    found = unflatten_state(newest.tensors, newest.state["tree"])
    assert same(found["optimizer"], state)
    two = torch.nn.Parameter(found["model"]["p"])
    second = kind([two], **options)
    second.load_state_dict(found["optimizer"])
    steps(first, one, 5)
    steps(second, two, 5)
    assert bits(one) == bits(two)


def test_state_of_other_types_is_refused_with_its_path() -> None:
    for obj, where in [
        ({"state": {0: [1, {2}]}}, "state at state/0/1: expected dict, list, .* or Tensor, got builtins.set"),
        ({"lr": torch.ones(1).numpy()[0]}, "state at lr: .* got numpy.float32"),
        (b"x", "state at /: .* got builtins.bytes"),
        ({"a": {(1, 2): 3}}, r"state at a: expected keys of str or int, got \(1, 2\)"),
        ({"a": {True: 3}}, "state at a: expected keys of str or int, got True"),
    ]:
        with pytest.raises(ValueError, match=where):
            flatten_state(obj)
    with pytest.raises(ValueError, match="expected a tensor named 'b', got a"):
        unflatten_state({"a": torch.ones(1)}, {"$tensor": "b"})
    with pytest.raises(ValueError, match=r"expected \$float, \$tuple, \$dict or \$tensor, got \$new"):
        unflatten_state({}, {"$new": 1})


# ------------------------------------------------------------------- the lock


@needs_posix
def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path, zygote: Zygote) -> None:
    pid = zygote.start(f"""
        import time
        from hcnn.checkpoints import RunLock
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
def test_forked_children_neither_keep_nor_free_the_lock(tmp_path: Path, zygote: Zygote) -> None:
    pid = zygote.start(f"""
        import os, time
        from hcnn.checkpoints import RunLock
        with RunLock({str(tmp_path)!r}):
            leaver = os.fork()
            if leaver:
                os.waitpid(leaver, 0)
                sleeper = os.fork()
                if sleeper:
                    print(sleeper, flush=True)
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


# ----------------------------------------------------------- plain files and the log


@needs_posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_get_the_permissions_of_ordinary_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_weights(tmp_path / "w.safetensors", content(1), {})
        write_json(tmp_path / "a.json", {})
        append_line(tmp_path / "log.jsonl", {})
        manifest = save(tmp_path, 1)
    finally:
        os.umask(before)
    for path in [*tmp_path.glob("*.*"), manifest, tensors_file(manifest)]:
        if path.is_file():
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
