"""The law of a named attribute: how much class scores can change with a property that is tied to a translation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn.explore.sources import attribute_dim
from hcnn.functional.shifts import shift_each
from hcnn.models.attribute_network import AttributeNetwork


@dataclass(frozen=True)
class ScoreBound:
    """For each image, the change of its class scores and what bounds it; norms are Euclidean.

    Attributes:
        change: ``‖f(P_a x) - f(x)‖`` of the logits, (n,).
        error: ``‖x_j(P_a x) - T x_j(x)‖``, (n,).
        lipschitz: the largest singular value of the Jacobian of the scores as a function of x_j, on the line between
            these two arrays, (n,).
        flat: ``‖f(T x_j) - f(x_j)‖``, (n,): 0 for the translations that `invariant_shift` names.

    """

    change: Tensor
    error: Tensor
    lipschitz: Tensor
    flat: Tensor

    @property
    def bound(self) -> Tensor:
        """``lipschitz · error + flat``, which `change` does not exceed, (n,)."""
        return self.lipschitz * self.error + self.flat


def score_bound(
    model: AttributeNetwork, x: Tensor, changed: Tensor, j: int, axis: str, shifts: Tensor, *, points: int = 9
) -> ScoreBound:
    """Bound the change of class scores by the equivariance error of an attribute.

    With F the scores as a function of x_j, ``f(P_a x) - f(x) = [F(x_j(P_a x)) - F(T x_j(x))] + [F(T x_j) - F(x_j)]``.
    The first difference is at most the length of the line between both arrays times the largest norm of the Jacobian
    on it. The second is 0 by Proposition 3.1 where the network is periodic and the shift a multiple of
    `AttributeNetwork.invariant_shift`.

    Args:
        model: in eval mode.
        x: standardized images (n, c, *u).
        changed: the same images, changed.
        j: depth.
        axis: the attribute, such as "v3".
        shifts: τ of each image, (n,).
        points: number of points on each line at which the Jacobian's norm, which is exact there, is measured.

    Returns:
        The change, the bound, and its parts.

    Raises:
        ValueError: for an attribute that x_j does not have.

    Example:
        >>> import hcnn
        >>> model = hcnn.create_model("hcnn_digits", boundary="circular").eval()
        >>> x = torch.randn(4, 1, 8, 8)
        >>> found = score_bound(model, x, x + 0.1, 3, "v2", torch.zeros(4))
        >>> bool((found.change <= found.bound * 1.01).all()), bool((found.flat == 0).all())
        (True, True)

    """
    with torch.no_grad():
        (before, arrays), (after, others) = (model(one, return_arrays=True) for one in (x, changed))
        array, end = arrays[j].values, others[j].values
        dim = attribute_dim(axis, j, newest_at=array.ndim - model.config.spatial_axes - 1)
        start = shift_each(array, dim, shifts)
        flat = torch.where(shifts == 0, 0.0, (model.forward_from(start, j) - before).norm(dim=1))
    largest = torch.zeros(len(x), dtype=before.dtype, device=x.device)
    for place in torch.linspace(0, 1, points).tolist():
        largest = torch.maximum(largest, _jacobian_norm(model, torch.lerp(start, end, place), j))
    return ScoreBound((after - before).norm(dim=1), (end - start).flatten(1).norm(dim=1), largest, flat)


def _jacobian_norm(model: AttributeNetwork, array: Tensor, j: int) -> Tensor:
    """The largest singular value of each image's Jacobian of the scores, from one backward pass for each class."""
    array = array.detach().requires_grad_()
    scores = model.forward_from(array, j)
    rows = [
        torch.autograd.grad(scores[:, k].sum(), array, retain_graph=True)[0].flatten(1) for k in range(scores.shape[1])
    ]
    jacobian = torch.stack(rows, 1)  # (n, classes, all of x_j)
    return torch.linalg.eigvalsh(jacobian @ jacobian.mT)[:, -1].clamp_min(0).sqrt()
