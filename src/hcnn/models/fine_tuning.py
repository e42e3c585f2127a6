"""What fine-tuning asks of a chain of attribute layers: features, a head, and layers that stay as they are."""

from typing import Any, Self

from torch import Tensor, nn


class FineTuning(nn.Module):
    """Methods of `AttributeNetwork`; `layers`, `readout` and `config` are its."""

    config: Any
    layers: nn.ModuleList
    readout: nn.Module
    frozen: int = 0

    def forward_features(self, x: Tensor) -> Tensor:
        """What the class layer gets: (b, channels, *u) -> x_{J-2} with its oldest attribute averaged out.

        With a linear readout the class layer is the readout, and this is x_{J-1}.
        """
        for layer in self._body:
            x = layer(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Class scores from `forward_features`."""
        for layer in self.layers[len(self._body) :]:
            x = layer(x)
        return self.readout(x)

    @property
    def _body(self) -> list[nn.Module]:
        """The layers below the class layer."""
        layers = [*self.layers]
        return layers if linear_classes(self.config) is not None else layers[:-1]

    def freeze(self, depth: int) -> None:
        """Keep the layers 1 … `depth` as they are: their weights get no gradients, and their statistics stay.

        Args:
            depth: 0 … J-1; 0 frees all layers again.

        Raises:
            ValueError: if there are not so many layers.

        """
        if not 0 <= depth <= len(self.layers):
            raise ValueError(f"freeze: expected a depth from 0 to {len(self.layers)}; got {depth}")
        self.frozen = depth
        for index, layer in enumerate(self.layers):
            layer.requires_grad_(index >= depth)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all layers that are not frozen; frozen ones stay in eval mode."""
        super().train(mode)
        for layer in self.layers[: self.frozen]:
            layer.eval()
        return self


def linear_classes(config: Any) -> int | None:
    """Outputs of a linear readout, or None where a learned scale stands in its place."""
    return config.classes if getattr(config, "readout", "mean") == "linear" else None
