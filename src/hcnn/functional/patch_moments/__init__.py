"""Mean and covariance of all spatial patches of an array."""

from hcnn.functional.patch_moments.dispatch import patch_moments

__all__ = ["patch_moments"]
