"""Drawing with matplotlib, into files."""

import io
import warnings
from pathlib import Path
from typing import Any

from hcnn.storage.atomic import write_atomically
from hcnn.text import printable


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files; an ImportError that says how to install it."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plot

    return plot


def literal(name: str, longest: int = 24) -> str:
    r"""A name from outside as matplotlib draws it letter by letter: two dollar signs would begin a formula.

    Every name of a class, run, data set or network in a picture goes through here.

    Args:
        name: any string.
        longest: longer names are cut, so that they do not cover their neighbours.

    Returns:
        The text to give to matplotlib, on one line.

    Example:
        >>> print(literal("$a_b$"), literal("a long name indeed", longest=8))
        \$a_b\$ a long …

    """
    shown = printable(name)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return shown.replace("$", r"\$")


def save(figure: Any, path: Path, dpi: int = 130) -> None:
    """Write a figure as a PNG, atomically, and close it."""
    buffer = io.BytesIO()
    for text in figure.findobj(lambda one: hasattr(one, "set_usetex")):
        text.set_usetex(False)  # whatever the user's matplotlibrc says: names are not TeX
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from")  # such letters are drawn as boxes
            figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    finally:
        pyplot().close(figure)
    write_atomically(path, buffer.getvalue())
