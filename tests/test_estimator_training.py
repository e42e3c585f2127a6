"""How `HCNNClassifier` trains: weights, own validation images, further fits, parts of a set, searches and ensembles."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import AdaBoostClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.estimator import HCNNClassifier, classifier
from hcnn.estimator.fitting import Held, train_until_best
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

TINY = {"width": 4, "depth": 4, "rank": 4, "downsample": ()}


def shades(count: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Noise that is a little lighter in one half or the other."""
    random, y = np.random.default_rng(seed), np.arange(count) % 2
    X = random.normal(size=(count, 8, 8)) * spread
    X[y == 1, :4] += 1
    X[y == 0, 4:] += 1
    return X, np.array(["low", "high"])[y]


def tiny(**settings: Any) -> HCNNClassifier:
    return HCNNClassifier(**{"network": TINY, "batch_size": 8, "epochs": 4, "random_state": 0, **settings})


def equal(first: HCNNClassifier, second: HCNNClassifier) -> bool:
    return all(np.array_equal(first.weights_[name], second.weights_[name]) for name in first.weights_)


def test_equal_weights_are_no_weights_and_zero_takes_an_image_out() -> None:
    X, y = shades(48)

    def fit(which: slice | np.ndarray, weights: np.ndarray | None = None) -> HCNNClassifier:
        return tiny(early_stopping=False).fit(X[which], y[which], weights)

    every, some = slice(None), np.arange(48) % 7 > 2
    assert equal(fit(every), fit(every, np.full(48, 3.0)))
    assert equal(fit(some), fit(every, some.astype(float)))
    assert not equal(fit(every), fit(every, np.linspace(0.1, 1, 48)))


def test_the_scale_of_weights_does_not_matter() -> None:
    X, y = shades(40)
    weights = np.linspace(0.5, 2, 40)
    first, second = (tiny().fit(X, y, weights * scale).predict_proba(X) for scale in (1, 1000))
    assert np.allclose(first, second, atol=1e-4)


def test_weights_decide_between_contradicting_labels() -> None:
    X, y = shades(32)
    both, labels = np.concatenate([X, X]), np.concatenate([y, np.where(y == "low", "high", "low")])
    for heavy in (0, 1):
        weights = np.where(np.arange(64) // 32 == heavy, 1.0, 0.05)
        model = tiny(epochs=15, early_stopping=False).fit(both, labels, weights)
        assert (model.predict(X) == labels[32 * heavy : 32 * heavy + 32]).mean() > 0.8


def test_class_weights() -> None:
    X, y = shades(44)
    few = np.concatenate([np.flatnonzero(y == "low"), np.flatnonzero(y == "high")[:5]])
    balanced = tiny(class_weight="balanced").fit(X[few], y[few])
    counts = {"low": 27 / (2 * 22), "high": 27 / (2 * 5)}
    assert equal(balanced, tiny(class_weight=counts).fit(X[few], y[few]))
    assert not equal(balanced, tiny().fit(X[few], y[few]))
    only = tiny(class_weight={"low": 1000, "high": 0.001}, epochs=8).fit(X, y)
    assert (only.predict(X) == "low").mean() > 0.9
    assert only.validation_scores_[-1] > 0.99  # images count by their weights there too


def test_own_validation_images_choose_the_epoch() -> None:
    X, y = shades(32, spread=2.5)
    X_val, y_val = shades(24, seed=1, spread=2.5)
    last = []
    for seed in (3, 5):
        model = tiny(epochs=12, n_iter_no_change=12, random_state=seed).fit(X, y, X_val=X_val, y_val=y_val)
        scores = model.validation_scores_
        assert len(scores) == len(model.loss_curve_) == model.n_iter_ == 12
        assert model.score(X_val, y_val) == pytest.approx(max(scores))
        without = tiny(epochs=12, early_stopping=False, random_state=seed).fit(X, y)
        assert without.loss_curve_ == model.loss_curve_  # nothing was set aside
        last.append(scores[-1] == max(scores))
    assert not all(last), "the test is of no use if the last epoch is the best"


@pytest.mark.parametrize("patience", [1, 3])
def test_training_ends_after_so_many_epochs_that_were_not_better(patience) -> None:
    images, labels = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8), torch.arange(12) % 2
    plain = Preprocessing((0.5,), (0.25,), (8, 8), ("a", "b"))
    recipe = Recipe(epochs=9, batch_size=4, lr=1e-30)  # so that every epoch is as good as the first
    trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images, labels, plain, recipe)
    fitted = train_until_best(trainer, Held(plain.standardize(images), labels), patience)
    assert len(fitted.scores) == len(fitted.losses) == 1 + patience


