"""Distillation from the network of a finished run."""

from torch import nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
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
        ValueError: if the teacher is not a finished run, or does not fit the student.
    """
    assert settings.teacher is not None
    if settings.recipe.compile and (settings.distillation.attention or settings.distillation.hints):
        raise ValueError("compile: attention and hints look into the layers of a network that is not compiled")
    run = load_run(settings.teacher)
    device = next(student.parameters()).device
    try:
        return Distillation(
            run.model.to(device),
            student,
            run.preprocessing,
            preprocessing,
            settings.distillation,
            precision=settings.recipe.precision,
        )
    except ValueError as error:
        raise ValueError(f"{settings.teacher}: {error}") from None
