"""What inference layers make of their weights and keep from one call to the next."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hcnn.functional.custom_op import is_recorded


class Kept:
    """What was made of some tensors, kept as long as those have the same values.

    The values themselves are compared: pointers and version counters do not tell of changes through ``.data``, NumPy
    views or fused optimizers, and a new tensor can get the address of an old one. Comparing values costs far less
    than making the result again.
    """

    def __init__(self) -> None:
        self._state: tuple[tuple[Tensor, ...], tuple[object, ...], Any] = (), (), None

    def get(self, make: Callable[[], Any], sources: Sequence[Tensor], *settings: object) -> Any:
        """What `make` returns, made now unless it was made of equal sources with equal settings.

        Args:
            make: from the sources and settings, which it knows itself.
            sources: tensors.
            *settings: what else it depends on.

        Returns:
            The same object as the time before, if possible; not to be changed.
        """
        if not all(map(_comparable, sources)):
            return make()
        settings = (*settings, *((one.dtype, one.device, one.shape) for one in sources))
        of, known, made = self._state
        if known != settings or not all(map(torch.equal, of, sources)):
            with torch.inference_mode(False), torch.no_grad():
                made = make()
                self._state = tuple(one.detach().clone() for one in sources), settings, made
        return made

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        """Copies and files are empty."""
        return Kept, ()


def _comparable(x: Tensor) -> bool:
    """Whether comparing values is allowed and cheap: on the CPU, without a tracer, a transform or gradients."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or is_recorded(x):  # compilers know nothing of the next line
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
