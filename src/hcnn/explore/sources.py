"""Where arrays come from: an attribute network, or, as a control, unordered channels of any other network."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hcnn.functional import marginal
from hcnn.networks import AttributeNetwork, build

Position = Literal["centre", "mean"]
Move = Callable[[Tensor], Tensor]


class Source(Protocol):
    """What the explorer asks of a network.

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

        The classes, v_{J-1}, are none: no layer convolves along them, so that their order means nothing.

        """
        ...

    def read(self, x: Tensor, position: Position) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits of standardized images, and for each depth x_j without space: (b, v_{j-2}, v_{j-1}, v_j)."""
        ...

    def scores(self, x: Tensor, j: int, axis: str, moves: Sequence[Move]) -> Tensor:
        """Logits (moves, b, classes) after x_j was moved along an axis; a move takes and gives (..., values)."""
        ...

    def digest(self) -> str:
        """SHA-256 of everything that the arrays depend on, beside the images and the position."""
        ...


def attribute_dim(axis: str, j: int, *, newest_at: int) -> int:
    """Where attribute `axis` of x_j stands, given the dimension at which v_j does.

    Example:
        >>> attribute_dim("v6", 7, newest_at=-1)
        -2

    """
    back = j - int(axis[1:]) if axis[:1] == "v" and axis[1:].isdigit() else -1
    if back not in (0, 1, 2):
        raise ValueError(f"expected an attribute of x_{j}, one of v{j - 2}, v{j - 1}, v{j}; got {axis!r}")
    return newest_at - back


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
        for j, layer in enumerate(self.model.layers, 1):
            x = layer(x)
            if j >= 3:
                point = at_position(x.float(), self.model.config.spatial_axes, position)
                arrays[j] = marginal(point, list(range(1, point.ndim - 3)))
        return self.model.readout(x).float(), arrays

    @torch.no_grad()
    def scores(self, x: Tensor, j: int, axis: str, moves: Sequence[Move]) -> Tensor:
        """As `Source.scores`, by `AttributeNetwork.forward_from`."""
        for layer in list(self.model.layers)[:j]:
            x = layer(x)
        dim = attribute_dim(axis, j, newest_at=-1 - self.model.config.spatial_axes)
        moved = (move(x.movedim(dim, -1)).movedim(-1, dim) for move in moves)
        return torch.stack([self.model.forward_from(one, j).float() for one in moved])

    def digest(self) -> str:
        """As `Source.digest`."""
        return _digest(self.model, [type(self.model).__name__, asdict(self.model.config)])


@dataclass(frozen=True, eq=False)
class ChannelSource:
    """Channels of any other network, laid out as if they were attributes: the control whose order means nothing.

    Attributes:
        model: maps standardized images to logits; in eval mode.
        layers: for each depth the name of the module whose output (b, c, u1, u2) is taken.
        layout: for each depth the sizes (v_{j-2}, v_{j-1}, v_j) that its c channels are cut into; their product is c.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        >>> source = ChannelSource(net.eval(), {3: "1"}, {3: (2, 4, 8)})
        >>> source.read(torch.randn(5, 1, 8, 8), "centre")[1][3].shape
        torch.Size([5, 2, 4, 8])

    """

    model: nn.Module
    layers: Mapping[int, str]
    layout: Mapping[int, tuple[int, int, int]]

    def __post_init__(self) -> None:
        if set(self.layers) != set(self.layout):
            raise ValueError(f"expected a layer and a layout for each depth; got {[*self.layers]} and {[*self.layout]}")
        known = dict(self.model.named_modules())
        if wrong := [name for name in self.layers.values() if name not in known]:
            raise ValueError(f"expected names of modules of {type(self.model).__name__}; there is no {wrong}")

    @property
    def boundary(self) -> str:
        """As `Source.boundary`."""
        return "none"

    def sizes(self) -> dict[int, tuple[int, int, int]]:
        """As `Source.sizes`."""
        return dict(self.layout)

    def attributes(self) -> dict[int, dict[str, int]]:
        """As `Source.attributes`, by position in the layout."""
        return {j: {f"v{j - 2 + n}": size for n, size in enumerate(sizes)} for j, sizes in self.layout.items()}

    def _cut(self, output: Tensor, j: int) -> Tensor:
        a, b, c = self.layout[j]
        if output.shape[1] != a * b * c:
            raise ValueError(f"{self.layers[j]}: expected {a}·{b}·{c} = {a * b * c} channels; got {output.shape[1]}")
        return output.reshape(output.shape[0], a, b, c, *output.shape[2:])

    @contextmanager
    def _hooked(self, hook: Callable[..., Tensor | None], depths: Sequence[int]) -> Iterator[None]:
        modules = dict(self.model.named_modules())
        handles = [modules[self.layers[j]].register_forward_hook(partial(hook, j)) for j in depths]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def read(self, x: Tensor, position: Position) -> tuple[Tensor, dict[int, Tensor]]:
        """As `Source.read`."""
        arrays: dict[int, Tensor] = {}

        def keep(j: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
            cut = self._cut(output, j).float()
            arrays[j] = at_position(cut, cut.ndim - 4, position)

        with self._hooked(keep, list(self.layers)):
            logits = self.model(x).float()
        return logits, arrays

    @torch.no_grad()
    def scores(self, x: Tensor, j: int, axis: str, moves: Sequence[Move]) -> Tensor:
        """As `Source.scores`; the whole network runs once per move."""
        results = []
        for move in moves:

            def change(j: int, module: nn.Module, inputs: Any, output: Tensor, move: Move = move) -> Tensor:
                cut = self._cut(output, j)
                dim = attribute_dim(axis, j, newest_at=3)
                return move(cut.movedim(dim, -1)).movedim(-1, dim).reshape(output.shape)

            with self._hooked(change, [j]):
                results.append(self.model(x).float())
        return torch.stack(results)

    def digest(self) -> str:
        """As `Source.digest`."""
        return _digest(
            self.model, [type(self.model).__name__, sorted(self.layers.items()), sorted(self.layout.items())]
        )


def _digest(model: nn.Module, what: Any) -> str:
    result = hashlib.sha256(json.dumps(what).encode())
    for name, value in sorted(model.state_dict().items()):
        result.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        result.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


@torch.no_grad()
def untrained_like(model: AttributeNetwork, images: Tensor, *, seed: int = 0, batch: int = 100) -> AttributeNetwork:
    """A network of the same configuration that has learned nothing: the control for "it is training that does it".

    Its weights are fresh; its normalizations have seen the images, since without statistics an untrained network
    would not be comparable.

    Args:
        model: what it is like.
        images: standardized, (n, c, *u), a few hundred.
        seed: of the initialization.
        batch: images per step.

    Returns:
        A new network in eval mode.

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build(model.config).to(images.device)
    fresh.train()
    momenta = [module for module in fresh.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    for module in momenta:
        module.momentum = None  # a plain mean over the batches
        module.reset_running_stats()
    for part in images.split(batch):
        fresh(part)
    return fresh.eval()
