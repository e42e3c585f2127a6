"""Operators with gradients of their own that work inside `torch.func` and `torch.compile` alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def entry_by_entry(function: Callable[..., Any], info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
    """The rule of an operator under `torch.func.vmap`: one entry of the mapped axis after the other, then stacked."""
    results = []
    for index in range(info.batch_size):
        pairs = zip(inputs, in_dims, strict=True)
        results.append(function(*(one.select(dim, index) if isinstance(dim, int) else one for one, dim in pairs)))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(one) for one in zip(*results, strict=True)), (0,) * len(results[0])


class Gradient(torch.autograd.Function):
    """The gradient of an operator as an autograd function, which `torch.func` can transform.

    What `torch.library.register_autograd` makes serves `torch.compile`, which wants an operator that it need not look
    into, but cannot be transformed by `torch.func`. `differentiable` takes the one that fits; both share
    `setup_context` and `backward`, and `forward` is the operator's plain function.
    """

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:  # pyright: ignore
        """Apply to each entry, and stack."""
        return entry_by_entry(cls.apply, info, in_dims, *inputs)


class Once(Gradient):
    """A gradient itself, which has no gradient in turn."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Second derivatives are not there."""
        raise NotImplementedError("second derivatives of this package's operators are not implemented")


def differentiable(operator: Any, function: type[Gradient], *inputs: Any) -> Any:
    """Call an operator with its gradient: itself where a compiler looks, else by its autograd function."""
    return operator(*inputs) if torch.compiler.is_compiling() else function.apply(*inputs)


def opaque(name: str, function: Callable[..., Any]) -> Any:
    """A custom operator of a plain function, which a compiler does not look into; vmap takes it entry by entry."""
    operator = torch.library.custom_op(name, function, mutates_args=())
    operator.register_vmap(lambda info, in_dims, *inputs: entry_by_entry(function, info, in_dims, *inputs))
    return operator
