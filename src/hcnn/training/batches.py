"""What each step of training sees: which images, how they are augmented, and their targets."""

import math
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.augment import augment
from hcnn.data.preprocessing import Preprocessing
from hcnn.data.splits import epoch_order
from hcnn.training.attribute_loss import ArrayLoss
from hcnn.training.recipe import Recipe, image_size

_AHEAD = 1 << 26  # bytes of images that are augmented at once, before steps that a graph runs


class Batches:
    """The batches of every epoch, a process's share of each.

    Everything random in them derives from (seed, epoch, index of the image), so that they do not depend on the batches
    before.

    Args:
        images: uint8 (n, c, *u), on the training device.
        labels: int64 (n,).
        preprocessing: of the images.
        recipe: how to train.
        seed: of order and augmentation.
        dtype: of the network's parameters.
        rank: of this process.
        processes: each takes an equal, contiguous share of each batch.
        weights: of the images (n,), or None.
        arrays: what gives images their counterparts, where attributes are tied.

    Attributes:
        count: batches in an epoch.
        largest: the longest side of the images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        preprocessing: Preprocessing,
        recipe: Recipe,
        *,
        seed: int,
        dtype: torch.dtype,
        rank: int,
        processes: int,
        weights: Tensor | None,
        arrays: ArrayLoss | None,
    ) -> None:
        self.images, self.labels, self.preprocessing, self.recipe = images, labels, preprocessing, recipe
        self.seed, self.dtype, self.rank, self.processes = seed, dtype, rank, processes
        self.weights, self.arrays = weights, arrays
        self.count, self.largest = len(images) // recipe.batch_size, max(images.shape[2:])
        self._order: tuple[int, Tensor] = (-1, labels)
        # epoch and side length, first batch, the one after the last, and their inputs
        self._made: tuple[tuple[int, int | None], int, int, list[Tensor]] = ((-1, None), 0, 0, [])

    def order(self, epoch: int) -> Tensor:
        """The images of an epoch by their numbers, in order, on their device."""
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self.images), self.seed, epoch).to(self.images.device))
        return self._order[1]

    def indices(self, epoch: int, batch: int) -> Tensor:
        """The numbers of the images of this process's share."""
        share = self.recipe.batch_size // self.processes
        start = batch * self.recipe.batch_size + self.rank * share
        return self.order(epoch)[start : start + share]

    def parts(self, epoch: int, batch: int) -> list[Tensor]:
        """The inputs of a batch, for each of the parts whose gradients are accumulated in turn."""
        chunks = self.indices(epoch, batch).chunk(self.recipe.accumulate)
        return [part for index in chunks for part in self.inputs(index, epoch, batch)]

    def ahead(self, epoch: int, batch: int) -> list[Tensor]:
        """What `parts` gives for a recipe of one part, made for some batches at once.

        A graph is one launch, beside which the host would take longer for the hundred small operations of a batch's
        augmentation than the device for the whole step. Images are augmented by their own numbers, so nothing else
        changes; only mixup and CutMix look at a neighbour, which a batch of even length does not leave.
        """
        size = self.recipe.batch_size
        side = self._side(epoch, batch)
        made, start, until, inputs = self._made
        if made != (epoch, side) or not start <= batch < until:
            most = max(1, _AHEAD // (4 * size * self.images[0].numel()))
            following = range(batch, min(batch + most, self.count))
            start, until = batch, batch + sum(1 for _ in takewhile(lambda n: self._side(epoch, n) == side, following))
            index = torch.cat([self.indices(epoch, n) for n in range(start, until)])
            inputs = self.inputs(index, epoch, batch)
            self._made = ((epoch, side), start, until, inputs)
        return [one.narrow(0, (batch - start) * size, size) for one in inputs]

    def inputs(self, index: Tensor, epoch: int, batch: int) -> list[Tensor]:
        """Augmented images and their targets; with ties their counterparts too, as `ArrayLoss.pairs` gives them.

        Args:
            index: numbers of the images.
            epoch: decides with the numbers how they are augmented.
            batch: decides with the epoch which size they have.
        """
        x, targets = augment(
            self.preprocessing.standardize(self.images[index]).to(self.dtype),
            self.labels[index],
            classes=len(self.preprocessing.classes),
            augmentation=self.recipe.augmentation,
            seed=self.seed,
            epoch=epoch,
            index=index,
        )
        if self.weights is not None:  # cross-entropy is linear in the targets
            smooth = self.recipe.label_smoothing
            targets = (targets * (1 - smooth) + smooth / targets.shape[1]) * self.weights[index, None]
        if (side := self._side(epoch, batch)) is not None:
            sides = [max(1, round(one * side / self.largest)) for one in x.shape[2:]]
            x = F.interpolate(x, sides, mode=("linear", "bilinear", "trilinear")[x.ndim - 3])
        x, *more = [x] if self.arrays is None else self.arrays.pairs(x, seed=self.seed, epoch=epoch, index=index)
        if self.recipe.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return [x, targets, *more]

    def places_of_each_size(self) -> list[tuple[int, int]]:
        """An epoch and a batch of each size that the images have in the course of training."""
        steps = self.count * self.recipe.epochs
        starts = (0, *(math.ceil(until * steps) for until in self.recipe.image_sizes_until))
        found = [divmod(start, self.count) for start in starts if start < steps]
        return [*{self._side(epoch, batch): (epoch, batch) for epoch, batch in found}.values()]

    def _side(self, epoch: int, batch: int) -> int | None:
        """The longest side of the images of a batch, or None for their own."""
        side = image_size(self.recipe, epoch * self.count + batch, self.count * self.recipe.epochs)
        return None if side is None or side >= self.largest else side