def test_the_losses_fall() -> None:
    losses = tiny(epochs=6).fit(*shades(40)).loss_curve_
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_log_probabilities_stay_finite() -> None:
    X, y = shades(40)
    model = tiny().fit(X, y)
    assert np.allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))
    model.weights_ = {name: value * 30 for name, value in model.weights_.items()}
    assert np.isfinite(model.predict_log_proba(X * 100)).all()


def test_a_warm_start_starts_from_the_weights_so_far() -> None:
    X, y = shades(40)
    model = tiny(warm_start=True, epochs=3, lr=1e-9).fit(X, y)
    before = {name: value.copy() for name, value in model.training_weights_.items()}
    losses = [*model.loss_curve_]
    model.fit(X, y)
    filters = [name for name in before if name.endswith((".g", ".h", ".w", ".weight"))]
    assert filters
    assert all(np.allclose(model.training_weights_[name], before[name], atol=1e-6) for name in filters)
    assert model.loss_curve_[:3] == losses
    assert model.n_iter_ == len(model.loss_curve_) > 3
    assert tiny(epochs=3, lr=1e-9).fit(X, y).fit(X, y).n_iter_ == 3
    with pytest.raises(ValueError, match=r"y: expected the classes .* of the fit before \(warm_start\); got"):
        model.fit(X, np.arange(40) % 3)
    with pytest.raises(ValueError, match=r"network: expected that of the fit before.*\['width'\] differ"):
        model.set_params(network__width=8).fit(X, y)


def test_filters_that_were_whitened_once_are_not_whitened_again() -> None:
    X, y = shades(40)
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-9, first_layer="whitening")
    model = tiny(recipe=recipe, epochs=None, batch_size=None, warm_start=True).fit(X, y)
    plain = tiny(epochs=1, lr=1e-9).fit(X, y)
    name = next(iter(model.training_weights_))
    assert not np.allclose(model.training_weights_[name], plain.training_weights_[name], atol=1e-3)
    before = model.training_weights_[name].copy()
    other = X * np.linspace(-1, 3, 8)  # images whose whitening filters would be others
    for train in (model.fit, model.partial_fit):
        train(other, y)
        assert np.allclose(model.training_weights_[name], before, atol=1e-6)


def test_parts_of_a_set_are_learned_one_by_one() -> None:
    X, y = shades(60)
    model = tiny()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        model.partial_fit(X[:20], y[:20])
    with pytest.raises(ValueError, match=r"classes: expected at least two labels; got \['low'\]"):
        tiny().partial_fit(X[y == "low"], y[y == "low"], classes=["low"])
    for _ in range(8):
        for start in (0, 20, 40):
            model.partial_fit(X[start : start + 20], y[start : start + 20], classes=["high", "low"])
    assert model.n_iter_ == len(model.loss_curve_) == 24
    assert model.score(*shades(60, seed=1)) > 0.8
    model.partial_fit(X[y == "low"][:1], ["low"])  # a part may be one image of one class
    with pytest.raises(ValueError, match=r"y: expected labels among .*; got other"):
        model.partial_fit(X[:2], ["low", "other"])
    with pytest.raises(ValueError, match="class_weight: 'balanced' needs all images"):
        tiny(class_weight="balanced").partial_fit(X, y, classes=["high", "low"])


