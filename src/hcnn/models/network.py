"""What every network of this package offers, the paper's and the baselines alike."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

from torch import nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.models.counts import LayerRow, ParameterCount
from hcnn.models.transfer import classifier_name, frozen_modules, replace_classifier


class Network(nn.Module):
    """A network from a configuration: standardized images (b, channels, *u) to logits (b, classes).

    Attributes:
        config: what it was made from; it has channels, classes and spatial_axes at least.
        preprocessing: how its input is made of pixels, where it was loaded with trained weights; else None.
        stages: the modules whose outputs hints and attention are taken from, first to last; `freeze` counts them.
        stage_ends: the modules outside of the stages that follow the first of them, those that follow the second, …
        frozen: how many stages `freeze` keeps as they are.
        array_count: how many arrays x_1, x_2, … with named attributes it gives; 0 for a baseline.

    """

    config: Any
    preprocessing: Preprocessing | None = None
    stages: tuple[str, ...] = ()
    stage_ends: tuple[tuple[str, ...], ...] = ()
    frozen: int = 0
    array_count: int = 0

    @property
    def num_classes(self) -> int:
        """The number of classes, `config.classes`, by the name that timm has for it.

        Example:
            >>> from hcnn import create_model
            >>> model = create_model("resnet20_digits")
            >>> model.reset_classifier(3)
            >>> model.num_classes
            3

        """
        return self.config.classes

    def get_classifier(self) -> nn.Module:
        """The smallest module that holds the whole class layer.

        Raises:
            ValueError: if the network is folded.

        Example:
            >>> from hcnn import create_model
            >>> create_model("resnet20_digits").get_classifier()
            Linear(in_features=64, out_features=10, bias=True)

        """
        return self.get_submodule(classifier_name(self))

    def reset_classifier(self, classes: int) -> None:
        """Initialize the class layer anew, in place; all else stays, hooks too. See `hcnn.adapt` for a copy.

        Args:
            classes: number of new classes.

        Raises:
            ValueError: if the network is folded, or the number is not positive.

        Example:
            >>> from hcnn import create_model
            >>> model = create_model("hcnn_small_cifar10", pretrained=True)
            >>> model.reset_classifier(5)
            >>> model.config.classes
            5

        """
        replace_classifier(self, classes)

    def freeze(self, depth: int) -> None:
        """Keep the stages 1 … `depth`, and what lies before and between them, as they are.

        Their weights get no gradients, and their running statistics stay too, because they compute in eval mode from
        now on. The stages of an attribute network are its layers W_1 … W_{J-1}.

        Args:
            depth: 0 … number of stages; 0 frees all of them again.

        Raises:
            ValueError: if there are not so many stages.

        Example:
            >>> from hcnn import create_model
            >>> model = create_model("resnet20_digits")
            >>> model.freeze(len(model.stages))
            >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            ['linear.weight', 'linear.bias']

        """
        if not isinstance(depth, Integral) or not 0 <= depth <= len(self.stages):
            raise ValueError(f"freeze: expected a depth from 0 to {len(self.stages)}; got {depth!r}")
        self.frozen = depth
        self.requires_grad_(True)
        for module in frozen_modules(self, depth):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything that is not frozen; frozen modules stay in eval mode."""
        super().train(mode)
        for module in frozen_modules(self, self.frozen):
            module.eval()
        return self

    def inference(self) -> "Network":
        """The network as it is deployed, in eval mode: with equal outputs, and nothing that only training needs."""
        return self.eval()

    def count_parameters(self) -> ParameterCount:
        """The counts of `hcnn.count_parameters`."""
        raise NotImplementedError

    def layer_rows(self, image_size: Sequence[int]) -> list[LayerRow]:
        """The rows of `hcnn.models.summary.summarize`."""
        raise NotImplementedError

    def multiply_adds(self, image_size: Sequence[int]) -> int:
        """Multiply-adds of one image through the inference network: convolutions and matrix products.

        For attribute networks they are those of the dense form, whichever form it is executed in.

        Args:
            image_size: one size per spatial axis.

        Returns:
            A count.

        Raises:
            ValueError: if these are not as many sizes as the network has spatial axes.

        Example:
            >>> from hcnn import create_model
            >>> create_model("resnet20_cifar10").multiply_adds((32, 32))
            40551040

        """
        return sum(row.multiply_adds for row in self.layer_rows(image_size))
