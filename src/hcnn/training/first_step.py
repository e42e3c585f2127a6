"""Before the first step: images and networks that do not fit are refused, and a network is prepared for a recipe."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.layers.randomness import drawn_from
from hcnn.training.device import is_out_of_memory
from hcnn.training.recipe import Recipe
from hcnn.training.whitening import start_by_whitening

WHITENED_IMAGES = 1000  # whose patches whitening looks at: about a million of them at 32×32


def check_batch(recipe: Recipe, images: int, processes: int) -> None:
    """Refuse batches that cannot be taken from the images, or not be divided without changing what is learned.

    Args:
        recipe: how to train.
        images: number of training images.
        processes: that train together.

    Raises:
        ValueError: if there are fewer images than one batch, its parts are not of one size, or mixup and CutMix, which
            combine neighbours, would leave an image of every part by itself.
    """
    size, parts = recipe.batch_size, processes * recipe.accumulate
    if images < size:
        raise ValueError(f"batch_size: {size} is more than the {images} training images")
    split = f"{processes} processes times {recipe.accumulate} accumulated parts"
    if size % parts:
        raise ValueError(f"batch_size: {size} does not divide into {split}")
    if parts > 1 and size // parts % 2 and (recipe.augmentation.mixup or recipe.augmentation.cutmix):
        raise ValueError(
            f"batch_size: mixup and cutmix combine pairs of images, and {split} of {size} images have {size // parts} "
            f"each; expected a multiple of {2 * parts}"
        )


def check_labels(images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Refuse labels that are not those of the images.

    Args:
        images: (n, c, *u).
        labels: int64 (n,).
        classes: names of the classes.

    Raises:
        ValueError: if they are not tensors, not one whole number per image, or not below the number of classes.
    """
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: expected a tensor; got a {type(value).__name__}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels: expected int64 ({len(images)},), one per image; got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= len(classes):
        raise ValueError(f"labels: expected 0 to {len(classes) - 1}, as there are classes; got {lowest} to {highest}")


def check_weights(weights: Tensor, labels: Tensor) -> None:
    """Refuse weights that are not those of the images.

    Args:
        weights: (n,).
        labels: (n,).

    Raises:
        ValueError: if they are not a tensor, not one positive, finite number per image.
    """
    if not isinstance(weights, Tensor) or weights.shape != labels.shape:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else f"a {type(weights).__name__}"
        raise ValueError(f"weights: expected a tensor {tuple(labels.shape)}, one per image; got {got}")
    if not bool((weights.isfinite() & (weights > 0)).all()):
        raise ValueError("weights: expected positive, finite numbers; leave out the images whose weight is 0")


def check_learnable(images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Refuse training images from which nothing can be learned.

    Args:
        images: (n, c, *u).
        labels: int64 (n,).
        classes: names of the classes.

    Raises:
        ValueError: if the images show one class only, or no channel varies.
    """
    shown = labels.unique().tolist()
    if len(shown) < 2:
        names = ", ".join(repr(classes[label]) for label in shown)
        raise ValueError(f"expected training images of at least two classes; all {len(images)} are of class {names}")
    others = [axis for axis in range(images.ndim) if axis != 1]
    if bool((images.amin(others) == images.amax(others)).all()):
        raise ValueError(f"expected training images that differ; all {len(images)} have the same constant colour")


def prepare_network(model: nn.Module, images: Tensor, preprocessing: Preprocessing, recipe: Recipe) -> None:
    """Give a network what a recipe says of it: the start of its first layer, and the momentum of its statistics.

    Args:
        model: the network; it is changed.
        images: the training images (n, c, *u).
        preprocessing: of the images.
        recipe: the recipe.

    Raises:
        ValueError: if the network has no first layer that could be whitened.
    """
    if recipe.first_layer == "whitening":
        step = -(-len(images) // WHITENED_IMAGES)  # evenly spaced: a folder's images are sorted by class
        start_by_whitening(model, preprocessing.standardize(images[::step]))
    if recipe.statistics_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.momentum = recipe.statistics_momentum


def try_step(model: nn.Module, x: Tensor, classes: int, *, bfloat16: bool) -> None:
    """Classify a few images in training mode, so that what does not fit is refused before training.

    Nothing of it is kept: running statistics are copies, and nothing is drawn from the global random state.

    Args:
        model: the network.
        x: standardized images (b, c, *u).
        classes: how many logits are expected.
        bfloat16: whether convolutions are computed in it.

    Raises:
        ValueError: if the network does not take the images, or gives something else.
    """
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    training = model.training
    try:
        with (
            torch.no_grad(),
            drawn_from(torch.Generator(x.device)),
            torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16),
        ):
            logits = torch.func.functional_call(model.train(), buffers, (x,))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"the network does not fit images of shape {tuple(x.shape[1:])}: {error}") from error
    finally:
        model.train(training)
    if logits.shape != (len(x), classes):
        raise ValueError(f"expected logits ({len(x)}, {classes}) of {len(x)} images; got {tuple(logits.shape)}")