def test_a_batch_of_few_images_can_be_split_as_the_recipe_asks() -> None:
    X, y = shades(20)
    recipe = Recipe(epochs=1, batch_size=99, accumulate=3, lr=0.1)
    model = tiny(recipe=recipe, epochs=None, batch_size=None)
    assert model.fit(X, y).n_iter_ == 1
    assert model.partial_fit(X[:1], y[:1]).n_iter_ == 2
    with pytest.raises(ValueError, match="accumulate: 3 does not divide the batch size 8"):
        tiny(recipe=recipe, batch_size=8).fit(X, y)


def test_class_weights_of_parts_need_not_be_of_classes_that_they_show() -> None:
    X, y = shades(20)
    models = [tiny(class_weight=weights) for weights in ({"low": 3}, {"low": 3, "high": 1})]
    for model in models:
        for part in (np.arange(20), np.flatnonzero(y == "high")):
            model.partial_fit(X[part], y[part], classes=["high", "low"])
    assert equal(*models)


def test_each_part_has_an_order_of_its_own_and_hardly_an_image_is_left_over(monkeypatch) -> None:
    X, y = shades(20)
    made: list[Trainer] = []
    monkeypatch.setattr(
        classifier, "Trainer", lambda *given, **named: made.append(Trainer(*given, **named)) or made[-1]
    )
    model = tiny(batch_size=8)
    for _ in range(3):
        model.partial_fit(X, y, classes=["high", "low"])
    assert len({tuple(trainer.source.order(0).tolist()) for trainer in made}) == 3
    assert {(trainer.batches, trainer.recipe.batch_size) for trainer in made} == {(3, 6)}


def test_a_part_is_not_the_beginning_of_training(monkeypatch) -> None:
    X, y = shades(20)
    made: list[Trainer] = []
    monkeypatch.setattr(
        classifier, "Trainer", lambda *given, **named: made.append(Trainer(*given, **named)) or made[-1]
    )
    recipe = Recipe(image_sizes=(6,), image_sizes_until=(0.5,), attribute_warmup=0.9)
    network = {"width": 8, "depth": 4, "rank": 4, "downsample": ()}
    tiny(recipe=recipe, network=network, attributes="rotation=v1@2").partial_fit(X, y, classes=["high", "low"])
    (trainer,) = made
    assert trainer.source.parts(0, 0)[0].shape[2:] == (8, 8)
    assert trainer.step == trainer.steps == 3
    trainer.step = 0
    trainer._train_step(0, 0, 0.1)
    assert float(trainer._strength) == 1.0


def test_fields_of_the_network_are_parameters() -> None:
    model = tiny()
    assert model.get_params()["network__width"] == 4
    assert "network__width" not in model.get_params(deep=False)
    model.set_params(network__width=8, network__inner_elu=True, lr=0.1)
    assert model.network == {**TINY, "width": 8, "inner_elu": True}
    assert TINY["width"] == 4
    with pytest.raises(ValueError, match="network: expected fields of HierarchicalCNNConfig; got wdith"):
        model.set_params(network__wdith=8)
    X, y = shades(40)
    search = GridSearchCV(tiny(epochs=1), {"network__width": [4, 8]}, cv=2).fit(X, y)
    assert {one["network__width"] for one in search.cv_results_["params"]} == {4, 8}
    assert search.best_estimator_.network_config_["width"] == search.best_params_["network__width"]
    steps = make_pipeline(MinMaxScaler(), tiny(epochs=1, image_shape=(8, 8)))
    search = GridSearchCV(steps, {"hcnnclassifier__network__width": [4]}, cv=2).fit(X.reshape(40, 64), y)
    assert search.best_estimator_[-1].network_config_["width"] == 4


