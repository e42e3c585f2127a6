"""Archives: what is refused, that nothing is left behind, and that nothing is ever unpickled."""

import dataclasses
import hashlib
import http.server
import io
import os
import socket
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hcnn.data import archives, cifar
from hcnn.data.archives import ArchiveSpec, fetch, read_layout, read_members
from hcnn.data.cifar import CifarSpec, read_cifar

Change = Callable[[tarfile.TarFile], None]
CONTENT = {"a.bin": bytes(range(200)), "names.txt": b"cat\ndog\n"}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def pack(change: Change | None = None, content: dict[str, bytes] | None = None, folder: str = "toy") -> bytes:
    """A tar.gz of `content`, then whatever `change` puts in."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        add(archive, folder, type=tarfile.DIRTYPE)
        for name, data in (CONTENT if content is None else content).items():
            add(archive, f"{folder}/{name}", data)
        if change:
            change(archive)
    return buffer.getvalue()


def spec_of(data: bytes, url: str = "http://127.0.0.1:9/toy.tar.gz") -> ArchiveSpec:
    """A spec whose hash is right, so that what comes after the hash is tested."""
    return ArchiveSpec("Toy", url, hashlib.md5(data).hexdigest(), 1 << 20, "toy", (("a.bin", 200), ("names.txt", 99)))


@pytest.fixture
def store(tmp_path: Path) -> Callable[[bytes], tuple[Path, ArchiveSpec]]:
    def write(data: bytes) -> tuple[Path, ArchiveSpec]:
        path = tmp_path / "toy.tar.gz"
        path.write_bytes(data)
        return path, spec_of(data)

    return write


def test_members_are_read_in_memory_and_unlisted_ones_are_not_kept(store, tmp_path):
    path, spec = store(pack(lambda archive: add(archive, "./toy/readme.html", b"hello")))
    assert read_members(path, spec) == CONTENT
    assert listing(tmp_path) == ["toy.tar.gz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: add(a, "toy/../../evil.txt", b"x"), r"'toy/../../evil.txt' lies outside the folder; .* in toy/"),
        (lambda a: add(a, "/etc/evil", b"x"), r"'/etc/evil' lies outside the folder"),
        (lambda a: add(a, "other/a.bin", b"x"), r"'other/a.bin' lies outside the folder"),
        (lambda a: add(a, "a.bin", b"x"), r"'a.bin' lies outside the folder"),
        (
            lambda a: add(a, "toy/l", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            r"'toy/l' is a link to '/etc/passwd'",
        ),
        (lambda a: add(a, "toy/l", type=tarfile.LNKTYPE, linkname="toy/a.bin"), r"'toy/l' is a link to 'toy/a.bin'"),
        (lambda a: add(a, "toy/dev", type=tarfile.CHRTYPE), r"'toy/dev' is a device"),
        (lambda a: add(a, "toy/s", type=tarfile.GNUTYPE_SPARSE), r"'toy/s' is a device or a sparse file"),
        (lambda a: add(a, "toy/a.bin", b"x"), r"'toy/a.bin' comes twice"),
        (lambda a: add(a, "toy/readme", bytes(2 << 20)), r"'toy/readme' claims 2,097,152 bytes; .* 1,048,576"),
    ],
)
def test_unexpected_members_are_refused_by_name(store, change, message):
    path, spec = store(pack(change))
    with pytest.raises(ValueError, match=message) as caught:
        read_members(path, spec)
    assert str(path) in str(caught.value)
    assert path.exists()


def test_a_member_that_claims_to_be_huge_is_refused_by_its_header(store):
    header = tarfile.TarInfo("toy/a.bin")
    header.size = 1 << 40
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        assert archive.fileobj is not None
        archive.fileobj.write(header.tobuf())
    path, spec = store(raw.getvalue())
    with pytest.raises(ValueError, match=r"'toy/a.bin' claims 1,099,511,627,776 bytes; expected at most 200"):
        read_members(path, spec)


def test_a_header_that_unpacks_to_more_than_the_whole_is_refused(store, monkeypatch):
    monkeypatch.setattr(archives, "_OVERHEAD", 1 << 16)
    # tarfile reads extended headers into memory before anyone sees the member.
    path, spec = store(pack(lambda a: add(a, "toy/x", pax_headers={"comment": "0" * (1 << 20)})))
    with pytest.raises(ValueError, match=r"toy.tar.gz: unpacks to more than the 65,835 bytes expected"):
        read_members(path, spec)


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.9])
def test_truncated_archives_are_refused_by_their_hash_and_not_deleted(store, keep):
    whole = pack()
    path, _ = store(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"toy.tar.gz: expected toy.tar.gz with MD5 .*; got MD5 .*truncated"):
        read_members(path, spec_of(whole))
    assert path.exists()


@pytest.mark.parametrize("keep", [5, 0.5, 0.9])
def test_truncated_archives_are_refused_even_if_the_hash_is_right(store, keep):
    whole = pack(content={"a.bin": os.urandom(200), "names.txt": b"x"})
    path, spec = store(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"toy.tar.gz: expected (a whole tar.gz archive|members)"):
        read_members(path, spec)


def test_missing_members_are_named(store):
    path, spec = store(pack(content={"a.bin": b"1"}))
    with pytest.raises(ValueError, match=r"missing: \['names.txt'\]"):
        read_members(path, spec)


# ---------------------------------------------------------------------------------------------------- download


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the bytes of the server's `files`; a claimed length may be longer than the body."""

    def do_GET(self) -> None:
        body, claimed = self.server.files.get(self.path, (None, 0))  # pyright: ignore[reportAttributeAccessIssue]
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(claimed or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., str]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files: dict[str, tuple[bytes, int]] = {}
    server.files = files  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def publish(body: bytes | None, claimed: int = 0) -> str:
        if body is not None:
            files["/toy.tar.gz"] = (body, claimed)
        return f"http://127.0.0.1:{server.server_port}/toy.tar.gz"

    yield publish
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_and_read(serve, tmp_path, capfd):
    data = pack()
    spec = spec_of(data, serve(data))
    seen = []
    fetch(spec, tmp_path / "new" / "cache", progress=lambda *bytes_so_far: seen.append(bytes_so_far))
    where, content = read_layout(spec, tmp_path / "new" / "cache")
    assert where == tmp_path / "new" / "cache" / "toy.tar.gz"
    assert content == CONTENT
    assert listing(where.parent) == ["toy.tar.gz"]
    assert capfd.readouterr() == ("", "")  # pooch tells on stderr what it does, unless it is kept from it
    assert seen[-1] == (len(data), len(data))
    serve(b"changed since")
    assert read_layout(spec, where.parent) == (where, CONTENT)  # from the cache


