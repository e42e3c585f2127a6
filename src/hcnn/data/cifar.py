"""CIFAR-10 and CIFAR-100 from their binary archives, or the folders that these unpack to."""

from dataclasses import dataclass

import numpy as np

from hcnn.data.archives import ArchiveSpec, read_layout
from hcnn.storage.atomic import StrPath


@dataclass(frozen=True)
class CifarSpec:
    """An archive in CIFAR's binary layout: records of `label_bytes` labels, then 3·32·32 pixels (c, u1, u2).

    The last label of a record is the class, and one before it the superclass. The files of records have exactly
    the sizes that `archive` gives as their limits.

    Args:
        archive: the archive.
        train: its files of training records.
        test: its files of test records.
        classes: its list of class names.
        superclasses: its list of superclass names, if it has one.
        label_bytes: number of labels per record.

    """

    archive: ArchiveSpec
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: str
    superclasses: str | None = None
    label_bytes: int = 1


_URL = "https://www.cs.toronto.edu/~kriz/"
_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10 = CifarSpec(
    ArchiveSpec(
        "CIFAR-10",
        _URL + "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        200_000_000,
        "cifar-10-batches-bin",
        (*((name, 30_730_000) for name in (*_BATCHES, "test_batch.bin")), ("batches.meta.txt", 1 << 16)),
    ),
    _BATCHES,
    ("test_batch.bin",),
    "batches.meta.txt",
)
CIFAR100 = CifarSpec(
    ArchiveSpec(
        "CIFAR-100",
        _URL + "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        200_000_000,
        "cifar-100-binary",
        (
            ("train.bin", 153_700_000),
            ("test.bin", 30_740_000),
            ("fine_label_names.txt", 1 << 16),
            ("coarse_label_names.txt", 1 << 16),
        ),
    ),
    ("train.bin",),
    ("test.bin",),
    "fine_label_names.txt",
    "coarse_label_names.txt",
    label_bytes=2,
)


@dataclass(frozen=True, eq=False)
class CifarArrays:
    """Images uint8 (n, 3, 32, 32) and labels int64 (n,) of both sets; the superclass of each class, if any."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    superclasses: tuple[str, ...]


def read_cifar(spec: CifarSpec, data_dir: StrPath | None = None) -> CifarArrays:
    """Read an archive or folder in CIFAR's binary layout.

    Args:
        spec: `CIFAR10` or `CIFAR100`.
        data_dir: the folder of `cache_folder`.

    Returns:
        Its arrays and names.

    Raises:
        ValueError: if the size of a file is wrong, a label has no name, or a class has two superclasses.
        ConnectionError: if nothing is there and the site cannot be reached.
        ImportError: if nothing is there and pooch is not installed.

    """
    source, content = read_layout(spec.archive, data_dir)
    classes = _names(content[spec.classes])
    above = _names(content[spec.superclasses]) if spec.superclasses else ()
    over = np.full(len(classes), -1)  # superclass of each class

    def read(files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = [], []
        for name in files:
            where, data = f"{source}: {name}", content.pop(name)
            if len(data) != (size := dict(spec.archive.members)[name]):
                raise ValueError(f"{where}: expected {size:,} bytes; got {len(data):,}")
            records = np.frombuffer(data, np.uint8).reshape(-1, spec.label_bytes + 3 * 32 * 32)
            fine = records[:, spec.label_bytes - 1].astype(np.int64)
            _check_labels(fine, len(classes), where)
            if above:
                coarse = records[:, 0].astype(np.int64)
                _check_labels(coarse, len(above), where)
                over[fine[over[fine] < 0]] = coarse[over[fine] < 0]
                if (bad := np.flatnonzero(over[fine] != coarse)).size:
                    raise ValueError(
                        f"{where}: expected class {classes[fine[bad[0]]]!r} in superclass "
                        f"{above[over[fine[bad[0]]]]!r} everywhere; got {above[coarse[bad[0]]]!r} at record {bad[0]}"
                    )
            labels.append(fine)
            images.append(records[:, spec.label_bytes :])
        return np.concatenate(images).reshape(-1, 3, 32, 32), np.concatenate(labels)

    train, test = read(spec.train), read(spec.test)
    return CifarArrays(train, test, classes, tuple(above[k] for k in over) if above else ())


def _names(data: bytes) -> tuple[str, ...]:
    return tuple(data.decode("utf-8", "replace").split())


def _check_labels(labels: np.ndarray, count: int, where: str) -> None:
    if (bad := np.flatnonzero(labels >= count)).size:
        raise ValueError(f"{where}: expected labels from 0 to {count - 1}; got {labels[bad[0]]} at record {bad[0]}")
