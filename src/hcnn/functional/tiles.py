"""Batches cut into pieces that fit a processor's cache."""

from collections.abc import Iterator

# Elements of the largest array in a tile: 2 MiB of float32, about the second-level caches of two cores.
TILE = 2**19


def tiles(count: int, elements: int, *, device: str = "cpu") -> Iterator[slice]:
    """Slices of a batch so that about `TILE` of its elements go at a time; at least one entry; on a GPU all at once.

    Args:
        count: entries of the batch.
        elements: elements of all of them, of the largest array that a step writes.
        device: type of the device.

    Returns:
        The slices, in order.

    Example:
        >>> [*tiles(5, 5 * TILE // 2)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]

    """
    step = max(1, TILE * count // max(elements, 1)) if device == "cpu" else max(count, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
