"""Pictures of a run: learning curves, and translations along an attribute. Needs matplotlib."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn.files import write_atomically
from hcnn.functional import marginal, translate
from hcnn.networks import AttributeNetwork


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hcnn[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    _pyplot().close(figure)
    write_atomically(path, buffer.getvalue())


def learning_curves(metrics: Path, path: Path, *, test_accuracy: float | None = None) -> None:
    """Draw loss and training accuracy over epochs.

    Args:
        metrics: the metrics.jsonl of a run.
        path: the PNG to write.
        test_accuracy: drawn as a line, since the test set is read once.

    """
    pyplot = _pyplot()
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
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
    _save(figure, path)


@torch.no_grad()
def invariant_arrays(model: AttributeNetwork, images: Tensor, j: int) -> Tensor:
    """The invariant arrays of eq. (9), ``x̄_j(v_{j-1}, v_j)``: x_j averaged over space and over v_{j-2}.

    Args:
        model: a network in eval mode.
        images: standardized, (n, c, *u).
        j: depth, at least 2.

    Returns:
        (n, v_{j-1}, v_j).

    Raises:
        ValueError: if x_j does not exist or has no two attributes.

    """
    if not 2 <= j <= len(model.layers):
        raise ValueError(f"invariant_arrays: expected a depth between 2 and {len(model.layers)}; got {j}")
    parts = []
    for batch in images.split(250):
        x = model(batch, return_arrays=True)[1][j].values
        attributes = x.ndim - 1 - model.config.spatial_axes
        older, space = range(1, attributes - 1), range(x.ndim - model.config.spatial_axes, x.ndim)
        parts.append(marginal(x.float(), [*older, *space]))
    return torch.cat(parts)


def nearest_to_translated(arrays: Tensor, query: int, shift: int) -> tuple[int, float]:
    """The image whose invariant array is nearest to the query's, translated along v_{j-1}; the query excluded.

    Args:
        arrays: (n, v_{j-1}, v_j), as `invariant_arrays` gives.
        query: an index into them.
        shift: τ, circular.

    Returns:
        Index and Euclidean distance.

    Example:
        >>> arrays = torch.eye(3)[:, :, None]
        >>> nearest_to_translated(arrays, 0, 1)
        (1, 0.0)

    """
    wanted = translate(arrays[query], 0, shift)
    distances = (arrays - wanted).flatten(1).norm(dim=1)
    distances[query] = torch.inf
    best = int(distances.argmin())
    return best, float(distances[best])


def translation_picture(
    model: AttributeNetwork,
    images: Tensor,
    pixels: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    path: Path,
) -> None:
    """Draw images whose arrays are nearest to a query's, translated along v_{j-1}; paper, figure 3.

    Each row is a query with its array beneath; column τ shows the nearest image, its array, its class and distance.
    Translations wrap around, which is exact for a periodic network and an approximation under zeros.

    Args:
        model: a network in eval mode.
        images: standardized, (n, c, u1, u2), where neighbours are looked for.
        pixels: the same images as uint8.
        labels: their classes.
        classes: class names.
        path: the PNG to write.

    """
    pyplot = _pyplot()
    j = len(model.layers) - 1  # the last depth whose attributes are not the classes
    arrays = invariant_arrays(model, images, j)
    queries = [int((labels == label).nonzero()[0]) for label in sorted({int(one) for one in labels})[:4]]
    shifts = range(arrays.shape[1])
    low, high = (float(value) for value in torch.quantile(arrays.flatten()[:1_000_000], torch.tensor([0.01, 0.99])))
    columns = len(shifts) + 1
    figure, grid = pyplot.subplots(
        2 * len(queries),
        columns,
        figsize=(1.25 * columns, 2.15 * len(queries)),
        height_ratios=[1, 0.62] * len(queries),
        layout="constrained",
        squeeze=False,
    )
    for row, query in enumerate(queries):
        cells = [(query, None)] + [nearest_to_translated(arrays, query, shift) for shift in shifts]
        for column, (index, distance) in enumerate(cells):
            top, bottom = grid[2 * row, column], grid[2 * row + 1, column]
            top.imshow(pixels[index].permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray")
            bottom.imshow(arrays[index].numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto")
            same = labels[index] == labels[query]
            for axes in (top, bottom):
                axes.set(xticks=[], yticks=[])
            for spine in top.spines.values():
                spine.set(color="#009e73" if same else "#d55e00", linewidth=2.5 if column else 0)
            name = classes[int(labels[index])]
            top.set_title(name if distance is None else f"{name} · {distance:.2f}", fontsize=8, pad=3)
            if row == 0:
                head = "query" if distance is None else f"τ = {shifts[column - 1]}"
                top.annotate(
                    head,
                    (0.5, 1.32),
                    xycoords="axes fraction",
                    ha="center",
                    fontsize=9,
                    annotation_clip=False,
                )
        grid[2 * row + 1, 0].set_ylabel(f"v{j - 1}", fontsize=8)
        grid[2 * row + 1, 0].set_xlabel(f"v{j}", fontsize=8)
    figure.suptitle(
        f"Nearest images after translating x̄{j} by τ along v{j - 1}\n"
        "above each: class · distance; frame: green = class of the query, orange = another",
        fontsize=9,
    )
    _save(figure, path)
