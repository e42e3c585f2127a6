"""`HCNNClassifier`: fitting, predicting, and the settings of a scikit-learn estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from inspect import Parameter, signature
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from hcnn.data.channels import Channels
from hcnn.data.preprocessing import fit_float_preprocessing
from hcnn.data.splits import stratified_split
from hcnn.estimator.fitting import Fitted, Held, all_or_nothing, train_until_best
from hcnn.estimator.inputs import images_of, initial_of, network_config, recipe_for, weights_of
from hcnn.estimator.predicting import FittedNetwork
from hcnn.layers.randomness import drawn_from
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.configs import HierarchicalCNNConfig
from hcnn.models.registry import common_standardization
from hcnn.runs.initial import Initial, first_network
from hcnn.training.attribute_ties import AttributeTie
from hcnn.training.device import find_device
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

_VALIDATION = 4  # a stream of random numbers of its own, see hcnn.data.splits
_NESTED = "network__"


class HCNNClassifier(FittedNetwork):
    """A hierarchical attribute CNN with the interface of scikit-learn.

    Images come as (n, height, width), as (n, channels, height, width) or (n, height, width, channels), or as
    (n, features) with `image_shape` given. They are standardized per channel, so their scale does not matter.
    `transform` returns the output of the layer before the classes, averaged over space: (n, K/4 · K/2 · K).

    Args:
        model: a named network, see `hcnn.list_models`, or "auto": hcnn_digits up to 16 pixels a side, above
            that hcnn_small_cifar10.
        network: fields of the network's configuration to replace, for example ``{"width": 16}``. In searches each is a
            parameter of its own, such as ``network__width``.
        init: a trained network to start from, in place of `model` and `network`: a name of `hcnn.list_pretrained`, a
            run folder, a Hub folder, or a network, also as `hcnn.load` returns it. Its class layer is initialized anew
            unless the labels are its classes. X is standardized by its own mean and deviation here too.
        freeze: with `init`, how many layers stay as they are, their running statistics too.
        image_shape: for X of two axes: (height, width), (channels, height, width), or "row" for one row of any length.
        channels: whether the channels of X of four axes come "first" or "last"; "auto" decides by the shape, and
            refuses where it cannot, see `hcnn.data.channels.channels_first`.
        recipe: a named recipe, or a `hcnn.training.recipe.Recipe`.
        epochs: number of epochs. Default: the recipe's.
        batch_size: images per step, at most as many as there are to train on. Default: the recipe's.
        lr: learning rate. Default: the recipe's.
        attributes: properties that are to be translations along attributes, such as ``"rotation=v3@3"`` or several; see
            `hcnn.training.attribute_ties.AttributeTie`. They make the network periodic. Default: the recipe's.
        class_weight: weights of the classes, a dict from label to weight; "balanced" gives every class the same weight
            in all, however many images it has. None: all images count the same.
        early_stopping: set training images aside for validation, keep the weights of the epoch that does best on
            them, and stop after `n_iter_no_change` epochs in a row that were not better.
        validation_fraction: fraction of the images that early stopping sets aside.
        n_iter_no_change: number of epochs that early stopping waits for an improvement.
        warm_start: whether `fit` starts from the weights of the fit before, where there was one, in place of random
            ones.
        random_state: seed for initialization, data order, augmentation and the choice of validation images, in
            threads too. Unless it is None, no global random state is read or changed.
        device: a torch device, or its name.

    Attributes:
        classes_: the labels.
        weights_: weights of the folded network, NumPy arrays by name.
        training_weights_: state of the network before it was folded, from which `warm_start` and `partial_fit` start.
        network_config_: configuration of the network, a dict.
        n_iter_: number of epochs that were trained, with those of earlier fits where this one started from them.
        loss_curve_: mean training loss, epoch by epoch.
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
        init: Any = None,
        freeze: int = 0,
        image_shape: tuple[int, ...] | str | None = None,
        channels: Channels = "auto",
        recipe: str | Recipe = "digits",
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        attributes: str | AttributeTie | Sequence[str | AttributeTie] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        # scikit-learn wants one argument for each setting, stored as it came, and no check before fit.
        self.model = model
        self.network = network
        self.init = init
        self.freeze = freeze
        self.image_shape = image_shape
        self.channels: Channels = channels
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.attributes = attributes
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle. One of an earlier version lacks newer settings, which then acted as their defaults do."""
        settings = signature(HCNNClassifier.__init__).parameters.values()
        defaults = {one.name: one.default for one in settings if one.default is not Parameter.empty}
        super().__setstate__({**defaults, **state})

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name; `deep` adds those of the network, as ``network__width``."""
        found = super().get_params(deep)
        nested = self.network if deep and isinstance(self.network, dict) else {}
        return found | {_NESTED + name: value for name, value in nested.items()}

    def set_params(self, **params: Any) -> Self:
        """Change settings by name, among them fields of the network such as ``network__width``.

        Raises:
            ValueError: if there is no such setting.
        """
        nested = {name.removeprefix(_NESTED): params.pop(name) for name in [*params] if name.startswith(_NESTED)}
        if unknown := sorted(nested.keys() - HierarchicalCNNConfig.__dataclass_fields__.keys()):
            raise ValueError(f"network: expected fields of HierarchicalCNNConfig; got {', '.join(unknown)}")
        super().set_params(**params)
        if nested:
            self.network = {**(self.network or {}), **nested}
        return self

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> Self:
        """Train a network, a new one unless `warm_start` says otherwise.

        Args:
            X: images, numbers without NaN.
            y: labels (n,) of any kind.
            sample_weight: how much each image counts (n,), 0 or more.
            X_val: images for validation, in place of those that `early_stopping` would set aside.
            y_val: their labels.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, dtype="numeric", allow_nd=True, ensure_min_samples=2)
        if X.ndim > 2:  # rows of an image are no features
            delattr(self, "n_features_in_")
        check_classification_targets(y)
        classes, indices = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            (only,) = classes.tolist()
            raise ValueError(f"y: expected labels of at least two classes; all {len(y)} are {only!r}")
        again = self.warm_start and hasattr(self, "training_weights_")
        if again and not np.array_equal(self.classes_, classes):
            raise ValueError(f"y: expected the classes {self.classes_} of the fit before (warm_start); got {classes}")
        self.classes_ = classes
        part, weights = weights_of(sample_weight, self.class_weight, X, y, classes)
        images = images_of(X, self.image_shape, self.channels)[part]
        labels = torch.from_numpy(indices.astype(np.int64))[part]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rest, held = self._set_aside(labels, seed, X_val, y_val)
        initial = initial_of(self.init, self.freeze, self.model, self.network)
        config = self._config(images, len(classes), initial)
        if again:
            self._check_same_network(config)
        else:
            self._start(images[rest], config)
        network = self._build(config, seed, None if again else initial, again=again)
        preprocessing = self._preprocessing(images)
        device = find_device(self.device)
        validation = images[held], labels[held]
        if X_val is not None:
            validation = self._own_validation(X_val, y_val)
        trainer = Trainer(
            network,
            images[rest].to(device),
            labels[rest].to(device),
            preprocessing,
            recipe_for(self.recipe, self._changes(keep=again or initial is not None), images[rest]),
            seed=seed,
            weights=None if weights is None else weights[rest].to(device),
        )
        apart = Held(
            preprocessing.standardize(validation[0]).to(device),
            validation[1].to(device),
            None if weights is None or X_val is not None else weights[held].to(device),
        )
        self._keep(network, config, train_until_best(trainer, apart, self.n_iter_no_change))
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on images that are part of a larger set, starting from the weights so far.

        The images are standardized by the mean and deviation of those of the first call. The learning rate is the
        recipe's highest, images have their own size, nothing is set aside, and the optimizer starts anew in each call.

        Args:
            X: images, numbers without NaN.
            y: labels (n,), which need not show every class.
            classes: all labels; wanted in the first call.
            sample_weight: how much each image counts (n,), 0 or more.

        Returns:
            This estimator.
        """
        first = not hasattr(self, "training_weights_")
        X, y = validate_data(self, X, y, reset=first, dtype="numeric", allow_nd=True)
        if first and X.ndim > 2:
            delattr(self, "n_features_in_")
        check_classification_targets(y)
        _check_partial_fit_first_call(self, classes)
        if len(self.classes_) < 2:
            raise ValueError(f"classes: expected at least two labels; got {self.classes_}")
        labels = self._indices(y, "y")
        part, weights = weights_of(sample_weight, self._class_weights(), X, y, self.classes_)
        images = images_of(X, self.image_shape, self.channels, None if first else len(self.mean_))[part]
        labels = labels[part]
        initial = initial_of(self.init, self.freeze, self.model, self.network)
        config = self._config(images, len(self.classes_), initial)
        if first:
            self._start(images, config)
        else:
            self._check_same_network(config)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        network = self._build(config, seed, initial if first else None, again=not first)
        device = find_device(self.device)
        recipe = recipe_for(self.recipe, self._changes(keep=not first or initial is not None), images)
        batch = len(images) // -(-len(images) // recipe.batch_size)  # no image is left over, or few
        recipe = replace(  # what a recipe says of the beginning of training would come with each part
            recipe, epochs=1, batch_size=batch, accumulate=1, schedule="step", milestones=(), factors=(), ema=0.0,
            image_sizes=(), image_sizes_until=(), attribute_warmup=0.0,
        )  # fmt: skip
        trainer = Trainer(
            network,
            images.to(device),
            labels.to(device),
            self._preprocessing(images),
            recipe,
            seed=(seed + self.n_iter_) % 2**31,
            weights=None if weights is None else weights.to(device),
            part=True,
        )
        empty = Held(images[:0], labels[:0])
        self._keep(network, config, train_until_best(trainer, empty, 1))
        return self

    def _changes(self, *, keep: bool = False) -> dict[str, Any]:
        """What differs from the recipe; `keep` if training starts from weights that are to stay as they are."""
        given = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "attributes")}
        # Searches draw NumPy's numbers, which a recipe, being plain data, does not hold.
        given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        return given | ({"first_layer": "random"} if keep else {})

    def _config(self, images: Tensor, classes: int, initial: Initial | None) -> HierarchicalCNNConfig:
        recipe = recipe_for(self.recipe, self._changes(), images)
        network = {} if self.network is None else self.network
        if not isinstance(network, Mapping) or not all(isinstance(name, str) for name in network):
            raise ValueError(f"network: expected a dict of settings, or None; got {network!r}")
        changes = {**({"boundary": "circular"} if recipe.attributes else {}), **network}
        return network_config(self.model, changes, tuple(images.shape[1:]), classes, initial)

    def _class_weights(self) -> Any:
        if isinstance(self.class_weight, str):
            raise ValueError(f"class_weight: {self.class_weight!r} needs all images; give partial_fit a dict, or None")
        return self.class_weight

    def _indices(self, y: Any, name: str) -> Tensor:
        """Positions of labels in `classes_`."""
        known = {label: index for index, label in enumerate(self.classes_.tolist())}
        labels = column_or_1d(y).tolist()
        if other := sorted({str(label) for label in labels if label not in known}):
            raise ValueError(f"{name}: expected labels among {self.classes_}; got {', '.join(other[:10])}")
        return torch.tensor([known[label] for label in labels], dtype=torch.int64)

    def _own_validation(self, X_val: Any, y_val: Any) -> tuple[Tensor, Tensor]:
        array = check_array(X_val, dtype="numeric", allow_nd=True, input_name="X_val")
        if array.ndim == 2:  # X_val as it came, because an array no longer has the names of a data frame's columns
            validate_data(self, X_val, reset=False, skip_check_array=True)
        images = images_of(array, self.image_shape, self.channels, len(self.mean_), name="X_val")
        labels = self._indices(y_val, "y_val")
        if len(labels) != len(images):
            raise ValueError(f"y_val: expected {len(images)} labels, one for each image of X_val; got {len(labels)}")
        return images, labels

    def _check_same_network(self, config: HierarchicalCNNConfig) -> None:
        known = asdict(HierarchicalCNNConfig(**self.network_config_))  # fields that are newer have their defaults
        changed = [name for name, value in asdict(config).items() if known[name] != value]
        if changed:
            raise ValueError(f"network: expected that of the fit before, whose weights are kept; {changed} differ")

    def _start(self, images: Tensor, config: HierarchicalCNNConfig) -> None:
        """Forget earlier fits."""
        common = common_standardization(config)
        preprocessing = fit_float_preprocessing(images, [str(one) for one in self.classes_], common=common)
        self.mean_, self.std_ = np.array(preprocessing.mean), np.array(preprocessing.std)
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] = []
        self.n_iter_ = 0

    def _build(self, config: HierarchicalCNNConfig, seed: int, initial: Initial | None, *, again: bool) -> Any:
        """A network to train, with the weights so far, those of the initial network, or random ones."""
        with drawn_from(torch.Generator().manual_seed(seed)):
            network = first_network(config, initial, self.freeze, tuple(map(str, self.classes_)))
        if again:
            network.load_state_dict({name: torch.tensor(value) for name, value in self.training_weights_.items()})
        return network.to(find_device(self.device))

    def _keep(self, network: AttributeNetwork, config: HierarchicalCNNConfig, fitted: Fitted) -> None:
        """Store what training gave as plain arrays and numbers."""
        network.load_state_dict(fitted.weights)
        self.loss_curve_ = self.loss_curve_ + fitted.losses
        self.validation_scores_ = self.validation_scores_ + fitted.scores
        self.n_iter_ = len(self.loss_curve_)
        self.network_config_ = asdict(config)
        self.training_weights_ = {name: value.cpu().numpy().copy() for name, value in network.state_dict().items()}
        self.weights_ = {name: value.cpu().numpy() for name, value in network.fold().state_dict().items()}

    def _set_aside(self, labels: Tensor, seed: int, X_val: Any, y_val: Any) -> tuple[Tensor, Tensor]:
        """Training and validation indices; too few images leave no validation set."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val: expected both, or neither")
        for name in ("early_stopping", "warm_start"):
            if not isinstance(value := getattr(self, name), bool | np.bool_):  # "no" would mean yes
                raise ValueError(f"{name}: expected True or False; got {value!r}")
        if not self.early_stopping:
            if X_val is not None:
                raise ValueError("X_val: expected early_stopping=True, which validation images are for")
            return torch.arange(len(labels)), torch.arange(0)
        fraction, patience = self.validation_fraction, self.n_iter_no_change
        if not isinstance(fraction, Real) or not 0 < fraction < 1:
            raise ValueError(f"validation_fraction: expected a number between 0 and 1; got {fraction!r}")
        if not isinstance(patience, Real) or not patience >= 1:
            raise ValueError(f"n_iter_no_change: expected 1 or more; got {patience!r}")
        room = len(labels) - int((torch.bincount(labels) > 0).sum())
        count = 0 if X_val is not None else min(round(fraction * len(labels)), room)
        return stratified_split(labels, count, _VALIDATION, seed)
