"""Layers of attribute CNNs: thin modules that own parameters and call `hcnn.functional`.

Each computes one ``x_j = ρ(W_j x_{j-1})``: a convolution along space and attributes whose filter index is the new
attribute v_j, a batch normalization per value of v_j, and an ELU. Each can be used alone inside any network.

Law of every layer here: translating its input by ``s · τ`` along an axis that it convolves with stride s translates
its output by τ along that axis, and leaves it unchanged along an axis that it averages out. With ``circular`` this
is exact for every τ; with ``zeros`` it holds for the outputs whose filters do not reach over the border.
`hcnn.testing` asserts it.
"""

from hcnn.layers.base import AttributeLayer, Geometry
from hcnn.layers.block import AttributeBlock
from hcnn.layers.factorized import FactorizedConv
from hcnn.layers.hue import HueConv
from hcnn.layers.log_frequency import LogFrequency
from hcnn.layers.plain import AttributeConv

__all__ = ["AttributeBlock", "AttributeConv", "AttributeLayer", "FactorizedConv", "Geometry", "HueConv", "LogFrequency"]
