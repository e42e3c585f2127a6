"""Distillation from the network of a finished run."""

from torch import nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.text import count_of
from hcnn.training.distillation.losses import Distillation


def load_distillation(settings: RunSettings, student: nn.Module, preprocessing: Preprocessing) -> Distillation:
    """The distillation loss of a run that learns from a teacher.

    Args:
        settings: of the run; names the teacher's run folder.
        student: the network that is trained.
        preprocessing: how images become the student's input.

    Returns:
        The loss, with the teacher loaded onto the student's device.

    Raises:
        ValueError: if the teacher is not a finished run, or does not fit the student, or the recipe does not fit what
            is learned from it.
    """
    assert settings.teacher is not None
    recipe, config = settings.recipe, settings.distillation
    if recipe.compile and (config.attention or config.hints):
        raise ValueError("compile: attention and hints look into the layers of a network that is not compiled")
    if config.hint_epochs >= recipe.epochs:
        raise ValueError(
            f"hint_epochs: expected fewer than the {count_of(recipe.epochs, 'epoch')} of the run, because the class "
            f"layer learns nothing from hints; got {config.hint_epochs}"
        )
    if not (config.labels or config.soft_targets or config.soft_targets_end):
        raise ValueError(
            "labels: expected a positive weight of labels or of soft_targets, because the class layer learns nothing "
            "from maps; got 0 of both"
        )
    run = load_run(settings.teacher)
    device = next(student.parameters()).device
    try:
        found = Distillation(
            run.model.to(device),
            student,
            run.preprocessing,
            preprocessing,
            config,
            precision=recipe.precision,
        )
    except ValueError as error:
        raise ValueError(f"{settings.teacher}: {error}") from None
    for ours, theirs, (_, *size), (_, *wanted) in found.pairs:
        if recipe.image_sizes and config.match == "convolve" and size != wanted:
            raise ValueError(
                f"image_sizes: expected none, because the convolution between {ours} and {theirs} fits images of one "
                f"size only; got {recipe.image_sizes}; --match pool fits them all"
            )
    return found
