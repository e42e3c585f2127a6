"""What `HCNNClassifier` does once it is fitted: classes, probabilities and features, by the folded network."""

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from hcnn.data.channels import Channels
from hcnn.data.preprocessing import FloatPreprocessing
from hcnn.estimator.inputs import images_of
from hcnn.functional import marginal
from hcnn.layers.randomness import drawn_from
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.factory import build
from hcnn.training.evaluate import predict_logits

# The folded network of each estimator, with the digest of the weights that it was made of.
_NETWORKS: WeakKeyDictionary[Any, tuple[bytes, AttributeNetwork]] = WeakKeyDictionary()


class FittedNetwork(ClassifierMixin, TransformerMixin, BaseEstimator):
    """Predictions of a fitted `HCNNClassifier`."""

    image_shape: tuple[int, ...] | str | None
    channels: Channels
    classes_: np.ndarray
    mean_: np.ndarray
    std_: np.ndarray
    network_config_: dict[str, Any]
    weights_: dict[str, np.ndarray]

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each image."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes), in the order of `classes_`."""
        network, images = self._prepare(X)
        return predict_logits(network, images).double().softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the probabilities (n, classes), finite where the probabilities round to 0."""
        network, images = self._prepare(X)
        return predict_logits(network, images).double().log_softmax(1).numpy()

    def transform(self, X: Any) -> np.ndarray:
        """Features (n, K/4 · K/2 · K): the layer before the classes', averaged over space."""
        network, images = self._prepare(X)
        parts = []
        with torch.no_grad():
            for part in images.split(250):
                values = network(part, return_arrays=True)[1][len(network.layers) - 1].values
                parts.append(marginal(values, range(values.ndim - network.config.spatial_axes, values.ndim)).flatten(1))
        return torch.cat(parts).numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of what `transform` gives: the positions along the attributes."""
        network = self.to_network()
        j = len(network.layers) - 1
        axes = network.axes(j)[1 : 1 + len(network.attribute_sizes[j - 1])]
        places = np.ndindex(*network.attribute_sizes[j - 1])
        return np.array(["_".join(f"{a}={i}" for a, i in zip(axes, place, strict=True)) for place in places], object)

    def to_network(self) -> AttributeNetwork:
        """The folded network, in PyTorch: standardized images to logits."""
        check_is_fitted(self)
        with drawn_from(torch.Generator()):  # initial weights are drawn, though others take their place
            network = build(HierarchicalCNNConfig(**self.network_config_)).fold()
        network.load_state_dict({name: torch.tensor(value) for name, value in self.weights_.items()})
        return network

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]  # what the network computes in
        return tags

    def _network(self) -> AttributeNetwork:
        """The folded network in eval mode, built once for the weights that the estimator has now."""
        digest = hashlib.blake2b(repr(self.network_config_).encode())
        for name, value in self.weights_.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).data)
        kept = _NETWORKS.get(self)
        if kept is None or kept[0] != digest.digest():
            _NETWORKS[self] = kept = (digest.digest(), self.to_network().eval())
        return kept[1]

    def _prepare(self, X: Any) -> tuple[AttributeNetwork, Tensor]:
        check_is_fitted(self)
        array = check_array(X, dtype="numeric", allow_nd=True, estimator=self)
        if array.ndim == 2:  # X as it came, because an array no longer has the names of a data frame's columns
            validate_data(self, X, reset=False, skip_check_array=True)
        images = images_of(array, self.image_shape, self.channels, len(self.mean_))
        return self._network(), self._preprocessing(images).standardize(images)

    def _preprocessing(self, images: Tensor) -> FloatPreprocessing:
        mean, std, size = tuple(self.mean_.tolist()), tuple(self.std_.tolist()), tuple(images.shape[2:])
        return FloatPreprocessing(mean, std, size, tuple(str(one) for one in self.classes_))
