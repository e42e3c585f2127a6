"""Files of arrays: what numpy writes comes back, and whatever else comes is refused before memory is taken."""

import io
import os
import pickle
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hcnn.data import array_files
from hcnn.data.array_files import read_npy, read_npz
from hcnn.data.datasets import load


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """An .npy file with that header, whatever it claims."""
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


def claim(shape: object, kind: str = "|u1") -> str:
    return repr({"descr": kind, "fortran_order": False, "shape": shape})


# --------------------------------------------------------------------------------------------------------- npy

SOUND = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    np.arange(6, dtype=">i4"),
    np.arange(6, dtype=">f8").reshape(2, 3),
    np.array(["cat", "犬"]),
    np.array(7),
    np.zeros((0, 3), np.uint8),
]


@pytest.mark.parametrize("array", SOUND)
def test_arrays_of_every_layout_come_back(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "stored.npz", a=array)
    np.savez_compressed(tmp_path / "deflated.npz", a=array)
    for again in (
        read_npy(tmp_path / "a.npy"),
        *(read_npz(tmp_path / f"{n}.npz")["a"] for n in ("stored", "deflated")),
    ):
        assert again.dtype == array.dtype
        assert np.array_equal(again, array)


UNFIT = [
    (b"", "it is empty"),
    (b"\x93NUMPY", "it is not in the .npy format"),
    (b"PK\x03\x04 and so on", "it is not in the .npy format"),
    (header("", version=9), r"expected version 1.0 or 2.0 of the .npy format; got 9.0"),
    (header(claim((10**12,))), r"claims shape \(1000000000000,\) of uint8, 1,000,000,000,000 bytes; 0 follow"),
    (header(claim((10**6, 10**6, 10**6, 10**6))), "its header claims shape"),
    (header(claim((1 << 62, 4))), "its header claims shape"),
    (header(claim((-1, 2)), b"ab"), r"its header claims shape \(-1, 2\)"),
    (header(claim((10**18,), "<U0")), "expected numbers or text; got <U0"),
    (header(claim((10**18,), "|V0")), "expected numbers or text; got "),
    (header(claim((1,), "<M8[s]"), bytes(8)), r"expected numbers or text; got datetime64\[s\]"),
    (header(claim((1,), "|O"), pickle.dumps(1)), "it holds Python objects, which are pickles"),
    (header(claim("many")), "shape is not valid"),
    (header("{'descr': open('x', 'w')}"), "its header cannot be read"),
    (header("(" * 5000), "its header cannot be read"),
    (header("{'descr': '|u1'"), "its header cannot be read: "),
    (header(claim((1,) * 99), b"a"), "dimension"),
    (header("x" * 20_000), "Header info length"),
    (header(claim((9,)), bytes(8), version=2), r"claims shape \(9,\) of uint8, 9 bytes; 8 follow"),
]


@pytest.mark.parametrize(("data", "reason"), UNFIT)
def test_files_that_are_not_what_they_claim_are_refused(tmp_path, data, reason):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a.npy: expected a .npy array of numbers; .*({reason})"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ValueError, match=rf"a.npz: expected plain arrays, .* array 'x' was refused: .*({reason})"):
        read_npz(tmp_path / "a.npz")


def test_an_npz_under_the_name_of_an_npy_is_refused(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, images=np.zeros(3))
    with pytest.raises(ValueError, match=r"a.npy: expected a .npy array of numbers; it is not in the .npy format"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_only_regular_files_are_opened(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    read = read_npy if suffix == "npy" else read_npz
    os.mkfifo(path)
    with pytest.raises(ValueError, match=rf"a.{suffix}: expected a regular file; it is a named pipe"):
        read(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
        with pytest.raises(ValueError, match=rf"a.{suffix}: expected a regular file; it is a socket"):
            read(path)
    for target, kind in (("/dev/zero", "a device"), (tmp_path, "a folder")):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(ValueError, match=rf"a.{suffix}: expected a regular file; it is {kind}"):
            read(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        read(path)
    if suffix == "npz":
        with pytest.raises((ValueError, OSError), match=r"a.npz|no such file"):
            load(path)


# --------------------------------------------------------------------------------------------------------- npz


def test_npz_arrays_come_back(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.arange(6), classes=np.array(["x", "y"]))
    arrays = read_npz(tmp_path / "a.npz")
    assert arrays["images"].tolist() == list(range(6))
    assert arrays["classes"].tolist() == ["x", "y"]


def test_pickles_are_refused_and_never_unpickled(tmp_path):
    mark = tmp_path / "it ran"
    bomb = Bomb(mark)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(bomb))
    np.savez(tmp_path / "object.npz", images=np.zeros(3), labels=np.array([bomb], dtype=object))
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as file:
        file.writestr("images.npy", pickle.dumps(bomb))
    for name, message in (
        ("pickle.npz", r"pickle.npz: expected an .npz file of arrays; .* \(a pickle\?\)"),
        ("object.npz", r"object.npz: expected plain arrays, no pickles; array 'labels' was refused"),
        ("raw.npz", r"raw.npz: expected plain arrays, no pickles; array 'images' was refused"),
    ):
        with pytest.raises(ValueError, match=message):
            read_npz(tmp_path / name)
    assert not mark.exists()
    pickle.loads((tmp_path / "pickle.npz").read_bytes()).close()
    assert mark.exists()  # so the bomb works, and the check above can fail


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_npz_is_refused(tmp_path, keep):
    np.savez(tmp_path / "whole.npz", images=np.zeros(1000), labels=np.zeros(10))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"cut.npz: expected an .npz file of arrays; it is truncated"):
        read_npz(tmp_path / "cut.npz")


def test_an_npz_with_a_flipped_byte_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros(1000))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[500] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a.npz: expected plain arrays.*; array 'images' was refused: Bad CRC"):
        read_npz(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_much_more_than_it_is_is_refused_before(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros(2 << 20, np.uint8))
    assert read_npz(tmp_path / "bomb.npz")["images"].sum() == 0
    monkeypatch.setattr(array_files, "_ROOM", 1 << 20)  # a GiB would take long to write
    with pytest.raises(ValueError, match=r"bomb.npz: .* claim to unpack to 2,097,280; expected at most 100 times"):
        read_npz(tmp_path / "bomb.npz")


def test_a_member_may_not_come_twice_nor_hold_more_than_it_says(tmp_path):
    data = io.BytesIO()
    np.save(data, np.arange(100))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("a.npy", data.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", data.getvalue())
    with pytest.raises(ValueError, match=r"twice.npz: .* array 'a' was refused: it comes twice"):
        read_npz(tmp_path / "twice.npz")
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("a.npy", data.getvalue()[:-8])
    with pytest.raises(ValueError, match=r"short.npz: .* array 'a' was refused: its header claims shape \(100,\)"):
        read_npz(tmp_path / "short.npz")
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", data.getvalue())
    with pytest.raises(ValueError, match=r"lzma.npz: .* array 'a' was refused: expected it stored or deflated"):
        read_npz(tmp_path / "lzma.npz")


def test_classes_may_be_bytes(tmp_path):
    names = np.array([b"cat", "犬".encode()])
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1], classes=names)
    assert load(tmp_path / "a.npz").train.classes == ("cat", "犬")
