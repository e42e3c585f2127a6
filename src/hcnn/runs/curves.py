"""Learning curves of a run, drawn with matplotlib."""

import json
from pathlib import Path
from typing import Any

from hcnn.plotting import pyplot, save


def learning_curves(metrics: Path, path: Path, *, test_accuracy: float | None = None) -> None:
    """Draw loss and accuracy over epochs, on the validation images too where there are some.

    Args:
        metrics: the metrics.jsonl of a run.
        path: the PNG to write.
        test_accuracy: drawn as a line, since the test set is read once.

    """
    plot = pyplot()
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = plot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    drawn = [("", "training (augmented)", "#0072b2")]
    validated = all("validation_accuracy" in row and "validation_loss" in row for row in rows)
    if validated:
        drawn.append(("validation_", "validation", "#009e73"))
    for prefix, label, colour in drawn:
        style: dict[str, Any] = {"color": colour, "marker": ".", "label": label}
        left.plot(epochs, [row[f"{prefix}loss"] for row in rows], **style)
        right.plot(epochs, [100 * row[f"{prefix or 'train_'}accuracy"] for row in rows], **style)
    if validated:
        best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
        right.plot(
            best["epoch"], 100 * best["validation_accuracy"], "o", color="black", markersize=9, fillstyle="none",
            zorder=3,
            label=f"best epoch, kept: {best['epoch']}",
        )  # fmt: skip
    left.set(xlabel="epoch", ylabel="cross-entropy", title="Loss", ylim=(0, None))
    if test_accuracy is not None:
        label = f"test, after training: {100 * test_accuracy:.2f} %"
        right.axhline(100 * test_accuracy, color="#d55e00", linestyle="--", label=label)
    right.set(xlabel="epoch", ylabel="%", title="Accuracy")
    right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)
