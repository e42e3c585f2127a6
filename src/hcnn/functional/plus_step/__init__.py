"""The inner step of HCNN(+) without its Q-fold intermediate."""

from hcnn.functional.plus_step.dispatch import plus_step

__all__ = ["plus_step"]
