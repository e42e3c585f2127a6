"""A scikit-learn classifier of images: `HCNNClassifier`."""

import hashlib
from dataclasses import asdict, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.channels import Channels, channels_first, rows_to_images
from hcnn.data.preprocessing import FloatPreprocessing, as_float32, fit_float_preprocessing
from hcnn.data.splits import stratified_split
from hcnn.functional import marginal
from hcnn.layers.randomness import drawn_from
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.factory import build
from hcnn.models.registry import model_config
from hcnn.training.device import find_device
from hcnn.training.evaluate import predict_logits
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe
from hcnn.training.trainer import Trainer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("sklearn"):
        raise
    raise ImportError("hcnn.estimator needs scikit-learn: pip install scikit-learn") from error

_VALIDATION = 4  # a stream of random numbers of its own, see hcnn.data.splits


# The folded network of each estimator, with the digest of the weights that it was made of.
_NETWORKS: WeakKeyDictionary[Any, tuple[bytes, AttributeNetwork]] = WeakKeyDictionary()


class HCNNClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):
    """A hierarchical attribute CNN with the interface of scikit-learn.

    Images come as (n, height, width), as (n, channels, height, width) or (n, height, width, channels), or as
    (n, features) with `image_shape` given. They are standardized per channel, so their scale does not matter.
    `transform` returns the output of the layer before the classes, averaged over space: (n, K/4 · K/2 · K).

    Args:
        model: a named network, see `hcnn.list_models`, or "auto": hcnn_digits up to 16 pixels a side, above
            hcnn_small_cifar10.
        network: fields of the network's configuration to replace, for example ``{"width": 16}``.
        image_shape: for X of two axes: (height, width), (channels, height, width), or "row" for one row of any length.
        channels: whether the channels of X of four axes come "first" or "last"; "auto" decides by the shape, and
            refuses where it cannot, see `hcnn.data.channels.channels_first`.
        recipe: a named recipe, or a `hcnn.training.recipe.Recipe`.
        epochs: number of epochs. Default: the recipe's.
        batch_size: images per step, at most as many as there are to train on. Default: the recipe's.
        lr: learning rate. Default: the recipe's.
        early_stopping: set training images aside for validation, keep the weights of the epoch that does best on
            them, and stop after `n_iter_no_change` epochs in a row that were not better.
        validation_fraction: fraction of the images that early stopping sets aside.
        n_iter_no_change: number of epochs that early stopping waits for an improvement.
        random_state: seed for initialization, data order, augmentation and the choice of validation images, in
            threads too. Unless it is None, no global random state is read or changed.
        device: a torch device.

    Attributes:
        classes_: the labels.
        weights_: weights of the folded network, NumPy arrays by name.
        network_config_: configuration of the network, a dict.
        n_iter_: number of epochs that were trained.
        validation_scores_: accuracy on the validation images, epoch by epoch.

    Raises:
        ValueError: in `fit` and `predict`, for shapes that do not fit, NaN, regression targets, labels of a single
            class, or columns that are not those of `fit`.

    Example:
        >>> X = np.zeros((40, 8, 8)); X[::2, 2:6] = 1
        >>> y = np.arange(40) % 2
        >>> model = HCNNClassifier(network={"width": 4}, epochs=5, batch_size=8, random_state=0).fit(X, y)
        >>> model.score(X, y)
        1.0

    """

    def __init__(
        self,
        model: str = "auto",
        *,
        network: dict[str, Any] | None = None,
        image_shape: tuple[int, ...] | str | None = None,
        channels: Channels = "auto",
        recipe: str | Recipe = "digits",
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        # scikit-learn wants one argument for each setting, stored as it came, and no check before fit.
        self.model = model
        self.network = network
        self.image_shape = image_shape
        self.channels: Channels = channels
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new network.

        Args:
            X: images, numbers without NaN.
            y: labels (n,) of any kind.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, dtype="numeric", allow_nd=True, ensure_min_samples=2)
        if X.ndim > 2:  # rows of an image are no features
            delattr(self, "n_features_in_")
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            (only,) = self.classes_.tolist()
            raise ValueError(f"y: expected labels of at least two classes; all {len(y)} are {only!r}")
        images, labels = self._images(X), torch.from_numpy(labels.astype(np.int64))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rest, held = self._set_aside(labels, seed)
        config = self._config(tuple(images.shape[1:]))
        preprocessing = fit_float_preprocessing(images[rest], [str(one) for one in self.classes_])
        self.mean_, self.std_ = np.array(preprocessing.mean), np.array(preprocessing.std)
        device = find_device(self.device)
        with drawn_from(torch.Generator().manual_seed(seed)):
            network = build(config).to(device)
        trainer = Trainer(
            network,
            images[rest].to(device),
            labels[rest].to(device),
            preprocessing,
            self._recipe(images[rest]),
            seed=seed,
        )
        state = self._train(trainer, preprocessing.standardize(images[held]).to(device), labels[held].to(device))
        network.load_state_dict(state)
        self.network_config_ = asdict(config)
        self.weights_ = {name: value.cpu().numpy() for name, value in network.fold().state_dict().items()}
        return self

    def _train(self, trainer: Trainer, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Run the trainer, to the end or until it stops getting better; the weights to keep."""
        best: tuple[float, float] | None = None
        kept: dict[str, Tensor] = {}
        waited, self.n_iter_, self.validation_scores_ = 0, 0, []
        for progress in trainer.run():
            if progress.epoch_done:
                self.n_iter_ = progress.epoch
            if not progress.epoch_done or not len(labels):
                continue
            score = self._validate(trainer, images, labels)
            self.validation_scores_.append(score[0])
            if best is None or score > best:
                best, waited = score, 0
                kept = {name: value.clone() for name, value in trainer.result_state().items()}
            else:
                waited += 1
                if waited >= self.n_iter_no_change:
                    break
        return kept or trainer.result_state()

    @staticmethod
    def _validate(trainer: Trainer, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Accuracy and minus the loss, which decides between equal accuracies, of the weights that would be kept."""
        network = trainer.model
        current = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(trainer.result_state())
        logits = predict_logits(network, images)
        network.load_state_dict(current)
        return (logits.argmax(1) == labels).float().mean().item(), -F.cross_entropy(logits, labels).item()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each image."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes), in the order of `classes_`."""
        network, images = self._prepare(X)
        return predict_logits(network, images).double().softmax(1).numpy()

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
        images = self._images(array, len(self.mean_))
        if images.shape[1] != len(self.mean_):
            raise ValueError(f"X: expected images of {len(self.mean_)} channels; got shape {array.shape}")
        size = tuple(images.shape[2:])
        preprocessing = FloatPreprocessing(tuple(self.mean_.tolist()), tuple(self.std_.tolist()), size, ())
        return self._network(), preprocessing.standardize(images)

    def _images(self, X: np.ndarray, count: int | None = None) -> Tensor:
        """(n, c, height, width) float32 of whatever X came as; `count` is c where it is known."""
        if X.ndim in (3, 4):
            images = channels_first(X, self.channels, count=count, name="X")
        elif X.ndim == 2 and self.image_shape is not None:
            images = rows_to_images(X, self.image_shape)
        else:
            raise ValueError(
                "X: expected images (n, height, width), (n, channels, height, width) or (n, height, width, channels), "
                f"or (n, features) with image_shape given; got shape {X.shape} and image_shape={self.image_shape!r}"
            )
        return as_float32(images, name="X")

    def _config(self, shape: tuple[int, ...]) -> HierarchicalCNNConfig:
        auto = "hcnn_digits" if max(shape[1:]) <= 16 else "hcnn_small_cifar10"
        name = auto if self.model == "auto" else self.model
        if given := sorted({"channels", "classes"} & {*(self.network or {})}):
            raise ValueError(f"network: channels and classes follow from the data; got {', '.join(given)}")
        config = model_config(name, **(self.network or {}), channels=shape[0], classes=len(self.classes_))
        if not isinstance(config, HierarchicalCNNConfig) or config.spatial_axes != 2:
            raise ValueError(f"model: expected a HierarchicalCNN of two spatial axes; got {name!r}")
        return config

    def _recipe(self, images: Tensor) -> Recipe:
        recipe = self.recipe if isinstance(self.recipe, Recipe) else get_recipe(self.recipe)
        given = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr")}
        recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
        shift = min(recipe.augmentation.translation, min(images.shape[2:]) - 1)  # a small image allows less
        augmentation = replace(recipe.augmentation, translation=shift)
        return replace(recipe, batch_size=min(recipe.batch_size, len(images)), augmentation=augmentation)

    def _set_aside(self, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Training and validation indices; too few images leave no validation set."""
        if not self.early_stopping:
            return torch.arange(len(labels)), torch.arange(0)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: expected a number between 0 and 1; got {self.validation_fraction}")
        if self.n_iter_no_change < 1:
            raise ValueError(f"n_iter_no_change: expected 1 or more; got {self.n_iter_no_change}")
        room = len(labels) - len(self.classes_)
        return stratified_split(labels, min(round(self.validation_fraction * len(labels)), room), _VALIDATION, seed)
