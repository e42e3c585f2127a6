"""The optimizers of a recipe, as torch ships them, behind one small interface whose state is plain data."""

# PyTorch exports its functions on lists of tensors under private names only.
# pyright: reportPrivateImportUsage=false

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from hcnn.training.recipe import Recipe


class RecipeOptimizer:
    """SGD, AdamW or Muon over a network's parameters that get gradients, with one learning rate.

    Weights with more than one axis decay; normalizations, biases and the logit scale do not. Muon orthogonalizes
    matrices, so a filter bank (k, …) is shown to it as a matrix (k, everything else); parameters with fewer than two
    axes then learn by SGD, at `SIDE_RATE` times Muon's rate.

    Args:
        model: the network.
        recipe: names the optimizer and its settings.
        factors: of the learning rate, by parameter; 1 for all others.
        capturable: `step` takes its rate as a tensor on the device and never waits for it, as a CUDA graph wants.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = RecipeOptimizer(model, Recipe(optimizer="muon"))
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step(0.1)
        >>> optimizer.zero_grad()
        >>> model.weight.grad is None
        True
    """

    # A Muon step changes a weight matrix by about lr in spectral norm, by more where it has more rows than columns;
    # vectors want about the rate plain SGD would take.
    SIDE_RATE = 2.0

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        factors: Mapping[nn.Parameter, float] | None = None,
        *,
        capturable: bool = False,
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        wide = [p for p in self.parameters if p.ndim > 1]
        narrow = [p for p in self.parameters if p.ndim <= 1]
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        sgd: dict[str, Any] = {"momentum": recipe.momentum, "nesterov": recipe.nesterov and recipe.momentum > 0}
        adam: dict[str, Any] = {"betas": (recipe.momentum, 0.99)}
        if capturable:  # the fused ones read a rate that is a tensor where it lies
            sgd["fused"] = adam["fused"] = adam["capturable"] = True
        factors = factors or {}
        decayed = [*_groups(wide, factors, weight_decay=recipe.weight_decay), *_groups(narrow, factors)]
        self._optimizers: list[torch.optim.Optimizer] = []
        self._rates = [1.0]
        if recipe.optimizer == "sgd":
            self._optimizers.append(torch.optim.SGD(decayed, lr=recipe.lr, **sgd))
        elif recipe.optimizer == "adamw":
            self._optimizers.append(torch.optim.AdamW(decayed, lr=recipe.lr, **adam))
        else:
            # These share the memory of the parameters, whatever their memory format is.
            self._matrices = [(p, nn.Parameter(_in_memory_order(p.detach(), p).view(len(p), -1))) for p in wide]
            settings: dict[str, Any] = {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
            of_matrices = {matrix: factors.get(p, 1.0) for p, matrix in self._matrices}
            self._rates = []
            if wide:  # where layers are frozen, there may be none
                groups = _groups([*of_matrices], of_matrices, weight_decay=recipe.weight_decay)
                self._optimizers.append(torch.optim.Muon(groups, lr=recipe.lr, **settings))
                self._rates.append(1.0)
            if narrow:
                self._optimizers.append(torch.optim.SGD(_groups(narrow, factors), lr=recipe.lr, **sgd))
                self._rates.append(self.SIDE_RATE)
        # Kept here, because the groups of an optimizer are replaced by those of a checkpoint.
        self._factors = [[group.pop("factor") for group in one.param_groups] for one in self._optimizers]

    def step(self, lr: float | Tensor) -> None:
        """Update the parameters from their gradients at this learning rate."""
        for parameter, matrix in self._matrices:
            grad = parameter.grad
            matrix.grad = None if grad is None else _in_memory_order(grad, parameter).reshape(matrix.shape)
        for optimizer, rate, factors in zip(self._optimizers, self._rates, self._factors, strict=True):
            if isinstance(lr, Tensor) and isinstance(optimizer, torch.optim.Muon):
                self._step_muon(optimizer, factors, lr)
                continue
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = lr * (rate * factor)
            optimizer.step()

    @torch.no_grad()
    def _step_muon(self, muon: torch.optim.Muon, factors: list[float], lr: Tensor) -> None:
        """Muon's step with a rate on the device, which `torch.optim.Muon` reads on the host; only CUDA graphs take it.

        Matrices of one shape are orthogonalized together, because hundreds of launches one after the other would take
        a GPU longer than what they compute. Both ways compute in bfloat16 and round in different places: for random
        matrices on a CPU they differ by 3 to 7 %, and are 4 % (this one) and 2 % away from float64.
        """
        for group, factor in zip(muon.param_groups, factors, strict=True):
            rate, momentum = lr * factor, group["momentum"]
            for matrices in _by_shape([matrix for matrix in group["params"] if matrix.grad is not None]):
                grads = [matrix.grad for matrix in matrices if matrix.grad is not None]
                for matrix in matrices:
                    if not muon.state[matrix]:
                        muon.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                averages = [muon.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(averages, grads, 1 - momentum)
                wanted = torch._foreach_lerp(grads, averages, momentum) if group["nesterov"] else averages
                orthogonal = torch.func.vmap(
                    lambda one, group=group: _zeropower_via_newtonschulz(
                        one, group["ns_coefficients"], group["ns_steps"], group["eps"]
                    )
                )(torch.stack([*wanted]))
                adjusted = rate * _adjust_lr(1.0, group["adjust_lr_fn"], matrices[0].shape)
                torch._foreach_mul_(matrices, 1 - rate * group["weight_decay"])
                torch._foreach_sub_(matrices, [*(adjusted * orthogonal).unbind()])

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for parameter in self.parameters:
            parameter.grad = None
        for _, matrix in self._matrices:
            matrix.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        """The state that a checkpoint needs for an exact resume."""
        states = [optimizer.state_dict() for optimizer in self._optimizers]
        for state in states:
            for group in state["param_groups"]:
                group["lr"] = float(group["lr"])
        return states

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Resume from `state_dict`."""
        for optimizer, one in zip(self._optimizers, state, strict=True):
            # A graph may be used from now on, or no more. By these, PyTorch puts AdamW's counts of steps on the device.
            own = {key: optimizer.defaults[key] for key in ("fused", "capturable") if key in optimizer.defaults}
            optimizer.load_state_dict(one | {"param_groups": [group | own for group in one["param_groups"]]})


def _in_memory_order(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor with the axes behind the first in the order in which those of a parameter lie in memory."""
    return tensor.permute(0, *sorted(range(1, parameter.ndim), key=parameter.stride, reverse=True))


def _by_shape(matrices: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Matrices of equal shape together."""
    found: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        found.setdefault(matrix.shape, []).append(matrix)
    return found.values()


def _groups(
    parameters: Sequence[nn.Parameter], factors: Mapping[nn.Parameter, float], weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups by the factor of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [{"params": found, "weight_decay": weight_decay, "factor": factor} for factor, found in groups.items()]


class WeightAverage:
    """Exponential moving average of a network's floating-point state: ``a ← decay · a + (1 - decay) · w``.

    The average starts as the first state it sees. Running statistics are averaged too, as they belong to the weights.

    Args:
        model: the network.
        decay: per step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current weights."""
        averaged, current = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.state[name])
                current.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - self.decay)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from a saved `state`."""
        for name, value in state.items():
            self.state[name].copy_(value)
