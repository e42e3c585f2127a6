"""What a command writes over: only files that begin as its own do, which is seen before it computes anything."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hcnn.storage.atomic import output_folder

PNG = b"\x89PNG\r\n\x1a\n"
_PAGE, _OBJECT = b"<!doctype html>", b"{"
EVALUATION = {
    "evaluation.json": _OBJECT,
    "evaluation.html": _PAGE,
    "classes.csv": b"class,images,correct,",
    "confusion.csv": b"true class \\ predicted class",
    **dict.fromkeys(("confusion.png", "calibration.png", "coverage.png"), PNG),
}
SHIFTS = {"shifts.csv": b"network,change,strength,", "shifts.json": _OBJECT, "shifts.png": PNG}
STUDY = {
    "study.json": b'{"info": ',
    "report.html": _PAGE,
    **dict.fromkeys(("rows.csv", "contrasts.csv", "properties.csv"), b"statistic,network,order,"),
    "orders.csv": b"statistic,network,depth,attribute,",
    **dict.fromkeys(("consistency.png", "smoothness.png", "flatness.png", "properties.png"), PNG),
    **dict.fromkeys(("figure-3.png", "figure-4.png"), PNG),
}
BENCH = {"bench.json": _OBJECT, "bench.md": b"Measured on ", "roofline.png": PNG, "growth.png": PNG}
COMPARISON = {"comparison.md": b"# Comparison\n", "comparison.csv": b"system,", "comparison.png": PNG}


def default_place(network: Path, name: str) -> Path:
    """Where a command writes without --output: into the run folder, or for a pretrained model into the working folder.

    The name of the model keeps the results of several of them apart.

    Example:
        >>> default_place(Path("hcnn_digits"), "explore").as_posix()
        'hcnn_digits-explore'
    """
    return network / name if network.is_dir() else Path(f"{network.stem}-{name}")


@contextmanager
def results_in(folder: Path, heads: Mapping[str, bytes], inner: str | None = None) -> Iterator[Path]:
    """An output folder for the time of a command, which leaves nothing behind if it fails.

    Args:
        folder: to write into.
        heads: how each file begins that the command writes.
        inner: name of a folder within it that the command fills.

    Yields:
        The folder.

    Raises:
        ValueError: if a file of one of these names begins otherwise, so that it is something else.
        OSError: if the folder cannot be written.
    """
    for name, head in heads.items():
        check_head(folder / name, head)
    new = [folder / name for name in heads if not (folder / name).exists()]
    made = None if inner is None or (folder / inner).exists() else folder / inner
    with output_folder(folder):
        try:
            yield folder
        except BaseException:
            for path in new:
                path.unlink(missing_ok=True)
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            raise


def check_head(path: Path, head: bytes) -> None:
    """Refuse to write over a file that does not begin with `head`, and over what is not a file."""
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{path}: expected a file or a free name; it is a {'folder' if path.is_dir() else 'device'}")
    with path.open("rb") as file:
        found = file.read(len(head))
    if found not in (b"", head):
        raise ValueError(f"{path}: the file exists and hcnn did not write it; give another --output")


def check_picture(path: Path) -> None:
    """Refuse an --output that is not the name of a PNG file, or names something else that is there."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--output: expected a PNG file, such as figure.png; got {path}")
    check_head(path, PNG)
