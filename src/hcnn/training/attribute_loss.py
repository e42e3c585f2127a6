"""Losses on the arrays of a network: how far a change is from a translation, how unlike neighbouring values are."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hcnn.data.counter_random import counter_uniform
from hcnn.data.preprocessing import Preprocessing
from hcnn.data.signal_changes import StandardizedChange
from hcnn.functional.shifts import translation_distances
from hcnn.layers import AttributeLayer
from hcnn.layers.normalization import mean_over_group
from hcnn.training.attribute_ties import AttributeTie, check_ties

_AMOUNT, _WHICH, _SWAP, _NOISE = 64, 65, 66, 67  # streams of random numbers, apart from those of augmentation
_TEMPERATURE = 0.5  # of the cross-entropy over translations; this and the next were chosen on validation images
_ERROR = 0.3  # weight of the equivariance error beside it


def translation_losses(
    changed: Tensor,
    arrays: Tensor,
    axis: int,
    amounts: Tensor,
    others: Sequence[int] = (),
    weight: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """How far a change of images is from a translation of their arrays, and how hard that is to tell from others.

    The relative equivariance error is ``Σ ‖x_j(P_a x) - T_{v,τ} x_j(x)‖² / Σ ‖x_j(P_a x) - mean‖²``, sums over images,
    which is 1 where the translated array says no more than the mean array (of all images, whatever their weight). The
    second is the mean over images of a cross-entropy over translations s, ``-log p(0)`` with
    ``p(s) ∝ exp(-D(s) / (t · mean of D))``, D as in `translation_distances` and t = 0.5. Unlike the error it is large
    for arrays that do not vary along v, at any scale: the log of the number of translations.

    Args:
        changed: arrays of changed images, (n, …).
        arrays: those of the images themselves.
        axis: dimension of the attribute v.
        amounts: τ of each image, (n,).
        others: dimensions of other attributes, along which translations compete too.
        weight: (n,), of each image; 1 if None.
        group: processes that have equal shares of the images; sums are over all of them.

    Returns:
        The error and the cross-entropy; both are 0 where all weights are.

    Example:
        >>> x = torch.randn(20, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> by_two = torch.full((20,), 2.0)
        >>> [[round(float(one), 2) for one in translation_losses(y, x, 2, by_two)] for y in (x.roll(2, 2), x)]
        [[0.0, 0.57], [2.01, 2.78]]

    """
    changed, arrays = changed.float(), arrays.float()
    distances, norms = translation_distances(changed, arrays, axis, amounts, others)
    flat = changed.flatten(1)
    mean = mean_over_group(flat.mean(0), group)
    least = norms.detach()[:, None].clamp_min(1e-12)  # differences of products that are smaller are their rounding
    spread = (norms - 2 * (flat @ mean) + mean.square().sum()).maximum(1e-6 * least[:, 0])
    scale = _TEMPERATURE * distances.mean(1, keepdim=True).maximum(1e-4 * least)
    entropy = -(-distances / scale).log_softmax(1)[:, 0]
    weight = torch.ones_like(norms) if weight is None else weight
    sums = torch.stack([(weight * one).sum() for one in (distances[:, 0], spread, entropy, torch.ones_like(norms))])
    sums = mean_over_group(sums, group)
    error, whole, entropy, count = sums.clamp_min(1e-12)
    given = sums[3] > 0  # a factor, because a CUDA graph takes no branches
    return given * error / whole, given * entropy / count


def roughness(arrays: Tensor, axis: int, group: dist.ProcessGroup | None = None) -> Tensor:
    """Squared differences of neighbouring values of an attribute over those of all pairs; 1 if their order is random.

    `hcnn.explore.statistics.roughness` measures the same on a trained network.

    Args:
        arrays: any array.
        axis: dimension of the attribute, of 4 values or more.
        group: processes that have equal shares of the arrays.

    Returns:
        A scalar.

    Example:
        >>> wave = torch.cos(torch.arange(8) * torch.pi / 4)
        >>> round(float(roughness(wave, 0)), 3), round(float(roughness(wave[[0, 4, 1, 5, 2, 6, 3, 7]], 0)), 3)
        (0.256, 1.312)

    """
    x = arrays.float()
    size = x.shape[axis]
    neighbours = (x - x.roll(1, axis)).square().mean()
    pairs = 2 * size / (size - 1) * (x - x.mean(axis, keepdim=True)).square().mean()
    neighbours, pairs = mean_over_group(torch.stack([neighbours, pairs]), group)
    return neighbours / pairs.clamp_min(1e-12)


class ArrayLoss:
    """Ties properties of the input to attributes of a network, and makes neighbouring values alike.

    Each image of a batch draws one of the ties and an amount. The image and its changed copy both pass the layers up
    to the deepest tied one; from there on only one of the two, drawn at random, continues to the classes, which learn
    from unchanged and changed images alike. So a step costs the plain one and once more the tied layers.

    Args:
        model: an attribute network.
        ties: the properties and attributes.
        topography: weight of the mean `roughness`, over all layers and all their attributes of 4 values or more.
        preprocessing: of its inputs.
        pixels: the smallest and the largest value of a pixel, which counts where inputs are not bytes.
        group: the processes that train together, or None.

    Raises:
        ValueError: if the network cannot learn a tie, or has no attributes.

    """

    def __init__(
        self,
        model: nn.Module,
        ties: Sequence[AttributeTie],
        topography: float,
        preprocessing: Preprocessing,
        pixels: tuple[float, float] = (0.0, 1.0),
        group: dist.ProcessGroup | None = None,
    ) -> None:
        check_ties(ties, model, len(preprocessing.size))
        layers: Any = getattr(model, "layers", ())
        if not (len(layers) and all(isinstance(layer, AttributeLayer) for layer in layers)):
            raise ValueError(f"topography: expected a network with attributes; got a {type(model).__name__}")
        self.ties, self.topography, self.group = tuple(ties), topography, group
        self.spatial = len(preprocessing.size)
        self.change = StandardizedChange(preprocessing, pixels)
        self._layers: list[AttributeLayer] = list(layers)
        self._deepest = max((tie.depth for tie in ties), default=0)
        self._axes = _ordered_axes(model) if topography else []
        self._kept: dict[int, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}

    def pairs(self, x: Tensor, *, seed: int, epoch: int, index: Tensor) -> list[Tensor]:
        """Images with their counterparts, a pure function of (seed, epoch, index of the image).

        Args:
            x: standardized (b, c, *u), augmented.
            seed: of the run.
            epoch: number of the epoch.
            index: int64 (b,), the index of each image in the training set.

        Returns:
            Without ties, x alone. Else (2 b, c, *u), first the images that reach the classes; for each of them the
            number of its tie (b,); and the amount (b,), float64, by which it differs from its counterpart.

        """
        if not self.ties:
            return [x]
        which = self.drawn(seed=seed, epoch=epoch, index=index)
        bounds = torch.tensor([tie.bounds() for tie in self.ties], dtype=torch.float64, device=x.device)[which]
        amounts = torch.lerp(bounds[:, 0], bounds[:, 1], counter_uniform(seed, epoch, index, _AMOUNT).double())
        changed = x
        for number, tie in enumerate(self.ties):
            pattern = self._pattern(x, seed, epoch, index) if tie.property == "noise" else None
            one = self.change(x, tie.property, amounts.where(which == number, 0.0), pattern)
            changed = one.where(_column(which == number, x), changed)
        swap = counter_uniform(seed, epoch, index, _SWAP) < 0.5
        first, second = changed.where(_column(swap, x), x), x.where(_column(swap, x), changed)
        return [torch.cat([first, second]), which, amounts.where(swap, -amounts)]

    def drawn(self, *, seed: int, epoch: int, index: Tensor) -> Tensor:
        """The number of the tie that each image draws, in the shape of `index`; arguments as of `pairs`."""
        count = len(self.ties)
        return (counter_uniform(seed, epoch, index, _WHICH) * count).long().clamp_(max=count - 1)

    def _pattern(self, x: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Noise of deviation 1 for each image."""
        count = x[0].numel()
        place = index[:, None] * count + torch.arange(count, device=x.device)
        radius, angle = (counter_uniform(seed, epoch, place, _NOISE + k) for k in range(2))
        normal = (-2 * (1 - radius).log()).sqrt() * (2 * torch.pi * angle).cos()  # Box and Muller
        return normal.reshape(x.shape).to(x.dtype)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the arrays of a forward pass, and let only the first half of a batch with counterparts pass on."""
        with ExitStack() as stack:
            for depth in {tie.depth for tie in self.ties}:
                handle = self._layers[depth - 1].register_array_hook(_keep(self._kept, depth))
                stack.callback(handle.remove)
            if self._deepest:
                stack.callback(self._layers[self._deepest - 1].register_forward_hook(_first_half).remove)
            for depth in {depth for depth, _ in self._axes}:
                handle = self._layers[depth - 1].register_forward_hook(_keep(self._outputs, depth))
                stack.callback(handle.remove)
            yield

    def loss(self, which: Tensor | None = None, amounts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss of the arrays of the pass that was watched, which are forgotten.

        Each tie asks for its translation in x_j, and in x̄_j too, the mean over the oldest attribute, which is all that
        the next layer sees: in it, changes that are exact translations for each value of v_{j-2} may cancel.

        Args:
            which: as `pairs` gave it.
            amounts: as `pairs` gave it.

        Returns:
            The weighted sum, and the relative equivariance error of each tie, (ties,), detached. A tie that no image
            drew adds nothing, and its error is 0.

        """
        errors, terms = [], []
        for number, tie in enumerate(self.ties):
            assert which is not None
            assert amounts is not None
            array = self._kept[tie.depth]
            mine = None if len(self.ties) == 1 else (which == number).float()
            if self.change.properties[tie.property].moves:
                moved = self._moved(array[len(which) :], tie, amounts if mine is None else amounts * mine)
                array = torch.cat([array[: len(which)], moved])
            first, second = self._fewer_places(array).chunk(2)
            axis = self._axis(array, tie)
            shifts = tie.shift(amounts, array.shape[axis])
            named = [other for other in self.ties if other.weight and other.depth == tie.depth]
            others = sorted({self._axis(array, other) for other in named} - {axis})
            error, entropy = translation_losses(first, second, axis, shifts, others, mine, self.group)
            errors.append(error)
            losses = [(error, entropy)]
            if tie.weight and axis != 1 and self._layers[tie.depth - 1].average_oldest:
                left = [other - 1 for other in others if other != 1]
                means = first.mean(1), second.mean(1)
                losses.append(translation_losses(*means, axis - 1, shifts, left, mine, self.group))
            terms += [tie.weight * (entropy + _ERROR * error) for error, entropy in losses if tie.weight]
        rough = [
            roughness(self._outputs[depth], self._outputs[depth].ndim - self.spatial - 1 - back, self.group)
            for depth, back in self._axes
        ]
        self._kept.clear()
        self._outputs.clear()
        terms += [self.topography * torch.stack(rough).mean()] if rough else []
        total = torch.stack(terms).sum() if terms else torch.zeros((), device=None if which is None else which.device)
        return total, torch.stack(errors).detach() if errors else total.new_zeros(0)

    def _fewer_places(self, arrays: Tensor) -> Tensor:
        """Every n-th place along the first spatial axis, 8 and 256 in all at least: neighbours are alike."""
        sides = arrays.shape[arrays.ndim - self.spatial :]
        step = max(1, min(sides[0] // 8, math.prod(sides) // 256))
        return arrays[(..., slice(None, None, step), *[slice(None)] * (self.spatial - 1))].float()

    def _axis(self, array: Tensor, tie: AttributeTie) -> int:
        """The dimension of the attribute of a tie in x_j."""
        return array.ndim - self.spatial - 1 - (tie.depth - int(tie.attribute[1:]))

    def _moved(self, arrays: Tensor, tie: AttributeTie, amounts: Tensor) -> Tensor:
        """Arrays turned or stretched in space as their images are."""
        maps = arrays.float().flatten(1, arrays.ndim - self.spatial - 1)  # (b, c, *u)
        return self.change.properties[tie.property].change(maps, amounts).reshape(arrays.shape)


def _ordered_axes(model: Any) -> list[tuple[int, int]]:
    """(j, i) for each attribute v_{j-i} of 4 values or more in what layer j returns, without the classes."""
    found, last = [], len(model.layers)
    for depth, (layer, sizes) in enumerate(zip(model.layers, model.attribute_sizes, strict=True), 1):
        kept = sizes[1:] if layer.average_oldest else sizes
        for back, size in enumerate(reversed(kept)):
            classes = depth == last and back == 0 and getattr(model.config, "readout", "mean") == "mean"
            if size >= 4 and not classes:
                found.append((depth, back))
    return found


def _column(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _keep(kept: dict[int, Tensor], depth: int) -> Any:
    """A hook on the array of a layer or on what it returns, which is its last argument either way."""

    def keep(*given: Any) -> None:
        kept[depth] = given[-1]

    return keep


def _first_half(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output[: len(output) // 2]
