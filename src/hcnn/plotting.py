"""Drawing with matplotlib, into files."""

import io
from pathlib import Path
from typing import Any

from hcnn.storage.atomic import write_atomically


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files; an ImportError that says how to install it."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plot

    return plot


def save(figure: Any, path: Path, dpi: int = 130) -> None:
    """Write a figure as a PNG, atomically, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    pyplot().close(figure)
    write_atomically(path, buffer.getvalue())
