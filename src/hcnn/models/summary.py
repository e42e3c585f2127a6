"""What a network is made of, layer by layer: sizes, supports, weights, multiply-adds."""

from collections.abc import Sequence

from hcnn.models.counts import LayerRow
from hcnn.models.network import Network


def summarize(model: Network, image_size: Sequence[int]) -> list[LayerRow]:
    """The rows of a network's summary.

    Args:
        model: a network, folded or not, or a baseline.
        image_size: one size per spatial axis.

    Returns:
        One row per layer 1 … J; of a baseline, one per convolution or linear map and one for all normalizations.

    Raises:
        ValueError: if the number of spatial sizes is not the network's.

    Example:
        >>> from hcnn import create_model
        >>> rows = summarize(create_model("hcnn_cifar10"), (32, 32))
        >>> sum(row.composed for row in rows), round(sum(row.multiply_adds for row in rows) / 1e9, 2)
        (97650, 1.93)

    """
    return model.layer_rows(image_size)
