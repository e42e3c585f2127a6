"""Batch normalization followed by ELU and, if wanted, the mean over the oldest attribute."""

from hcnn.functional.normalize_elu.dispatch import batch_normalize_elu, channel_statistics, normalize_elu

__all__ = ["batch_normalize_elu", "channel_statistics", "normalize_elu"]
