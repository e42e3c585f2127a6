"""Finding images: every one once, whatever a folder or standard input holds, and what is passed over is counted."""

import io
import os
from pathlib import Path
from typing import Any

import pytest

from hcnn.data.image_sources import ImageSources, find_images

NOTHING: Any = io.BufferedReader(io.BytesIO(b""))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def find(*arguments: Path | str, stdin: bytes = b"") -> tuple[list[str], ImageSources]:
    sources = find_images([Path(one) for one in arguments], io.BufferedReader(io.BytesIO(stdin)))
    return [source.name for source in sources], sources


def below(root: Path, names: list[str]) -> list[str]:
    return [str(Path(name).relative_to(root)) for name in names]


def test_every_format_is_found_and_the_rest_is_counted(tmp_path):
    images = ["a.BMP", "b.tif", "c.jfif", "d.GIF", "e.npy", "f.tiff", "sub/g.webp", "sub/h.mpo", "z.JPG"]
    touch(
        tmp_path, *images, "notes.txt", "more.txt", "sub/README", "sub/x.svg", ".hidden.png", ".git/a.png", "Thumbs.db"
    )
    names, sources = find(tmp_path)
    assert below(tmp_path, names) == images
    assert sources.left_out == {".txt": 2, "": 1, ".svg": 1}
    expected = "left out 4 files that are not images: 2 .txt, 1 without a suffix, 1 .svg"
    assert sorted(sources.describe_left_out().split()) == sorted(expected.split())
    assert find(tmp_path / "sub" / "g.webp")[1].describe_left_out() == ""


def test_nothing_found_is_an_error_at_once(tmp_path):
    touch(tmp_path, "notes.txt", "sub/README")
    with pytest.raises(ValueError, match=r"expected images \(.*\) or .npy arrays; found none and left out 2 files"):
        find_images([tmp_path], NOTHING)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"/empty: expected images \(.*\) or .npy arrays; found none$"):
        find_images([tmp_path / "empty"], NOTHING)
    with pytest.raises(ValueError, match=r"^-: expected images .* found none"):
        find_images([Path("-")], NOTHING)
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        find_images([tmp_path / "nowhere"], NOTHING)


def test_links_that_loop_are_followed_once(tmp_path):
    root = touch(tmp_path / "root", *(f"{folder}/{i}.png" for folder in ("a", "b") for i in range(4)))
    for link, target in (("loop", "."), ("a/up", ".."), ("b/up", ".."), ("b/self", "self")):
        (root / link).symlink_to(target)
    names, sources = find(root)
    assert below(root, names) == [f"{folder}/{i}.png" for folder in ("a", "b") for i in range(4)]
    assert sources.left_out == {"": 1}  # the link to itself is no folder
    outside = touch(tmp_path / "outside", "x.png")
    (root / "c").symlink_to(outside)  # links out of the folder are followed
    (root / "d").symlink_to(outside)  # but only once
    assert below(root, find(root)[0])[-1] == "c/x.png"
    assert len(find(root)[0]) == 9


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "shut/x.png", "z.png")
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    sources = [*find_images([tmp_path], NOTHING)]
    assert below(tmp_path, [one.name for one in sources]) == ["a.png", "shut", "z.png"]
    assert [one.problem for one in sources] == ["", "the folder cannot be listed: Permission denied", ""]


BEGINNINGS = [
    b"\x89PNG\r\n\x1a\n rest", b"\xff\xd8\xff\xe0 rest", b"RIFF....WEBP", b"GIF89a\n\0 rest", b"GIF87a", b"II*\0 rest",
    b"MM\0* rest", b"BM\x36\0\0\0 rest", b"BM\n\0\0\0\0\0 rest", b"some \0 other\nthing",
]  # fmt: skip


@pytest.mark.parametrize("data", BEGINNINGS)
def test_an_image_on_standard_input_is_taken_whole(data):
    (source,) = find_images([Path("-")], io.BufferedReader(io.BytesIO(data)))
    assert source.name == "-"
    assert source.data == data


def test_paths_on_standard_input():
    names, _ = find("-", stdin=b"a.png\r\nBMW/b c.png\n\n\xff\xfe.png\nBM\nlast.png")
    assert names == ["a.png", "BMW/b c.png", os.fsdecode(b"\xff\xfe.png"), "BM", "last.png"]
    with pytest.raises(ValueError, match=r"-: expected a path on each line; line 2 has 65,536 bytes or more"):
        find("-", stdin=b"a.png\n" + b"x" * 70_000)


def test_paths_come_as_they_are_written():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb", buffering=0) as writer:
        writer.write(b"a.png\n")
        sources = find_images([Path("-")], stdin)
        assert next(sources).name == "a.png"  # though no second line has come
        writer.write(b"b.png\n")
        assert next(sources).name == "b.png"
