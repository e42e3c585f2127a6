"""The inner step of HCNN(+) without its Q-fold intermediate, by one matrix or per frequency of the attributes."""

from hcnn.functional.plus_step.dispatch import plus_step, spectral_plus_step
from hcnn.functional.plus_step.native import native_plus_step, native_plus_weight
from hcnn.functional.plus_step.step import (
    PlusMatrix,
    attribute_plus_step,
    native_plus_available,
    plus_matrix,
    plus_method,
)

__all__ = [
    "PlusMatrix",
    "attribute_plus_step",
    "native_plus_available",
    "native_plus_step",
    "native_plus_weight",
    "plus_matrix",
    "plus_method",
    "plus_step",
    "spectral_plus_step",
]
