"""What fine-tuning asks of a chain of attribute layers: features and a head."""

from typing import Any

from torch import Tensor, nn


class FineTuning(nn.Module):
    """Methods of `AttributeNetwork`; `layers`, `readout` and `config` are its."""

    config: Any
    layers: nn.ModuleList
    readout: nn.Module

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


def linear_classes(config: Any) -> int | None:
    """Outputs of a linear readout, or None where a learned scale stands in its place."""
    return config.classes if getattr(config, "readout", "mean") == "linear" else None
