"""The trained network that a run starts from, and what becomes of it: new classes, other channels, frozen layers."""

from dataclasses import dataclass, replace
from typing import Any

from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import Preprocessing, fit_preprocessing
from hcnn.models.factory import build
from hcnn.models.network import Network
from hcnn.models.records import network_config, preprocessing_of
from hcnn.models.registry import NetworkConfig, common_standardization
from hcnn.models.transfer import adapt, class_entries
from hcnn.storage.safetensors import weights_sha256


@dataclass(frozen=True)
class Initial:
    """A trained network that a run starts from.

    Attributes:
        source: where it came from, for the record.
        config: configuration of the network.
        preprocessing: how images become its input.
        weights_sha256: of its weights, as the weights.safetensors of a run would hold them.
        network: the network, or None where a run that has begun is resumed without it.
    """

    source: str
    config: NetworkConfig
    preprocessing: Preprocessing
    weights_sha256: str
    network: Network | None

    def record(self, freeze: int) -> dict[str, Any]:
        """What config.json says about it."""
        return {"source": self.source, "weights_sha256": self.weights_sha256, "freeze": freeze}

    def fit(self, images: ImageSet) -> Preprocessing:
        """Its preprocessing for other images: the same mean and deviation, averaged where the channels differ."""
        kept = self.preprocessing.with_channels(images.images.shape[1])
        return replace(kept, size=tuple(images.images.shape[2:]), classes=images.classes)


def initial_network(source: str, network: Any, preprocessing: Preprocessing) -> Initial:
    """A trained network as the start of a run.

    Args:
        source: where it came from, for the record.
        network: the network.
        preprocessing: how images become its input.

    Raises:
        ValueError: if it is folded: it has no layers to train.
    """
    if getattr(network, "folded", False):
        raise ValueError(
            f"{source}: init: these are folded weights, which have no layers to train; expected the run folder or the "
            "Hub folder that they were exported from"
        )
    digest = weights_sha256(network.state_dict(), source)
    return Initial(source, network.config, preprocessing, digest, network)


def recorded_initial(config: dict[str, Any], where: str) -> Initial:
    """What a run's config.json says about its initial network, for resuming without it.

    Raises:
        ValueError: naming the field that is missing or malformed.
    """
    found = config.get("init")
    names = ("source", "weights_sha256")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        raise ValueError(f"{where}: init: expected an object with {' and '.join(names)}; got {str(found)[:60]}")
    network, preprocessing = network_config(config, where), preprocessing_of(config, where)
    return Initial(found["source"], network, preprocessing, found["weights_sha256"], None)


def fit_run_preprocessing(config: NetworkConfig, initial: Initial | None, images: ImageSet) -> Preprocessing:
    """The preprocessing of a run: that of its initial network, or one fitted to its training images."""
    if initial is None:
        return fit_preprocessing(images, common=common_standardization(config))
    return initial.fit(images)


def first_network(config: NetworkConfig, initial: Initial | None, freeze: int, classes: tuple[str, ...]) -> Network:
    """The network that a run begins with, in float32, initialized from torch's global random state.

    The class layer of an initial network is kept if its classes have the same names in the same order.

    Args:
        config: of the network.
        initial: what it starts from, or None.
        freeze: number of stages that stay as they are.
        classes: names of the classes.

    Raises:
        ValueError: if there are not so many stages, or the class layer would be among them.
    """
    if initial is None or initial.network is None:
        model = build(config)
    else:
        kept = initial.preprocessing.classes == classes
        model = adapt(initial.network, classes=None if kept else len(classes), channels=config.channels)
    model.float()  # whatever the initial network and PyTorch's default are
    if not freeze:
        return model
    model.freeze(freeze)
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not learns & class_entries(model):
        raise ValueError(f"freeze: expected a depth below {freeze}, so that the class layer can learn; got {freeze}")
    return model
