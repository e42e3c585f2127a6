"""The defaults of `hcnn train` for a folder or an .npz file: size, network, batch size, epochs, validation images."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from hcnn.data import datasets
from hcnn.data.image_files import Size, height_and_width
from hcnn.data.image_folders import FolderSurvey, survey_folder
from hcnn.models.registry import model_config, recommended_recipe
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe

SMALLEST, LARGEST, SHARED_AT_MOST = 8, 32, 64
_STEPS, _EPOCHS_AT_MOST = 1000, 200
_STEPS_OF_AN_EPOCH, _BATCH_AT_LEAST = 8, 8
_FEW = 1000  # training images


@dataclass(frozen=True)
class Suggestion:
    """Defaults for a folder of images, or an .npz file.

    Attributes:
        image_size: (height, width) to which the images of a folder are resized; None for an .npz file.
        model: the named network.
        recipe: how to train it.
        recipe_name: the named recipe that it was made from.
        validation: number of training images to hold out.
        reason: a sentence for the user.
        hint: what would probably be better, or "".
    """

    image_size: tuple[int, int] | None
    model: str
    recipe: Recipe
    recipe_name: str
    validation: int
    reason: str
    hint: str = ""


def suggest(
    folder: Path,
    image_size: Size | None = None,
    model: str | None = None,
    validation: int | None = None,
    why: str = "as requested",
) -> Suggestion:
    """Look at a folder of images, or an .npz file, and choose defaults for training on it.

    If all images have one size, with sides of 8 to 64 pixels, it is kept. Otherwise they are resized to squares whose
    side is the median of their shorter sides, rounded down to a multiple of 8, between 8 and 32: the sizes for which
    the named networks were made. Up to 16 pixels the network is hcnn_digits, above that hcnn_small_cifar10. A folder
    with few images gets smaller batches, a lower learning rate and more epochs, see `for_few_images`. If a folder has
    neither validation nor test images, a fifth of its images is held out for validation. The same holds for an .npz
    file, except that its images keep their size.

    Args:
        folder: folder or file, as `hcnn.data.datasets.load` takes it.
        image_size: the side of the images, or (height, width), if the user gave one.
        model: the named network, if the user gave one.
        validation: number of images to hold out, if the user gave one.
        why: where the image size comes from.

    Returns:
        The choice.

    Raises:
        ValueError: if the folder does not have one of these layouts, or there is no such model.

    """
    survey = survey_folder(folder) if folder.is_dir() else _survey_file(folder)
    shorter = sorted(min(pair) for pair in survey.sizes)
    median = shorter[len(shorter) // 2] if shorter else LARGEST
    shared = survey.sizes[0] if len(set(survey.sizes)) == 1 else None
    done = "resized to"
    chosen: tuple[int, ...]
    if not folder.is_dir():
        chosen, done, why = survey.sizes[0], "kept at", "their own size"
    elif size := height_and_width(image_size):
        chosen = size
    elif shared and min(shared) >= SMALLEST and max(shared) <= SHARED_AT_MOST:
        chosen, done, why = shared, "kept at", "their own size"
    else:
        side = min(max(median // 8 * 8, SMALLEST), LARGEST)
        chosen, why = (side, side), f"the median of the shorter sides is {median}; --image-size changes this"
    small = max(chosen) <= 16 and len(chosen) == 2
    model = model or ("hcnn_digits" if small else "hcnn_small_cifar10")
    name = recommended_recipe(model_config(model), "digits" if small else "fast")
    if validation is None:
        validation = 0 if survey.has_other_splits else min(survey.images // 5, survey.images - survey.classes)
    recipe, train = get_recipe(name), max(1, survey.images - validation)
    recipe = for_few_images(recipe, train)
    classes, images = survey.classes, survey.images
    reason = (
        f"{folder.name}: {images:,} training image{'s' * (images != 1)} of {classes} class{'es' * (classes != 1)}, "
        f"{'grey' if survey.grey else 'colour'}, {done} {'x'.join(map(str, chosen))} ({why})"
    )
    if validation:
        reason += f"; {validation:,} of them held out for validation"
    hint = ""
    if model == "hcnn_small_cifar10" and train < _FEW:
        hint = (
            f"hint: with fewer than {_FEW:,} training images, starting from trained weights is usually better: "
            "--init hcnn_small_cifar10"
        )
    resized = (chosen[0], chosen[1]) if folder.is_dir() else None
    return Suggestion(resized, model, recipe, name, validation, reason, hint)


def _survey_file(path: Path) -> FolderSurvey:
    splits = datasets.load(path)
    images, others = splits.train.images, splits.validation is not None or splits.test is not None
    return FolderSurvey(
        len(images), len(splits.train.classes), (tuple(images.shape[2:]),), images.shape[1] == 1, others
    )


def for_few_images(recipe: Recipe, images: int) -> Recipe:
    """The recipe for a training set, which may be too small for the batches of the recipe.

    An epoch has at least 8 steps where batches of 8 images allow it, and the whole training at least 1,000 steps, in
    at most 200 epochs. Muon's learning rate falls with the square root of the batch size; that of SGD stays, because
    400 digits were not classified better with a lower one. What was tried is in results/small-sets.

    Args:
        recipe: for many images.
        images: number of training images.

    Example:
        >>> recipe = for_few_images(get_recipe("fast"), 400)
        >>> recipe.batch_size, recipe.lr, recipe.epochs
        (50, 0.035, 125)
        >>> for_few_images(get_recipe("fast"), 50_000) == get_recipe("fast")
        True
    """
    batch = min(recipe.batch_size, max(images // _STEPS_OF_AN_EPOCH, _BATCH_AT_LEAST), max(images, 1))
    lr = recipe.lr
    if recipe.optimizer == "muon" and batch < recipe.batch_size:
        lr = float(f"{lr * math.sqrt(batch / recipe.batch_size):.2g}")
    epochs = min(max(recipe.epochs, math.ceil(_STEPS / max(1, images // batch))), _EPOCHS_AT_MOST)
    return replace(recipe, batch_size=batch, lr=lr, epochs=epochs)
