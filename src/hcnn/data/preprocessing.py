"""How pixels become the input of a network."""

from dataclasses import dataclass

from torch import Tensor

from hcnn.data.augment import standardize
from hcnn.data.image_set import ImageSet


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the network's input; saved with the weights.

    Attributes:
        mean: per channel, on the scale 0 … 1.
        std: per channel.
        size: spatial size of the images.
        classes: class names, in the order of the logits.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, ...]
    classes: tuple[str, ...]

    def standardize(self, images: Tensor) -> Tensor:
        """uint8 images (b, c, *u) to standardized float32.

        Example:
            >>> p = Preprocessing((0.5,), (0.25,), (1, 1), ("a", "b"))
            >>> p.standardize(torch.tensor([[[[255]]]], dtype=torch.uint8))
            tensor([[[[2.]]]])
        """
        return standardize(images, self.mean, self.std)


def fit_preprocessing(images: ImageSet) -> Preprocessing:
    """Standardization by the channels' mean and deviation over a training set."""
    mean, std = images.channel_statistics()
    return Preprocessing(
        tuple(float(m) for m in mean), tuple(float(s) for s in std), tuple(images.images.shape[2:]), images.classes
    )
