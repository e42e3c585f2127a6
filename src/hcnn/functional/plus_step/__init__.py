"""The inner step of HCNN(+) without its Q-fold intermediate, by one matrix or per frequency of the attributes."""

from hcnn.functional.plus_step.dispatch import plus_step, spectral_plus_step

__all__ = ["plus_step", "spectral_plus_step"]
