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

# Whether whole channels are dropped, and whether mean and deviation are kept, as SELU wants.
_DROPOUT = {
    F.dropout: (False, False),
    F.dropout1d: (True, False),
    F.dropout2d: (True, False),
    F.dropout3d: (True, False),
    F.alpha_dropout: (False, True),
    F.feature_alpha_dropout: (True, True),
}


class _FromGenerator(TorchFunctionMode):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return self._dropout(func, *args, **kwargs)
        if func in _DRAWING and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)

    def _dropout(
        self, func: Any, x: Tensor, p: float = 0.5, training: bool | None = None, inplace: bool = False
    ) -> Tensor:
        """Dropout as in `torch.nn.functional`, which takes no generator; the same numbers on a CPU."""
        channels, alpha = _DROPOUT[func]
        if training is None:
            training = not alpha  # their defaults differ
        if not training or p == 0:
            return x
        if p == 1:
            return x.mul_(torch.zeros_like(x)) if inplace else x * torch.zeros_like(x)
        single = (func, x.ndim) in ((F.dropout1d, 2), (F.dropout3d, 4))  # without a batch
        lead = 1 if single else 2
        noise = x.new_empty([*x.shape[:lead], *[1] * (x.ndim - lead)]) if channels else torch.empty_like(x)
        noise.bernoulli_(1 - p, generator=self.generator)
        if not alpha:
            noise.div_(1 - p)
            return x.mul_(noise) if inplace else x * noise
        dropped = 1.7580993408473766  # -SELU(-∞)
        scale = ((dropped**2 * p + 1) * (1 - p)) ** -0.5
        offset = (noise - 1).mul_(dropped * scale).add_(dropped * scale * p)
        noise.mul_(scale)
        return (x.mul_(noise) if inplace else x * noise).add_(offset)


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


@contextmanager
def to_be_replaced() -> Iterator[None]:
    """Build networks whose weights are replaced afterwards: on the CPU, and the global random state is left alone.

    Weights that are loaded lie on the CPU, whatever PyTorch's default device is, and a generator of the CPU draws only
    there.

    Example:
        >>> before = torch.get_rng_state()
        >>> with torch.device("meta"), to_be_replaced():
        ...     layer = torch.nn.Linear(3, 2)
        >>> layer.weight.device, bool((torch.get_rng_state() == before).all())
        (device(type='cpu'), True)
    """
    with torch.device("cpu"), drawn_from(torch.Generator()):
        yield
