"""The teacher of a run: another run."""

from torch import nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings
from hcnn.training.distillation.losses import Distillation


def load_distillation(settings: RunSettings, student: nn.Module, preprocessing: Preprocessing) -> Distillation:
    """The teacher of a run, ready to teach this student.

    Raises:
        ValueError: if there is no such run, or it cannot teach this student.
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
