"""Learning curves of a run, drawn with matplotlib."""

from pathlib import Path
from typing import Any

from hcnn.plotting import pyplot, save
from hcnn.storage.records import parse_object
from hcnn.text import is_number


def learning_curves(metrics: Path, path: Path, *, test_accuracy: float | None = None) -> None:
    """Draw loss and accuracy over epochs, on the validation images too where there are some.

    Args:
        metrics: the metrics.jsonl of a run.
        path: the PNG to write.
        test_accuracy: drawn as a line, since the test set is read once.

    Raises:
        ValueError: if the file does not hold the numbers of each epoch; names it and the line.

    """
    plot = pyplot()
    rows = _read_metrics(metrics)
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


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        row = parse_object(line, f"{path}: line {number}")
        for name in ("epoch", "loss", "train_accuracy", *row):
            if not is_number(row.get(name)):
                raise ValueError(f"{path}: line {number}: {name}: expected a number; got {str(row.get(name))[:60]!r}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: expected a line for each epoch; it is empty")
    return rows