def test_boosting() -> None:
    X, y = shades(60, spread=2.0)
    base = tiny(image_shape=(8, 8), early_stopping=False, epochs=6)
    boosted = AdaBoostClassifier(base, n_estimators=2, random_state=0).fit(X.reshape(60, 64), y)
    assert len(boosted.estimators_) == 2
    assert not equal(*boosted.estimators_)
    assert boosted.score(X.reshape(60, 64), y) > 0.7


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({}, {"sample_weight": np.zeros(20)}, "at least one (image|non-zero number)"),
        ({}, {"sample_weight": -np.ones(20)}, "Negative values in data passed to `sample_weight`"),
        ({}, {"sample_weight": np.ones(19)}, r"sample_weight.shape == \(19,\), expected \(20,\)"),
        ({}, {"X_val": shades(4)[0]}, "X_val and y_val: expected both, or neither"),
        ({"early_stopping": False}, {"X_val": shades(4)[0], "y_val": shades(4)[1]}, "expected early_stopping=True"),
        ({}, {"X_val": shades(4)[0], "y_val": ["low"] * 3}, "y_val: expected 4 labels, one for each image .*; got 3"),
        ({}, {"X_val": shades(4)[0], "y_val": 3}, r"should be a 1d array, got an array of shape \(\)"),
        ({}, {"X_val": shades(4)[0], "y_val": ["deep"] * 4}, "y_val: expected labels among .*; got deep"),
        ({}, {"X_val": np.zeros((4, 3, 8, 8)), "y_val": ["low"] * 4}, "X_val: expected images of 1 channel"),
        ({"class_weight": {"low": 1, "deep": 2}}, {}, "The classes, .*high.*, are not in class_weight"),
        ({"class_weight": {"low": 1, "high": -1}}, {}, "class_weight: expected finite weights of 0 or more; got .*-1"),
        ({"class_weight": {"low": 1, "high": np.nan}}, {}, "class_weight: expected finite weights .*; got .*nan"),
        ({"early_stopping": "no"}, {}, "early_stopping: expected True or False; got 'no'"),
        ({"warm_start": "no"}, {}, "warm_start: expected True or False; got 'no'"),
        ({"validation_fraction": "a"}, {}, "validation_fraction: expected a number between 0 and 1; got 'a'"),
        ({"n_iter_no_change": None}, {}, "n_iter_no_change: expected 1 or more; got None"),
        ({"device": None}, {}, "device: expected one of .*; got 'None'"),
        ({"network": {4: 4}}, {}, "network: expected a dict of settings, or None; got {4: 4}"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained(settings, arguments, message) -> None:
    X, y = shades(20)
    with pytest.raises(ValueError, match=message):
        tiny(**settings).fit(X, y, **arguments)


@pytest.mark.parametrize("late", [False, True])
def test_a_fit_that_fails_changes_nothing(late, monkeypatch) -> None:
    """Neither a refusal nor an interrupt leaves new classes or statistics beside the weights of the fit before."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    X, y = shades(20)
    model = tiny().fit(X, y)
    before = copy.deepcopy(vars(model))
    error, weights = ValueError, -np.ones(20)
    if late:
        error, weights = KeyboardInterrupt, None
        monkeypatch.setattr(classifier, "train_until_best", interrupt)
    others = X.reshape(20, 64) * 3
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(error):
            fit(X * 3, y if fit == model.partial_fit else np.arange(20) % 2, sample_weight=weights)
        np.testing.assert_equal(vars(model), before)
    new = tiny(image_shape=(8, 8))
    with pytest.raises(error):
        new.partial_fit(others, y, classes=["high", "low"], sample_weight=weights)
    assert not hasattr(new, "classes_")
    assert not hasattr(new, "n_features_in_")


def test_a_torch_device_is_a_device() -> None:
    X, y = shades(20)
    assert equal(tiny(device=torch.device("cpu")).fit(X, y), tiny().fit(X, y))


def test_rows_for_validation_are_as_long_as_those_of_fit() -> None:
    X, y = shades(20)
    rows = X.reshape(20, 64)
    with pytest.raises(ValueError, match="X has 60 features, but HCNNClassifier is expecting 64 features"):
        tiny(image_shape="row").fit(rows, y, X_val=rows[:, :60], y_val=y)
