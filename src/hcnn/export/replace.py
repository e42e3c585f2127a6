"""What an export may replace: files that an earlier export wrote, and others only when asked to."""

import zipfile
from pathlib import Path

from hcnn.storage.atomic import StrPath

SIGNATURE = "written by hcnn"  # in C sources and pages, and as an entry of .pt2 archives
_HEAD = 1 << 16


def check_replaceable(path: StrPath, *, force: bool = False) -> None:
    """Refuse to replace a file that `hcnn export` did not write.

    Args:
        path: the file to write.
        force: replace any regular file.

    Raises:
        ValueError: if there is something else at `path`: a file of another origin, a folder, a device.

    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path}: expected a file or a free name; it is a link to nothing")
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{path}: expected a file or a free name; it is a {'folder' if path.is_dir() else 'device'}")
    if not force and not is_export(path):
        raise ValueError(f"{path}: the file exists and hcnn export did not write it; add --force to replace it")


def is_export(path: StrPath) -> bool:
    """Whether `hcnn export` wrote a file: each of its formats names its producer.

    Args:
        path: a regular file.

    Returns:
        True for the files that this package exports: ONNX, torch.export, ExecuTorch, C, HTML, folded safetensors and
        their model cards.

    """
    with Path(path).open("rb") as file:
        head = file.read(_HEAD)
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return f"archive/extra/{SIGNATURE}" in archive.namelist()
        except zipfile.BadZipFile:
            return False
    if head[4:6] == b"ET":  # ExecuTorch: the text of the method "producer"
        return SIGNATURE.encode() in Path(path).read_bytes()
    return (
        head[2:8] == b"\x12\x04hcnn"  # ONNX: the producer, after the version of the format
        or SIGNATURE.encode() in head[:200]
        or head.startswith(b"---\nlibrary_name: hcnn\n")
        or (head[8:9] == b"{" and b'"format":"hcnn-folded' in head)
    )
