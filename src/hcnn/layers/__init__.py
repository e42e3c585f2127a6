"""Layers of attribute CNNs: thin modules that own parameters and call `hcnn.functional`."""

from hcnn.layers.block import AttributeBlock
from hcnn.layers.factorized import AttributeConv, FactorizedConv
from hcnn.layers.log_frequency import LogFrequency

__all__ = ["AttributeBlock", "AttributeConv", "FactorizedConv", "LogFrequency"]
