"""Where arrays come from: the protocol of a network to explore, and its implementation for attribute networks."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hcnn.functional import marginal
from hcnn.layers.base import AttributeLayer
from hcnn.models.attribute_network import AttributeNetwork

Position = Literal["centre", "mean"]
Move = Callable[[Tensor], Tensor]


class Source(Protocol):
    """A network as the explorer uses it.

    Attributes:
        model: the network, in eval mode.
        boundary: "circular" where whole translations are exact, "zeros" where they are an approximation, "none" where
            channels have no order and translations no meaning (a control).

    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def boundary(self) -> str: ...
    def sizes(self) -> dict[int, tuple[int, int, int]]:
        """Sizes of (v_{j-2}, v_{j-1}, v_j) for every depth j that can be explored."""
        ...

    def attributes(self) -> dict[int, dict[str, int]]:
        """For every depth the attributes that can be translated along, with their numbers of values.

        The classes, v_{J-1}, are not among them: no layer convolves along them, so their order means nothing.

        """
        ...

    def read(self, x: Tensor, position: Position) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits of standardized images, and for each depth x_j without space: (b, v_{j-2}, v_{j-1}, v_j)."""
        ...

    def scores(self, x: Tensor, j: int, moves: Sequence[Move]) -> Tensor:
        """Logits (moves, b, classes) after x_j was moved; a move maps (..., v_{j-2}, v_{j-1}, v_j) to its shape."""
        ...

    def digest(self) -> str:
        """SHA-256 of everything that the arrays depend on, except the images and the position."""
        ...


def attribute_dim(axis: str, j: int, *, newest_at: int) -> int:
    """The dimension of attribute `axis` of x_j, given the dimension of v_j.

    Example:
        >>> attribute_dim("v6", 7, newest_at=-1)
        -2

    """
    back = j - int(axis[1:]) if isinstance(axis, str) and axis[:1] == "v" and axis[1:].isdigit() else -1
    if back not in (0, 1, 2):
        raise ValueError(f"expected an attribute of x_{j}, one of v{j - 2}, v{j - 1}, v{j}; got {axis!r}")
    return newest_at - back


def array_name(axis: str, j: int) -> str:
    """What properties are looked for in along an attribute: x̄_j, or for v_{j-2} x_j, since eq. (9) averages over it.

    Example:
        >>> array_name("v6", 7), array_name("v5", 7)
        ('x̄7', 'x7')

    """
    return f"x{j}" if axis == f"v{j - 2}" else f"x̄{j}"


def at_position(x: Tensor, spatial: int, position: Position) -> Tensor:
    """Take an array at the central position u0 (``size // 2`` on each axis), or average it over u.

    Args:
        x: (b, ..., *u).
        spatial: number of spatial axes.
        position: "centre" or "mean".

    Returns:
        (b, ...).

    Raises:
        ValueError: for another position.

    Example:
        >>> at_position(torch.arange(16.0).reshape(1, 1, 4, 4), 2, "centre")
        tensor([[10.]])

    """
    space = range(x.ndim - spatial, x.ndim)
    if position == "mean":
        return marginal(x, list(space))
    if position != "centre":
        raise ValueError(f"position: expected 'centre' or 'mean'; got {position!r}")
    return x[(..., *(x.shape[axis] // 2 for axis in space))]


def move_attributes(x: Tensor, spatial: int, move: Move) -> Tensor:
    """Apply a move, which expects the attributes last, to an array (b, ..., *u) with so many spatial axes."""
    back, front = tuple(range(-spatial, 0)), tuple(range(1, 1 + spatial))
    return move(x.movedim(back, front)).movedim(front, back)


@dataclass(frozen=True, eq=False)
class AttributeSource:
    """The arrays x_j, 3 ≤ j ≤ J-1, of an attribute network.

    Attributes:
        model: in eval mode.

    Example:
        >>> import hcnn
        >>> source = AttributeSource(hcnn.create_model("hcnn_digits").eval())
        >>> source.sizes()[6]  # v4, v5, and v6 = the classes
        (2, 4, 10)
        >>> logits, arrays = source.read(torch.randn(5, 1, 8, 8), "centre")
        >>> arrays[3].shape
        torch.Size([5, 2, 4, 8])

    """

    model: AttributeNetwork

    @property
    def boundary(self) -> str:
        """As `Source.boundary`."""
        return self.model.config.boundary

    def sizes(self) -> dict[int, tuple[int, int, int]]:
        """As `Source.sizes`."""
        sizes = self.model.attribute_sizes
        return {j: sizes[j - 1][-3:] for j in range(3, len(sizes) + 1)}  # pyright: ignore[reportReturnType]

    def attributes(self) -> dict[int, dict[str, int]]:
        """As `Source.attributes`."""
        last = None if getattr(self.model.config, "readout", "mean") == "linear" else len(self.model.layers)
        return {
            j: {f"v{j - 2 + n}": size for n, size in enumerate(sizes) if not (n == 2 and j == last)}
            for j, sizes in self.sizes().items()
        }

    @torch.no_grad()
    def read(self, x: Tensor, position: Position) -> tuple[Tensor, dict[int, Tensor]]:
        """As `Source.read`; older attributes of a multiscale network are averaged."""
        arrays = {}
        for j, layer in enumerate(self._layers(), 1):
            array, x = _array_and_output(layer, x)
            if j >= 3:
                point = at_position(array.float(), self.model.config.spatial_axes, position)
                arrays[j] = marginal(point, list(range(1, point.ndim - 3)))
        return self.model.readout(x).float(), arrays

    @torch.no_grad()
    def scores(self, x: Tensor, j: int, moves: Sequence[Move]) -> Tensor:
        """As `Source.scores`, by `AttributeNetwork.forward_from`."""
        array = x
        for layer in self._layers()[:j]:
            array, x = _array_and_output(layer, x)
        moved = (move_attributes(array, self.model.config.spatial_axes, move) for move in moves)
        return torch.stack([self.model.forward_from(one, j).float() for one in moved])

    def _layers(self) -> list[AttributeLayer]:
        layers = [layer for layer in self.model.layers if isinstance(layer, AttributeLayer)]
        if len(layers) != len(self.model.layers):
            names = ", ".join(type(layer).__name__ for layer in self.model.layers)
            raise ValueError(f"expected layers of this package, not wrapped; got {names}")
        return layers

    def digest(self) -> str:
        """As `Source.digest`."""
        return weights_digest(self.model, [type(self.model).__name__, asdict(self.model.config)])


def _array_and_output(layer: AttributeLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """x_j, whole, and what the layer gives to the next one; without hooks, which other threads would run into."""
    array = layer.compute(x, average_oldest=False)
    return array, marginal(array, 1) if layer.average_oldest else array


def weights_digest(model: nn.Module, what: Any) -> str:
    """SHA-256 of a network's state and of whatever else its arrays depend on, as JSON."""
    result = hashlib.sha256(json.dumps(what).encode())
    for name, value in sorted(model.state_dict().items()):
        result.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        result.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return result.hexdigest()
