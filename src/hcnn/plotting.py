"""Pictures of a run: learning curves. Needs matplotlib."""

import io
import json
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


def learning_curves(metrics: Path, path: Path, *, test_accuracy: float | None = None) -> None:
    """Draw loss and training accuracy over epochs.

    Args:
        metrics: the metrics.jsonl of a run.
        path: the PNG to write.
        test_accuracy: drawn as a line, since the test set is read once.

    """
    plot = pyplot()
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = plot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(epochs, [row["loss"] for row in rows], color="#0072b2", marker=".", label="training")
    left.set(xlabel="epoch", ylabel="cross-entropy", title="Loss", ylim=(0, None))
    right.plot(
        epochs,
        [100 * row["train_accuracy"] for row in rows],
        color="#0072b2",
        marker=".",
        label="training (augmented)",
    )
    if test_accuracy is not None:
        label = f"test, after training: {100 * test_accuracy:.2f} %"
        right.axhline(100 * test_accuracy, color="#d55e00", linestyle="--", label=label)
    right.set(xlabel="epoch", ylabel="%", title="Accuracy")
    right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)
