"""Random numbers from a generator of one's own, where PyTorch would draw from the global one.

Initializations and dropout of `torch.nn` draw from the global random state, which all threads share. Seeding it, even
within `torch.random.fork_rng`, lets threads disturb each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWING = {
    *(getattr(Tensor, name) for name in (
        "bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "multinomial", "normal_",
        "random_", "uniform_",
    )),
    *(getattr(torch, name) for name in (
        "bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm",
    )),
    *(getattr(nn.init, name) for name in (
        "kaiming_normal_", "kaiming_uniform_", "normal_", "orthogonal_", "sparse_", "trunc_normal_", "uniform_",
        "xavier_normal_", "xavier_uniform_",
    )),
}  # fmt: skip


class _FromGenerator(TorchFunctionMode):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func in _DRAWING and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """`torch.nn.functional.dropout`, which takes no generator; the same numbers on a CPU."""
        if not training or p == 0:
            return x
        keep = torch.zeros_like(x) if p == 1 else torch.empty_like(x).bernoulli_(1 - p, generator=self.generator)
        keep = keep if p == 1 else keep.div_(1 - p)
        return x.mul_(keep) if inplace else x * keep


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[torch.Generator]:
    """Let this thread draw initial weights and dropout from a generator; the global random state is left alone.

    A network that is built within it has the weights that ``torch.manual_seed`` with the same seed would give.

    Args:
        generator: on the device of the tensors that are drawn.

    Example:
        >>> with drawn_from(torch.Generator().manual_seed(0)):
        ...     first = torch.nn.Linear(3, 2)
        >>> with drawn_from(torch.Generator().manual_seed(0)):
        ...     second = torch.nn.Linear(3, 2)
        >>> bool((first.weight == second.weight).all())
        True
    """
    with _FromGenerator(generator):
        yield generator
