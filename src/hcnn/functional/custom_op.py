"""Operators with gradients of their own that work inside `torch.func`, `torch.compile` and `torch.jit.trace` alike."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def define_operator(
    name: str,
    forward: Callable[P, R],
    backward: Callable[..., Any],
    fake: Callable[..., R],
    *,
    keep: Sequence[int] = (),
) -> Callable[P, R]:
    """Make a differentiable operator of two plain functions that autograd and compilers do not look into.

    Autograd would keep every intermediate of every tile, and a compiler would take the loops apart. So the pair is
    registered twice: as a custom operator, which compilers and tracers keep whole, and as an autograd function, which
    `torch.func` can transform and which costs less to call. `torch.func.vmap` takes it entry by entry.

    Args:
        name: of the operator, `torch.ops.hcnn.<name>`; its gradient is `<name>_backward`.
        forward: the function itself. The annotations of both functions become the operators' schemas.
        backward: from the gradients of all results, then all inputs, then the results in `keep`, to the gradients of
            the first inputs: as many as it returns, contiguous, each in the shape and type of its input.
        fake: from the inputs to empty results of the right shapes and types.
        keep: which results the backward pass needs, by number.

    Returns:
        The operator, to be called with positional arguments. It has no second derivatives and none in forward mode.

    Example:
        >>> def double(x: Tensor) -> Tensor:
        ...     return x * 2
        >>> def double_backward(grad: Tensor, x: Tensor) -> Tensor:
        ...     return grad * 2
        >>> operator = define_operator("doctest_double", double, double_backward, torch.empty_like)
        >>> torch.func.grad(lambda x: operator(x).sum())(torch.ones(2))
        tensor([2., 2.])

    """
    operator, results = _opaque(name, forward, fake)

    def like_inputs(*given: Any) -> Any:
        found = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in given[results:][:gradients]]
        return tuple(found) if gradients > 1 else found[0]

    backward_operator, gradients = _opaque(f"{name}_backward", backward, like_inputs)

    def refuse(ctx: Any, *grad_inputs: Any) -> Any:
        raise NotImplementedError(
            f"hcnn::{name}: expected first derivatives by backward passes; second ones, and those in forward mode, are "
            "not implemented. A folded float64 network without an inner ELU whose layers have method='dense' has both"
        )

    class Gradient(_Mapped):
        """The backward pass, which has no gradient in turn."""

        @staticmethod
        def forward(*inputs: Any) -> Any:  # pyright: ignore
            return backward(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            """Keep nothing."""

        backward = jvp = staticmethod(refuse)

    class Operator(_Mapped):
        @staticmethod
        def forward(*inputs: Any) -> Any:  # pyright: ignore
            return forward(*inputs)  # pyright: ignore

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            given = (*inputs, *(outputs[place] for place in keep))
            ctx.save_for_backward(*(one for one in given if isinstance(one, Tensor)))
            ctx.settings = [None if isinstance(one, Tensor) else one for one in given]
            ctx.count = len(inputs)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            plain = not (torch.is_grad_enabled() or is_transformed())
            return gradients_of(backward if plain else Gradient.apply, ctx, grads)

        jvp = staticmethod(refuse)

    class Plain(torch.autograd.Function):
        """As `Operator`, for calls outside of `torch.func`: PyTorch then has no signature to look up at each call."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs)  # pyright: ignore
            Operator.setup_context(ctx, inputs, output)
            return output

        backward, jvp = Operator.backward, staticmethod(refuse)

    def gradients_of(run: Callable[..., Any], ctx: Any, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        given = [next(saved) if one is None else one for one in ctx.settings]
        found = run(*(one.contiguous() for one in grads), *given)
        found = found if isinstance(found, tuple) else (found,)
        return *found, *[None] * (ctx.count - len(found))

    operator.register_autograd(
        lambda ctx, *grads: gradients_of(backward_operator, ctx, grads), setup_context=Operator.setup_context
    )

    types = [str(one.type) for one in getattr(torch.ops.hcnn, name).default._schema.arguments]

    def call(*inputs: Any) -> Any:
        if is_traced():
            inputs = tuple(map(_numbers, inputs, types))
        if is_recorded(inputs[0]):
            return operator(*inputs)
        return (Operator if is_transformed() else Plain).apply(*inputs)

    return call  # pyright: ignore


def _numbers(value: Any, kind: str) -> Any:
    """An argument with the integers of its schema, where a tracer gives sizes as tensors."""
    return [int(one) for one in value] if kind == "List[int]" else int(value) if kind == "int" else value


def is_traced() -> bool:
    """Whether `torch.jit.trace` records operators now."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]


def is_recorded(x: Tensor) -> bool:
    """Whether a compiler or tracer records operators now: it should see the operator itself, not its body."""
    if torch.compiler.is_compiling() or is_traced():
        return True
    return type(x) not in (Tensor, torch.nn.Parameter)  # a tensor without values, or one with rules of its own


def _opaque(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> tuple[Any, int]:
    """A custom operator of a function, and how many results it has."""
    operator = torch.library.custom_op(f"hcnn::{name}", function, mutates_args=())
    operator.register_fake(fake)
    operator.register_vmap(lambda info, in_dims, *inputs: _entry_by_entry(function, info, in_dims, *inputs))
    return operator, len(getattr(torch.ops.hcnn, name).default._schema.returns)


class _Mapped(torch.autograd.Function):
    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:  # pyright: ignore
        return _entry_by_entry(cls.apply, info, in_dims, *inputs)


def _entry_by_entry(function: Callable[..., Any], info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
    """The rule of an operator under `torch.func.vmap`: one entry of the mapped axis after the other, then stacked."""
    results = []
    for index in range(info.batch_size):
        pairs = zip(inputs, in_dims, strict=True)
        results.append(function(*(one.select(dim, index) if isinstance(dim, int) else one for one, dim in pairs)))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(one) for one in zip(*results, strict=True)), (0,) * len(results[0])
