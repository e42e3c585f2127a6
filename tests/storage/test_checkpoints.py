"""Checkpoints under kills, full disks and damage: real processes and disks."""

import errno
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hcnn.storage.checkpoints import load_newest, save_checkpoint
from hcnn.storage.log import append_line, sync_log, truncate_log
from hcnn.storage.state_tree import flatten_state, unflatten_state

if TYPE_CHECKING:
    from helpers.processes import Zygote

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
    return manifest.with_name(json.loads(manifest.read_text(encoding="utf-8"))["tensors"]["file"])


# ------------------------------------------------------------------------ kills


@needs_posix
@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_at_most_the_save_in_progress(
    tmp_path: Path, zygote: "Zygote", rounds: int
) -> None:
    size = 250_000  # 1 MB: writes and syncs that take long enough to be hit
    code = f"""
        import itertools, torch
        from hcnn.storage.checkpoints import load_newest, save_checkpoint
        newest, _ = load_newest({str(tmp_path)!r})
        for step in itertools.count(newest.step + 1 if newest else 0):
            weight = torch.arange({size}, dtype=torch.float32) * step
            tensors = {{"weight": weight, "step": torch.tensor(step)}}
            save_checkpoint({str(tmp_path)!r}, step, tensors, {{"step": step, "log_bytes": 17 * step}})
            print(step, flush=True)
    """
    moments = random.Random(20170304)
    last = -1
    for number in range(rounds):
        pid = zygote.start(code)
        first = [zygote.line()] if number % 2 else []  # every other time a save is through, however busy the machine
        time.sleep(moments.uniform(0.03, 0.2))
        os.kill(pid, signal.SIGKILL)
        status, printed = zygote.finish()
        printed = first + printed
        assert status == -signal.SIGKILL
        found = newest_step(tmp_path, size)
        saved = max([last, *map(int, printed)])  # what save_checkpoint had returned for
        assert (-1 if found is None else found) in (saved, saved + 1)
        last = saved if found is None else found
    assert last > 0
    save(tmp_path, last + 1, size=size)
    assert steps_on_disk(tmp_path) == [last, last + 1]


@needs_posix
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step again"])
def test_kill_9_at_every_line_of_a_save_leaves_a_valid_checkpoint(
    tmp_path: Path, zygote: "Zygote", again: bool, stride: int
) -> None:
    """Even with keep=1, and even where the only checkpoint is replaced by another of its own step."""
    before = tmp_path / "before"
    save_checkpoint(before, 1, {"x": torch.tensor(1)}, {"version": 1})
    code = """
        import os, signal, sys, torch
        from hcnn.storage import checkpoints, atomic as files, safetensors as weights
        traced = {module.__file__ for module in (checkpoints, files, weights)}
        lines = 0
        def trace(frame, event, arg):
            global lines
            if frame.f_code.co_filename not in traced:
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of open files from /proc")
def test_a_power_cut_finds_what_a_kill_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a power cut only the order of the calls shows it: bytes are synced, then named, and names are synced."""
    events: list[str] = []

    def kind(path: object) -> str:
        return re.sub(r"step-0+(\d)(-\w+)?|tmp-\d+", lambda match: f"step {match[1]}" if match[1] else "tmp", str(path))

    def record(name: str, doing: str, which: Any) -> None:
        call = getattr(os, name)

        def recorded(*arguments: Any, **named: Any) -> None:
            shown = kind(Path(which(*arguments)).name)
            call(*arguments, **named)
            events.append(f"{doing} {shown}")

        monkeypatch.setattr(os, name, recorded)

    save(tmp_path, 1, keep=1)
    record("fsync", "sync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink())
    record("replace", "name", lambda source, target: target)
    record("unlink", "remove", lambda path: path)
    save(tmp_path, 2, keep=1)
    assert events == [
        *("sync .step 2.safetensors.tmp", "name step 2.safetensors", "sync checkpoints"),
        *("sync .step 2.json.tmp", "name step 2.json", "sync checkpoints"),
        *("remove step 1.json", "sync checkpoints", "remove step 1.safetensors"),
    ]
    events.clear()
    size = append_line(tmp_path / "log.jsonl", {"step": 1})
    assert sync_log(tmp_path / "log.jsonl") == size
    append_line(tmp_path / "log.jsonl", {"step": 2})
    truncate_log(tmp_path / "log.jsonl", size)
    assert events == ["sync log.jsonl", f"sync {tmp_path.name}", "sync log.jsonl"]


# ------------------------------------------------------------------- full disks


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


# ----------------------------------------------------------------------- damage


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


# ----------------------------------------------------------- saving checkpoints


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


@needs_posix
def test_checkpoints_that_cannot_be_read_do_not_end_a_run(tmp_path: Path) -> None:
    first, later = save(tmp_path, 5), save(tmp_path, 7)
    for damaged, step, newest in ((later, 6, 6), (first, 8, 8)):  # later than the one that is saved, and its spare
        damaged.unlink()
        damaged.symlink_to(damaged.name)  # reading it is an OSError, for every user
        save(tmp_path, step)
        assert newest_step(tmp_path) == newest
    assert steps_on_disk(tmp_path) == [6, 8]


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


# ------------------------------------------------------------------------ state


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


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
