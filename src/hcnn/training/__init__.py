"""The training loop and what it needs."""

from hcnn.training.attribute_ties import AttributeTie

__all__ = ["AttributeTie"]
