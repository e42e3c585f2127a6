"""Hierarchical Attribute CNNs (Jacobsen, Oyallon, Mallat, Smeulders 2017) for PyTorch."""

__version__ = "0.1.0"