@pytest.mark.parametrize("fault", ["wrong hash", "cut off", "cut off without a word", "endless"])
def test_a_bad_download_leaves_nothing(serve, tmp_path, fault):
    data = pack()
    served, claimed, message = {
        "wrong hash": (pack(content={"a.bin": b"evil"}), 0, r"does not match the known hash.*Put toy.tar.gz"),
        "cut off": (data[:-20], len(data), r"could not download"),
        "cut off without a word": (data[:-20], 0, r"does not match the known hash"),
        "endless": (bytes(3 << 20), 0, r"sends more than the 1,048,576 bytes expected"),
    }[fault]
    spec = spec_of(data, serve(served, claimed))
    with pytest.raises(ConnectionError if fault == "cut off" else ValueError, match=message):
        read_layout(spec, tmp_path)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("listening", [True, False])
def test_an_unreachable_site_says_which_file_to_put_where(serve, tmp_path, listening):
    folder = tmp_path / "new" / "new"
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = serve(None) if listening else f"http://127.0.0.1:{taken.getsockname()[1]}/toy.tar.gz"
        spec = spec_of(pack(), url)
        with pytest.raises(ConnectionError) as caught:
            fetch(spec, folder)
    assert f"Toy: could not download {url}" in str(caught.value)
    assert f"Put toy.tar.gz (MD5 {spec.md5}) or its folder toy into {folder} and run again" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"file: expected a folder of data sets; it is a file$"):
        read_layout(spec_of(pack(), "http://127.0.0.1/toy.tar.gz"), tmp_path / "file")


def test_a_bad_archive_in_the_cache_is_refused_and_not_replaced(serve, tmp_path):
    data = pack()
    spec = spec_of(data, serve(data))
    (tmp_path / "toy.tar.gz").write_bytes(b"not it")
    with pytest.raises(ValueError, match=r"toy.tar.gz: expected toy.tar.gz with MD5 .* over 6 bytes"):
        read_layout(spec, tmp_path)
    assert (tmp_path / "toy.tar.gz").read_bytes() == b"not it"


def test_without_pooch_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'hcnn\[data\]'.* Put toy.tar.gz"):
        fetch(spec_of(b""), tmp_path)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HCNN_DATA", str(tmp_path))
    assert archives.cache_folder() == tmp_path
    assert archives.cache_folder("~/x") == Path.home() / "x"
    monkeypatch.delenv("HCNN_DATA")
    assert archives.cache_folder() == Path.home() / ".cache" / "hcnn"


