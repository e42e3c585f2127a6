"""A small network that generates the kernels of a wide residual network (Ha, Dai, Le 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.functional.dtypes import exactly
from hcnn.layers.kept import Kept
from hcnn.models.baselines.blocks import BaselineConfig
from hcnn.models.baselines.wide_resnet import WideResNet, WideResNetConfig, check_wide
from hcnn.models.counts import LayerRow, ParameterCount

BASIC = 16  # every generated kernel is tiled from kernels of 16 inputs and 16 outputs


@dataclass(frozen=True)
class HyperNetworkConfig(BaselineConfig):
    """Everything that determines a `HyperNetwork`; the defaults generate WRN-40-1.

    Attributes:
        depth: of the main network, 6n + 4 layers.
        width: of the main network, the factor k.
        downsample: the groups of the main network whose first block has stride 2.
        embedding: N_z, numbers that describe one basic kernel; also the size d of the generator's hidden layer.
    """

    recipes: ClassVar[dict[str, str]] = {"fast": "fast_adamw"}

    depth: int = 40
    width: int = 1
    downsample: tuple[int, ...] = (2, 3)
    embedding: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wide(self.depth, self.width, self.downsample)
        if self.embedding < 1:
            raise ValueError(f"HyperNetwork: embedding: expected a positive size; got {self.embedding}")


class Generator(nn.Module):
    """The generator g of eq. (2): ``a_i = W_i z + B_i`` for each input i, ``K_i = W_out a_i + B_out``.

    Args:
        embedding: N_z = d.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        n, taps = embedding, BASIC * 9
        self.first = nn.Parameter(torch.randn(BASIC, n, n) * n**-0.5)  # i, d, z
        self.first_bias = nn.Parameter(torch.zeros(BASIC, n))
        # Kernels start as He's: variance 2 / (9 · 16).
        self.second = nn.Parameter(torch.randn(taps, n) * (2 / taps / n) ** 0.5)  # (output, 3, 3), d
        self.second_bias = nn.Parameter(torch.zeros(taps))

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings (o, i, N_z) -> a kernel (16 o, 16 i, 3, 3)."""
        o, i, n = z.shape
        hidden = torch.einsum("tz,cdz->tcd", z.reshape(o * i, n), self.first) + self.first_bias  # (o·i, 16, d)
        basic = F.linear(hidden, self.second, self.second_bias)  # (o·i, 16 inputs, 16 outputs · 9)
        basic = basic.reshape(o, i, BASIC, BASIC, 3, 3)  # (o, i, inputs, outputs, 3, 3)
        return basic.permute(0, 3, 1, 2, 4, 5).reshape(o * BASIC, i * BASIC, 3, 3)


class GeneratedConv(nn.Module):
    """A 3×3 convolution whose kernel the shared generator makes from this layer's embeddings.

    In eval mode without gradients the kernel is made once and kept, until an embedding or the generator changes.

    Args:
        inputs: a multiple of 16.
        outputs: a multiple of 16.
        stride: along space.
        generator: shared by all layers; it belongs to the network, not to this layer.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, generator: Generator) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.randn(outputs // BASIC, inputs // BASIC, generator.first.shape[-1]))
        self.stride = stride
        self._shared = (generator,)  # in a tuple, so that it is no child and is saved once
        self._kept = Kept()

    def kernel(self) -> Tensor:
        """The convolution's weight (outputs, inputs, 3, 3)."""
        (generator,) = self._shared
        if self.training:
            return generator(self.z)

        def make() -> Tensor:
            with exactly(self.z):  # kept in the weights' own precision
                return generator(self.z)

        return self._kept.get(make, [self.z, *generator.parameters()])

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, u1, u2) -> (b, outputs, u1/s, u2/s)."""
        return F.conv2d(x, self.kernel(), stride=self.stride, padding=1)


class HyperNetwork(WideResNet):
    """Hyper residual network 40-1 (Ha et al. 2016, section 4.2, equations 2 and 3, table 2).

    One two-layer linear generator makes the 36 kernels of WRN-40-1's three groups from 242 embeddings of 64 numbers;
    the first convolution, the 1×1 shortcuts, the normalizations and the linear map are learned as they are.

    Parameters: 97,770 learned; the publication prints 0.097M, cut rather than rounded, as its 0.563M for WRN-40-1
    (563,930) is. (Without the linear map there are 97,120, which rounds to the same.) The network that computes has
    the 563,930 of WRN-40-1: `generated` gives it.

    Args:
        config: a `HyperNetworkConfig`.

    Example:
        >>> model = HyperNetwork(HyperNetworkConfig(depth=10)).eval()
        >>> x = torch.randn(2, 3, 16, 16)
        >>> bool(torch.allclose(model(x), model.generated()(x), atol=1e-5))
        True
    """

    def __init__(self, config: HyperNetworkConfig) -> None:
        generator = Generator(config.embedding)
        main = WideResNetConfig(config.channels, config.classes, config.depth, config.width, config.downsample)
        super().__init__(main, lambda inputs, outputs, stride: GeneratedConv(inputs, outputs, stride, generator))
        self.config = config
        self.generator = generator

    def freeze(self, depth: int) -> None:
        """As `Network.freeze`; the generator, which makes kernels of every stage, stays as it is with the first."""
        super().freeze(depth)
        self.generator.requires_grad_(depth == 0)

    def count_parameters(self) -> ParameterCount:
        """As `Baseline.count_parameters`; the generated network computes."""
        return replace(super().count_parameters(), composed=self.generated().count_parameters().trained)

    def layer_rows(self, image_size: Sequence[int]) -> list[LayerRow]:
        """As `Baseline.layer_rows`; the multiply-adds are those of the generated network."""
        work = {row.name: row.multiply_adds for row in self.generated().layer_rows(image_size)}
        return [replace(row, multiply_adds=work.get(row.name, 0)) for row in super().layer_rows(image_size)]

    def inference(self) -> WideResNet:
        """The generated network."""
        return self.generated()

    @torch.no_grad()
    def generated(self) -> WideResNet:
        """The wide residual network that this one generates, in eval mode, with weights of its own."""
        c = self.config
        with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
            plain = WideResNet(WideResNetConfig(c.channels, c.classes, c.depth, c.width, c.downsample))
        state = {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith("generator.") and not name.endswith(".z")
        }
        for name, module in self.named_modules():
            if isinstance(module, GeneratedConv):
                state[f"{name}.weight"] = module.kernel()
        plain.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
        plain.preprocessing = self.preprocessing
        return plain.eval()
