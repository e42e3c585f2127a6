"""The limits of this machine, which the networks are measured against."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hcnn.bench.timing import time_steps


@dataclass(frozen=True)
class Limits:
    """The best that this machine did in a few plain operations.

    Attributes:
        dtype: of the operands.
        convolution: multiply-adds per second of the best layout of a plain convolution 128 → 512, 3×3.
        product: multiply-adds per second of a matrix product of that size.
        copy: bytes per second, read and written, of a large copy.
    """

    dtype: str
    convolution: float
    product: float
    copy: float


@torch.no_grad()
def measure_limits(dtype: torch.dtype, *, device: str = "cpu", images: int = 16) -> Limits:
    """Measure the limits for operands of a type.

    Args:
        dtype: float32 or bfloat16.
        device: type of the device.
        images: batch of the convolution.

    Returns:
        The limits.

    Example:
        >>> measure_limits(torch.float32, images=1).convolution > 0
        True
    """

    def seconds(step: Callable[[], object]) -> float:
        return statistics.median(time_steps([step], rounds=5, device=device)[0])

    x = torch.randn(images, 128, 32, 32, device=device).to(dtype)
    weight = torch.randn(512, 128, 3, 3, device=device).to(dtype)
    work = x[:, 0].numel() * weight.numel()
    rates = []
    for layout in (torch.contiguous_format, torch.channels_last):
        a, w = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        rates.append(work / seconds(lambda a=a, w=w: F.conv2d(a, w, padding=1)))
    left = weight.flatten(1)
    right = torch.randn(left.shape[1], 1024 * max(1, images // 2), device=device).to(dtype)
    product = left.numel() * right.shape[1] / seconds(lambda: left @ right)
    source = torch.zeros(2**24, device=device)
    target = torch.empty_like(source)
    copy = 2 * 4 * source.numel() / seconds(lambda: target.copy_(source))
    return Limits(str(dtype).removeprefix("torch."), max(rates), product, copy)