# -------------------------------------------------------------------------------------------------------- CIFAR


def records(labels: list[tuple[int, ...]], seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return np.concatenate([np.array(labels, np.uint8), pixels], 1).tobytes()


def toy_cifar(**changed: bytes) -> tuple[CifarSpec, dict[str, bytes]]:
    """Four classes in two superclasses, eight training records in two files and four of test."""
    content = {
        "one.bin": records([(0, 0), (1, 1), (0, 2), (1, 3)]),
        "two.bin": records([(1, 3), (0, 2), (1, 1), (0, 0)], 1),
        "test.bin": records([(0, 0), (1, 1), (0, 2), (1, 3)], 2),
        "fine.txt": b"ant\nbus\nbee\ncar\n",
        "coarse.txt": b"insects\nvehicles\n\n",
    }
    sizes = tuple((name, 12_296 if name.endswith("bin") else 99) for name in content)
    archive = ArchiveSpec("Toy-4", "http://127.0.0.1:9/toy.tar.gz", "", 1, "toy", sizes)
    spec = CifarSpec(archive, ("one.bin", "two.bin"), ("test.bin",), "fine.txt", "coarse.txt", label_bytes=2)
    return spec, content | {name.replace("_", "."): data for name, data in changed.items()}


def lay_out(folder: Path, content: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("layout", [".", "toy", "archive"])
def test_cifar_from_folder_and_from_archive(tmp_path, layout):
    spec, content = toy_cifar()
    if layout == "archive":
        data = pack(content=content)
        spec = dataclasses.replace(spec, archive=dataclasses.replace(spec.archive, md5=hashlib.md5(data).hexdigest()))
        (tmp_path / "toy.tar.gz").write_bytes(data)
    else:
        lay_out(tmp_path / layout, content)
    arrays = read_cifar(spec, tmp_path)
    images, labels = arrays.train
    assert labels.tolist() == [0, 1, 2, 3, 3, 2, 1, 0]
    assert images.shape == (8, 3, 32, 32)
    # A record is its labels, then the red plane by rows, the green one, the blue one.
    assert images[5, 1, 2, 3] == content["two.bin"][3074 + 2 + 1024 + 2 * 32 + 3]
    assert arrays.test[1].tolist() == [0, 1, 2, 3]
    assert arrays.classes == ("ant", "bus", "bee", "car")
    assert arrays.superclasses == ("insects", "vehicles", "insects", "vehicles")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"two_bin": records([(0, 0)] * 3)}, r"two.bin: expected 12,296 bytes; got 9,222"),
        ({"two_bin": records([(0, 0)] * 5)}, r"two.bin: expected at most 12,296 bytes; got 15,370"),
        ({"test_bin": records([(0, 0)] * 3 + [(0, 4)])}, r"test.bin: expected labels from 0 to 3; got 4 at record 3"),
        ({"one_bin": records([(9, 0)] * 4)}, r"one.bin: expected labels from 0 to 1; got 9 at record 0"),
        (
            {"two_bin": records([(0, 0)] * 3 + [(1, 2)])},
            r"class 'bee' in superclass 'insects' .*'vehicles' at rec",
        ),
    ],
)
def test_bad_cifar_files_are_named(tmp_path, changed, message):
    spec, content = toy_cifar(**changed)
    lay_out(tmp_path / "toy", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_cifar(spec, tmp_path)
    assert str(tmp_path / "toy") in str(caught.value)


def test_an_incomplete_folder_says_what_is_missing(tmp_path):
    spec, content = toy_cifar()
    del content["two.bin"]
    lay_out(tmp_path / "toy", content)
    with pytest.raises(ValueError, match=r"toy: expected the files of toy.tar.gz; missing: two.bin"):
        read_cifar(spec, tmp_path)


def test_the_official_archives_are_pinned():
    for spec, md5, bytes_of_records in (
        (cifar.CIFAR10, "c32a1d4ab5d03f1284b67883e8d87530", 60_000 * 3073),
        (cifar.CIFAR100, "03b5dce01913d631647c71ecec9e9cb8", 60_000 * 3074),
    ):
        assert spec.archive.md5 == md5
        assert sum(dict(spec.archive.members)[name] for name in (*spec.train, *spec.test)) == bytes_of_records
        assert spec.archive.url == f"https://www.cs.toronto.edu/~kriz/{spec.archive.file}"
