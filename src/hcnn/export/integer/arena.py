"""Places for the arrays of an integer network in one block of memory, where most overwrite what they are made from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """How a convolution reads and writes, in the order in which the C file does it: row by row.

    Attributes:
        source: number of the array that it reads; 0 is the image, which is elsewhere.
        residual: number of the array of equal size that it adds, place by place, or None.
        rows: of its output.
        row_bytes: bytes of a row of its output.
        read: for each row of its output, how many rows of the source have been read when it is written.
    """

    source: int
    residual: int | None
    rows: int
    row_bytes: int
    read: tuple[int, ...]


def place(uses: Sequence[Use]) -> tuple[list[int], int]:
    """Offsets of the arrays 1, 2, … and the bytes of the whole block.

    An array may overwrite its source, if nothing later reads the source and each row is written where all rows have
    been read: in the example a narrow array lies 8 bytes behind the wide one that overwrites it. An array may also
    take the place of the array that it adds.

    Args:
        uses: of convolution n, which writes array n + 1.

    Returns:
        One offset per array, and the size of the block.

    Example:
        >>> same = Use(1, None, 4, 8, (2, 3, 4, 4))
        >>> place([Use(0, None, 4, 8, (2, 3, 4, 4)), same])
        ([0, 0], 32)
        >>> place([Use(0, None, 4, 8, (2, 3, 4, 4)), Use(1, None, 4, 16, (2, 3, 4, 4))])
        ([8, 0], 64)
    """
    sizes = [0, *(one.rows * one.row_bytes for one in uses)]
    last = list(range(len(sizes)))  # the convolution that reads each array last; its own if none does
    for number, one in enumerate(uses, start=1):
        for array in (one.source, one.residual):
            if array is not None:
                last[array] = max(last[array], number)
    offsets = [0] * len(sizes)
    for number in range(len(uses), 0, -1):
        later = [other for other in range(number + 1, len(sizes)) if other <= last[number]]
        candidates = {0, *(offsets[other] + sizes[other] for other in later)}
        if later:
            candidates |= {offsets[later[-1]] + distance(uses, number, later[-1], sizes), offsets[later[-1]]}
        offsets[number] = min(
            at
            for at in candidates
            if all(_compatible(uses, number, at, other, offsets[other], sizes, last) for other in later)
        )
    return offsets[1:], max(at + size for at, size in zip(offsets, sizes, strict=True))


def distance(uses: Sequence[Use], array: int, writer: int, sizes: Sequence[int]) -> int:
    """How far an array must begin behind the one that overwrites it, in bytes."""
    use = uses[writer - 1]
    source_row = uses[array - 1].row_bytes
    needs = [
        (row + 1) * use.row_bytes - read * source_row
        for row, read in enumerate(use.read)
        if read * source_row < sizes[array]
    ]
    return max(0, *needs) if needs else 0


def _compatible(
    uses: Sequence[Use], array: int, at: int, other: int, other_at: int, sizes: Sequence[int], last: Sequence[int]
) -> bool:
    """Whether an array can lie at an offset while a later one is written at its own."""
    if at + sizes[array] <= other_at or other_at + sizes[other] <= at:
        return True
    use = uses[other - 1]
    if last[array] != other:
        return False
    if use.residual == array:
        return at == other_at and use.source != array
    return at - other_at >= distance(uses, array, other, sizes)
