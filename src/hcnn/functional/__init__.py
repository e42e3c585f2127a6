"""Pure functions on attribute arrays: convolution, patch moments, translation, marginals.

One grammar of axes holds throughout the package::

    x : (b, *v, *u)    b batch · v attributes, oldest first, newest last · u spatial axes

Nothing here owns a parameter or keeps state between calls.
"""

from hcnn.functional.attribute_conv.choose import Method, check_method, choose_method, choose_plus_method
from hcnn.functional.attribute_conv.conv import attribute_conv, conv_matrix
from hcnn.functional.attribute_conv.dense import bands, dense_weight, placement
from hcnn.functional.attribute_conv.native_cost import native_supports
from hcnn.functional.attribute_conv.spectral import plus_transforms
from hcnn.functional.axes import (
    BOUNDARIES,
    CONVOLUTIONS,
    Boundary,
    axis_names,
    check_boundary,
    marginal,
    pad_spatial,
    per_axis,
    translate,
)
from hcnn.functional.native.library import description as native_description
from hcnn.functional.native.library import native_available, native_disabled
from hcnn.functional.patch_moments.dispatch import patch_moments

__all__ = [
    "BOUNDARIES",
    "CONVOLUTIONS",
    "Boundary",
    "Method",
    "attribute_conv",
    "axis_names",
    "bands",
    "check_boundary",
    "check_method",
    "choose_method",
    "choose_plus_method",
    "conv_matrix",
    "dense_weight",
    "marginal",
    "native_available",
    "native_description",
    "native_disabled",
    "native_supports",
    "pad_spatial",
    "patch_moments",
    "per_axis",
    "placement",
    "plus_transforms",
    "translate",
]
