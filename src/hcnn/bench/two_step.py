"""The baseline: the network computed in the order of the paper's equations, with PyTorch's own layers.

Every factorized layer takes two steps: convolve along space with h, normalize, (ELU,) transpose, convolve along the
attributes with g, transpose back, normalize, ELU. This is a direct translation of the published code. It is as fast as
that order allows: batched convolutions, no loops, and no copies that the order does not require.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.functional import CONVOLUTIONS, marginal, pad_spatial
from hcnn.layers import AttributeConv, FactorizedConv, HueConv
from hcnn.models.attribute_network import AttributeNetwork


def _convolve(x: Tensor, weight: Tensor, stride: Sequence[int], boundary: str) -> Tensor:
    margins = [k // 2 for k in weight.shape[2:]]
    if boundary == "circular":
        x, margins = pad_spatial(x, margins, "circular"), [0] * len(margins)
    return CONVOLUTIONS[len(margins)](x, weight, stride=tuple(stride), padding=tuple(margins))


class TwoStepConv(nn.Module):
    """A convolution along (u, v) with plain filters as one convolution over all axes, as for W_1 and W_2."""

    def __init__(self, layer: AttributeConv) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(layer.weight.detach().clone()), nn.BatchNorm1d(len(layer.weight))
        self.norm.load_state_dict(layer.norm.state_dict())
        g = layer.geometry
        self.stride, self.boundary, self.channels, self.attributes = g.stride, g.boundary, g.channels, g.attributes

    def forward(self, x: Tensor) -> Tensor:
        if self.channels is None:  # (b, *v, *u): all axes are convolved, the one input channel is new
            y = _convolve(x[:, None], self.weight[:, None], self.stride, self.boundary)  # (b, k, *v', *u')
        else:
            y = _convolve(x, self.weight, self.stride, self.boundary)  # (b, k, *u')
        y = F.elu(self.norm(y.flatten(2)).reshape(y.shape))
        return y.movedim(1, 1 + self.attributes)  # (b, *v', k, *u')


class TwoStepFactorized(nn.Module):
    """A factorized layer, eq. (8), in its two steps."""

    def __init__(self, layer: FactorizedConv) -> None:
        super().__init__()
        self.h, self.g = nn.Parameter(layer.h.detach().clone()), nn.Parameter(layer.g.detach().clone())
        self.inner_norm = nn.BatchNorm1d(len(layer.h), affine=layer.inner_norm.affine)
        self.norm = nn.BatchNorm1d(len(layer.g))
        self.inner_norm.load_state_dict(layer.inner_norm.state_dict())
        self.norm.load_state_dict(layer.norm.state_dict())
        g = layer.geometry
        self.stride, self.boundary, self.spatial, self.attributes = g.stride, g.boundary, g.spatial, g.attributes
        self.average_oldest, self.inner_elu = layer.average_oldest, layer.inner_elu

    def forward(self, x: Tensor) -> Tensor:
        n, b, sizes = self.attributes, x.shape[0], x.shape[1 : 1 + self.attributes]
        maps = x.reshape(-1, 1, *x.shape[1 + n :])  # (b·v, 1, *u)
        z = _convolve(maps, self.h[:, None], [1] * self.spatial, self.boundary)  # (b·v, q, *u)
        z = self.inner_norm(z.flatten(2)).reshape(z.shape)
        if self.inner_elu:
            z = F.elu(z)
        for axis, s in enumerate(self.stride[n:]):  # g is pointwise in space: positions it skips are dropped
            if s > 1:
                z = z[(slice(None),) * (2 + axis) + (slice(None, None, s),)]
        space = z.shape[2:]
        z = z.reshape(b, *sizes, len(self.h), -1)  # (b, *v, q, u')
        z = z.movedim(-1, 1).movedim(-1, 2).reshape(-1, len(self.h), *sizes)  # (b·u', q, *v)
        y = _convolve(z, self.g, self.stride[:n], self.boundary)  # (b·u', k, *v')
        y = F.elu(self.norm(y.flatten(2)).reshape(y.shape))
        y = y.reshape(b, -1, *y.shape[1:]).movedim(1, -1).movedim(1, 1 + n)  # (b, *v', k, u')
        y = y.reshape(*y.shape[:-1], *space)
        return marginal(y, 1) if self.average_oldest else y


class TwoStepNetwork(nn.Module):
    """A network of two-step layers with the weights of a given one, whose outputs and gradients are the same.

    Args:
        model: an unfolded network.

    Raises:
        ValueError: if its first attribute is hue, which the published code does not have.

    """

    def __init__(self, model: AttributeNetwork) -> None:
        super().__init__()
        if isinstance(model.layers[0], HueConv):
            raise ValueError("two-step: expected a network whose first attribute is learned; got hue")
        self.layers = nn.Sequential(
            *(
                TwoStepConv(layer) if isinstance(layer, AttributeConv) else TwoStepFactorized(_factorized(layer))
                for layer in model.layers
            )
        )
        self.readout = model.readout

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layers(x))


def _factorized(layer: nn.Module) -> FactorizedConv:
    assert isinstance(layer, FactorizedConv)
    return layer
