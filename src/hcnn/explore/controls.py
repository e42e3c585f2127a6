"""Networks that a finding must beat: one that was not trained, and ones whose channels have no order."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hcnn.explore.sources import Move, Position, Source, at_position, move_attributes, weights_digest
from hcnn.layers.randomness import drawn_from
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.factory import build


@dataclass(frozen=True, eq=False)
class ChannelSource:
    """Channels of any other network, arranged as if they were attributes: a control whose order means nothing.

    Attributes:
        model: maps standardized images to logits; in eval mode.
        layers: for each depth the name of the module whose output (b, c, u1, u2) is used.
        layout: for each depth the sizes (v_{j-2}, v_{j-1}, v_j) that its first channels are arranged in.

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
        if output.shape[1] < a * b * c:
            raise ValueError(f"{self.layers[j]}: expected {a}·{b}·{c} = {a * b * c} channels; got {output.shape[1]}")
        return output[:, : a * b * c].unflatten(1, (a, b, c))

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
    def scores(self, x: Tensor, j: int, moves: Sequence[Move]) -> Tensor:
        """As `Source.scores`; the whole network runs once per move."""
        results = []
        for move in moves:

            def change(j: int, module: nn.Module, inputs: Any, output: Tensor, move: Move = move) -> Tensor:
                cut = self._cut(output, j)
                moved = move_attributes(cut, cut.ndim - 4, move).flatten(1, 3)
                return torch.cat([moved, output[:, moved.shape[1] :]], 1)

            with self._hooked(change, [j]):
                results.append(self.model(x).float())
        return torch.stack(results)

    def digest(self) -> str:
        """As `Source.digest`."""
        return weights_digest(
            self.model, [type(self.model).__name__, sorted(self.layers.items()), sorted(self.layout.items())]
        )


def channels_like(model: nn.Module, like: Source, x: Tensor) -> ChannelSource:
    """Arrange the channels of an ordinary CNN as a control for an attribute network.

    For each depth a module at the same relative depth is chosen that has enough channels for (v_{j-1}, v_j). Its
    channels fill as many such arrays as possible, one for each value of v_{j-2}. Modules that run twice are not used.

    Args:
        model: maps standardized images to logits; in eval mode.
        like: the source that gives the sizes of the attributes.
        x: one or two standardized images, (b, c, u1, u2), which show the output of each module.

    Returns:
        The source; channels beyond a multiple of the array size are ignored.

    Raises:
        ValueError: if no module has enough channels.

    Example:
        >>> import hcnn
        >>> from hcnn.explore.sources import AttributeSource
        >>> net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.Conv2d(32, 80, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> like = AttributeSource(hcnn.create_model("hcnn_digits").eval())
        >>> channels_like(net.eval(), like, torch.randn(1, 1, 8, 8)).sizes()
        {3: (1, 4, 8), 4: (1, 4, 8), 5: (2, 4, 8), 6: (2, 4, 10)}

    """
    runs: list[tuple[str, int]] = []

    def see(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == x.ndim and output.shape[2:].numel() > 1:
            runs.append((name, output.shape[1]))

    handles = [one.register_forward_hook(partial(see, name)) for name, one in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    once = [(name, count) for name, count in runs if sum(name == other for other, _ in runs) == 1]
    layers, layout, sizes = {}, {}, like.sizes()
    for place, (j, (_, b, c)) in enumerate(sizes.items()):
        able = [(name, count) for name, count in once if count >= b * c]
        if not able:
            raise ValueError(
                f"{type(model).__name__}: expected a module of {b}·{c} = {b * c} channels or more for x{j}"
            )
        name, count = able[round(place * (len(able) - 1) / max(len(sizes) - 1, 1))]
        layers[j], layout[j] = name, (count // (b * c), b, c)
    return ChannelSource(model, layers, layout)


@torch.no_grad()
def untrained_like(model: AttributeNetwork, images: Tensor, *, seed: int = 0, batch: int = 100) -> AttributeNetwork:
    """A network of the same configuration that was not trained: the control for the effect of training.

    Its weights are freshly initialized. Its normalizations use statistics of the images, because without them an
    untrained network would not be comparable.

    Args:
        model: the network whose configuration is used.
        images: standardized, (n, c, *u), a few hundred.
        seed: random seed for the initialization.
        batch: images per step, at most.

    Returns:
        A new network in eval mode.

    """
    with drawn_from(torch.Generator().manual_seed(seed)):
        fresh = build(model.config).to(images.device)
    fresh.train()
    momenta = [module for module in fresh.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    for module in momenta:
        module.momentum = None  # a plain mean over the batches
        module.reset_running_stats()
    for part in images.tensor_split(math.ceil(len(images) / batch)):  # alike in size, because they count alike
        fresh(part)
    return fresh.eval()
