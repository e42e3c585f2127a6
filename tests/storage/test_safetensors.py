"""Weights bit for bit, and every file that is none refused by name; no pickle is ever opened."""

import contextlib
import io
import json
import math
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hcnn.storage.checkpoints import load_newest, save_checkpoint
from hcnn.storage.safetensors import load_weights, match_state, save_weights

if TYPE_CHECKING:
    from helpers.processes import Zygote


def content() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(1000, dtype=torch.float32), "step": torch.tensor(1)}


# ---------------------------------------------------------------------- tensors


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
    assert list(tmp_path.iterdir()) == []


def test_weights_are_the_same_bytes_whatever_the_process_and_the_order(tmp_path: Path, zygote: "Zygote") -> None:
    metadata = {key: f"é {key}" for key in "qwertyuiop"}
    ours = save_weights(tmp_path / "a.safetensors", content(), metadata)
    code = f"""
        from hcnn.storage.safetensors import load_weights, save_weights
        tensors, metadata = load_weights({str(tmp_path / "a.safetensors")!r})
        tensors, metadata = (dict(reversed(found.items())) for found in (tensors, metadata))
        print(save_weights({str(tmp_path / "b.safetensors")!r}, tensors, metadata), flush=True)
    """
    zygote.start(code)
    assert zygote.finish() == (0, [ours])
    assert load_weights(tmp_path / "b.safetensors")[1] == metadata


# ----------------------------------------------------- pickles, and other files


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


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [("F32", [0, 2**63], ""), ("F4", [0], "unknown dtype 'F4'")],
)
def test_a_header_of_what_pytorch_cannot_hold(tmp_path: Path, dtype: str, shape: list[int], message: str) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=rf"w\.safetensors is a damaged .*{message}"):
        load_weights(tmp_path / "w.safetensors")


def test_files_that_are_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, content(), {"note": "x"})
    good = path.read_bytes()
    whole = r"w\.safetensors is a damaged or truncated safetensors file \(\d"
    cases = [(good[:length], whole) for length in (9, 50, len(good) // 2, len(good) - 1)]
    cases += [(good + b"x", whole), (good[:20] + b"\xff" + good[21:], whole)]
    cases += [(good.replace(b'"F32"', b'"F99"'), whole)]
    cases += [(b"", r"is not a safetensors file \(0 bytes\)"), (good[:5], r"is not a safetensors file \(5 bytes\)")]
    cases += [
        (b"hello, world" * 9, "is not a safetensors file"),
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
