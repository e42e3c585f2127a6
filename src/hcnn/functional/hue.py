"""Turns of colours about the grey axis: the group that hue is."""

import torch
from torch import Tensor

TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def hue_matrices(degrees: Tensor) -> Tensor:
    """Turns of colours about the grey axis, at equal luminance: rotations of (I, Q), the chrominance of NTSC's YIQ.

    A positive turn carries red towards blue. The matrices themselves are not rotations, because RGB axes are not
    orthogonal in YIQ.

    Law: ``hue_matrices(a) @ hue_matrices(b) == hue_matrices(a + b)``, of period 360, and grey stays grey.

    Args:
        degrees: (n,).

    Returns:
        float64 (n, 3, 3), from RGB to RGB.

    Example:
        >>> third = hue_matrices(torch.tensor([120.0]))[0]
        >>> torch.allclose(third @ third @ third, torch.eye(3, dtype=torch.float64))
        True
        >>> torch.allclose(third.sum(1), torch.ones(3, dtype=torch.float64))
        True
        >>> (third @ torch.tensor([1.0, 0.0, 0.0]).double()).round(decimals=1)  # red becomes blue
        tensor([0.1000, 0.2000, 1.5000], dtype=torch.float64)

    """
    yiq = torch.tensor(TO_YIQ, dtype=torch.float64, device=degrees.device)
    angle = degrees.double().deg2rad()
    zero, one, c, s = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    turn = torch.stack([one, zero, zero, zero, c, -s, zero, s, c], 1).unflatten(1, (3, 3))
    return torch.linalg.inv(yiq) @ turn @ yiq
