"""Convolution along space and attributes, in two exact forms: dense and spectral."""
