"""Learning curves of a run, drawn with matplotlib."""

import json
from pathlib import Path

from hcnn.plotting import pyplot, save


def learning_curves(metrics: Path, path: Path, *, test_accuracy: float | None = None) -> None:
    """Draw loss and training accuracy over epochs.

    Args:
        metrics: the metrics.jsonl of a run.
        path: the PNG to write.
        test_accuracy: drawn as a line, since the test set is read once.

    """
    plot = pyplot()
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
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
