"""Memory: keeping freed memory in the process, and errors that say which settings need less."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hcnn.training.device import is_out_of_memory
from hcnn.training.recipe import Recipe


def keep_freed_memory() -> bool:
    """Let the C library keep memory that tensors free, instead of returning it to the system at once.

    By default glibc maps every large tensor anew and the system clears its pages on first touch, which can cost more
    than the arithmetic on it. This changes the whole process, so nothing in the library calls it by itself;
    `hcnn train` does for its own process, and so does `hcnn bench`, for both sides of each comparison.

    Returns:
        Whether it could be done: on Linux with glibc.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
    return all(mallopt(option, value) == 1 for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**27)))


@contextmanager
def memory_advice(recipe: Recipe) -> Iterator[None]:
    """Turn a failed allocation into a MemoryError that says which settings need less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or "no reason given").splitlines()[0]
        raise MemoryError(
            f"out of memory with {recipe.batch_size} images a step in {recipe.accumulate} part(s): lower --batch-size "
            f"or raise --accumulate ({reason})"
        ) from error
