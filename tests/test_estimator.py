"""`HCNNClassifier` inside scikit-learn: its own checks, pipelines, searches, pickles."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from hcnn.data import datasets
from hcnn.estimator import HCNNClassifier, predicting
from hcnn.models.factory import build

TINY = {"width": 4, "depth": 4, "rank": 4, "downsample": ()}


def _tiny(**settings: Any) -> HCNNClassifier:
    return HCNNClassifier(**{"network": TINY, "batch_size": 16, "epochs": 15, "random_state": 0, **settings})


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    train = datasets.load("digits").train
    return train.images[:600, 0].numpy(), train.labels[:600].numpy()


@pytest.fixture(scope="module")
def fitted(digits) -> HCNNClassifier:
    X, y = digits
    return _tiny(epochs=5).fit(X[:400], y[:400])


# Why a check of scikit-learn is not required to pass.
EXCLUDED: dict[str, str] = {
    "check_methods_subset_invariance": "wants 1e-7; float32 convolutions of other batch sizes round otherwise, to 4e-7",
    "check_methods_sample_order_invariance": "wants 1e-7 too; an image's place in its batch can change the last bit",
    "check_sample_weight_equivalence_on_dense_data": "a weight of 2 is an image twice in the mean over batches only",
}
_QUICK = (
    "check_no_attributes_set_in_init", "check_parameters_default_constructible", "check_estimator_sparse_array",
    "check_estimators_unfitted", "check_estimators_pickle", "check_n_features_in_after_fitting", "check_fit2d_1sample",
    "check_classifiers_regression_target", "check_classifiers_one_label", "check_dont_overwrite_parameters",
)  # fmt: skip


def _generated(model: HCNNClassifier) -> Any:
    return estimator_checks_generator(model)


@pytest.mark.parametrize("name", _QUICK)
def test_scikit_learns_own_checks(name) -> None:
    checks: list[Any] = [check for _, check in _generated(_tiny(image_shape="row", epochs=1))]
    chosen = [check for check in checks if getattr(check, "func", check).__name__ == name]
    assert chosen
    for check in chosen:
        check(_tiny(image_shape="row", epochs=1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # pandas and array_api, which are not here
def test_all_of_scikit_learns_checks() -> None:
    results = check_estimator(_tiny(image_shape="row"), expected_failed_checks=EXCLUDED, on_skip=None)
    assert sum(one["status"] == "passed" for one in results) >= 56


def test_every_shape_of_x_is_the_same_image(digits, fitted) -> None:
    X, _ = digits
    expected = fitted.predict_proba(X[:20])
    assert np.allclose(fitted.predict_proba(X[:20, None]), expected)
    X3 = np.repeat(X[:, None], 3, 1)
    colour, flat = (
        _tiny(epochs=1, image_shape=shape).fit(data[:100], digits[1][:100])
        for shape, data in ((None, X3), ((3, 8, 8), X3.reshape(len(X3), -1)))
    )
    assert np.array_equal(colour.predict_proba(X3[:20]), flat.predict_proba(X3[:20].reshape(20, -1)))
    grey = _tiny(epochs=1, image_shape=(8, 8)).fit(X[:100].reshape(100, 64), digits[1][:100])
    same = _tiny(epochs=1).fit(X[:100], digits[1][:100])
    assert np.array_equal(grey.predict_proba(X[:20].reshape(20, 64)), same.predict_proba(X[:20]))


@pytest.mark.parametrize("shape", [(16, 16, 4), (8, 8, 3), (4, 4, 3)])
def test_channels_may_come_last(shape) -> None:
    X = np.random.default_rng(0).normal(size=(24, *shape))
    y = np.arange(24) % 2
    last = _tiny(epochs=1).fit(X, y)
    first = _tiny(epochs=1, channels="first").fit(X.transpose(0, 3, 1, 2), y)
    assert last.network_config_["channels"] == shape[-1]
    assert np.array_equal(last.predict_proba(X), first.predict_proba(X.transpose(0, 3, 1, 2)))
    assert _tiny(epochs=1, channels="first").fit(X, y).network_config_["channels"] == shape[0]


def test_it_learns(digits, fitted) -> None:
    X, y = digits
    assert fitted.score(X[400:], y[400:]) > 0.6


def test_properties_are_tied_to_attributes(digits) -> None:
    X, y = digits[0][:100], digits[1][:100]
    tied = _tiny(epochs=2, network={"width": 8}, attributes=("contrast=v3@3",)).fit(X, y)
    assert tied.network_config_["boundary"] == "circular"
    plain = _tiny(epochs=2, network={"width": 8, "boundary": "circular"}).fit(X, y)
    assert any(not np.array_equal(tied.weights_[name], value) for name, value in plain.weights_.items())
    with pytest.raises(ValueError, match="attribute contrast=v9@3: expected one of"):
        _tiny(network={"width": 8}, attributes=("contrast=v9@3",)).fit(X, y)


def test_the_scale_of_the_pixels_does_not_matter(digits) -> None:
    X, y = digits[0][:100], digits[1][:100]
    expected = _tiny(epochs=1).fit(X, y).predict_proba(X)
    assert np.allclose(_tiny(epochs=1).fit(X * 1e-3 + 7, y).predict_proba(X * 1e-3 + 7), expected, atol=2e-3)


def test_probabilities_features_and_names(digits, fitted) -> None:
    X = digits[0][400:420]
    probabilities = fitted.predict_proba(X)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(X))
    features = fitted.transform(X)
    assert features.shape == (20, len(fitted.get_feature_names_out()))
    assert fitted.get_feature_names_out()[0] == "v1=0_v2=0"
    assert fitted.to_network().folded


def test_pipelines_searches_and_scores(digits) -> None:
    X, y = digits[0][:160].reshape(160, 64), digits[1][:160]
    model = _tiny(image_shape=(8, 8), epochs=8, early_stopping=False)
    quick = _tiny(image_shape=(8, 8), epochs=1)
    scores = cross_val_score(make_pipeline(MinMaxScaler(), quick), X, y, cv=2)
    assert scores.shape == (2,)
    search = GridSearchCV(model, {"lr": [1e-6, 0.1], "network": [TINY]}, cv=2).fit(X, y)
    assert search.best_params_["lr"] == 0.1
    assert search.best_estimator_.classes_.tolist() == list(range(10))
    features = make_pipeline(clone(search.best_estimator_), LinearSVC()).fit(X, y)
    assert features.score(X, y) > 0.3


def test_pickles_and_copies_hold_arrays_and_settings_only(digits, fitted) -> None:
    X = digits[0][:20]
    data = pickle.dumps(fitted)
    assert b"torch" not in data  # no tensor, no module: NumPy arrays, numbers and text
    for again in (pickle.loads(data), copy.deepcopy(fitted)):
        assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert not hasattr(clone(fitted), "weights_")


def test_a_pickle_of_an_earlier_version_has_the_defaults_of_newer_settings(digits, fitted) -> None:
    X, y = digits
    older = copy.deepcopy(fitted)
    for name in ("attributes", "init", "freeze"):
        del older.__dict__[name]
    del older.network_config_["first_attribute"]
    older = pickle.loads(pickle.dumps(older))
    assert older.get_params() == fitted.get_params()
    assert np.array_equal(older.predict(X[:20]), fitted.predict(X[:20]))
    assert older.partial_fit(X[:50], y[:50]).n_iter_ == fitted.n_iter_ + 1


def test_numbers_of_numpy_are_numbers(digits) -> None:
    X, y = digits[0][:60], digits[1][:60]
    first = _tiny(epochs=np.int64(1), batch_size=np.int32(16), lr=np.float64(0.1)).fit(X, y)
    assert np.array_equal(first.predict(X), _tiny(epochs=1, batch_size=16, lr=0.1).fit(X, y).predict(X))


def test_equal_seeds_give_equal_weights_and_leave_the_global_state(digits) -> None:
    X, y = digits[0][:100], digits[1][:100]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, third = (_tiny(epochs=1, random_state=seed).fit(X, y) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(first.weights_[name], second.weights_[name]) for name in first.weights_)
    assert any(not np.array_equal(first.weights_[name], third.weights_[name]) for name in first.weights_)


def test_seeds_hold_in_threads(digits) -> None:
    X, y = digits[0][:100], digits[1][:100]

    def fit(seed: int) -> np.ndarray:
        model = _tiny(epochs=2, random_state=seed).fit(X, y)
        return model.predict_proba(X)

    seeds = [0, 1, 2, 3, 0, 1]
    alone = [fit(seed) for seed in seeds[:4]]
    before = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002 - the global state it is
    together: Any = joblib.Parallel(n_jobs=3, backend="threading")(joblib.delayed(fit)(seed) for seed in seeds)
    for seed, probabilities in zip(seeds, together, strict=True):
        assert np.array_equal(probabilities, alone[seed])
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002


def test_predicting_builds_the_network_once_and_draws_nothing(digits, fitted, monkeypatch) -> None:
    X = digits[0][:20]
    model = pickle.loads(pickle.dumps(fitted))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    expected = model.predict_proba(X)
    built = []
    monkeypatch.setattr(predicting, "build", lambda config: built.append(config) or build(config))
    assert np.array_equal(model.predict_proba(X), expected)
    assert model.transform(X).shape[0] == 20
    assert built == []
    assert torch.equal(before, torch.random.get_rng_state())
    # However the weights are changed, they are those that predict.
    name = next(iter(model.weights_))
    model.weights_[name] *= 0.5
    changed = model.predict_proba(X)
    assert not np.allclose(changed, expected)
    model.weights_ = {**fitted.weights_}
    assert np.array_equal(model.predict_proba(X), expected)
    assert len(built) == 2


def test_early_stopping_keeps_the_best_epoch(digits) -> None:
    X, y = digits[0][:300], digits[1][:300]
    model = _tiny(epochs=40, n_iter_no_change=2, validation_fraction=0.2).fit(X, y)
    scores = model.validation_scores_
    assert model.n_iter_ == len(scores) < 40
    assert max(scores) in scores[: -model.n_iter_no_change]
    assert _tiny(epochs=3, early_stopping=False).fit(X, y).validation_scores_ == []


def test_labels_of_any_kind(digits) -> None:
    X, y = digits[0][:100], np.array(["odd" if one % 2 else "even" for one in digits[1][:100]])
    model = _tiny(epochs=1).fit(X, y)
    assert model.classes_.tolist() == ["even", "odd"]
    assert set(model.predict(X)) <= {"even", "odd"}


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_the_columns_of_a_data_frame_are_checked(library, digits) -> None:
    frames = pytest.importorskip(library)
    X, y = digits[0][:100].reshape(100, 64).astype(float), digits[1][:100]
    names = [f"pixel{i}" for i in range(64)]
    frame = frames.DataFrame(dict(zip(names, X.T, strict=True)))
    plain = _tiny(epochs=1, image_shape=(8, 8)).fit(X, y)
    assert not hasattr(plain, "feature_names_in_")
    model = _tiny(epochs=1, image_shape=(8, 8)).fit(frame, y)
    assert vars(model)["feature_names_in_"].tolist() == names
    assert np.array_equal(model.predict_proba(frame), plain.predict_proba(X))  # a warning would be an error here
    for method in (model.predict, model.predict_proba, model.transform):
        with pytest.raises(ValueError, match="Feature names must be in the same order"):
            method(frame[names[::-1]])
        with pytest.raises(ValueError, match=r"Feature names seen at fit time, yet now missing:\n- pixel63"):
            method(frame[names[:63]])
        with pytest.raises(ValueError, match=r"Feature names unseen at fit time:\n- other"):
            method(frames.DataFrame(dict(zip([*names[:63], "other"], X.T, strict=True))))
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        _tiny(epochs=1, image_shape=(8, 8)).fit(frame, y, X_val=frame[names[::-1]], y_val=y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    with pytest.warns(UserWarning, match="X has feature names, but HCNNClassifier was fitted without"):
        plain.predict(frame)


def test_a_refit_forgets_the_columns_of_the_fit_before(digits) -> None:
    frames = pytest.importorskip("pandas")
    X, y = digits[0][:100], digits[1][:100]
    frame = frames.DataFrame(X.reshape(100, 64).astype(float)).add_prefix("pixel")
    model = _tiny(epochs=1, image_shape=(8, 8)).fit(frame, y)
    model.fit(X, y).predict(X)
    assert not hasattr(model, "feature_names_in_")
    assert not hasattr(model, "n_features_in_")


def test_wrong_input_is_explained(digits, fitted) -> None:
    X, y = digits
    with pytest.raises(ValueError, match=r"or \(n, features\) with image_shape given; got shape \(600, 64\)"):
        _tiny().fit(X.reshape(600, 64), y)
    with pytest.raises(ValueError, match=r"image_shape: expected .* of 64 numbers in all, or 'row'; got \(8, 9\)"):
        _tiny(image_shape=(8, 9)).fit(X.reshape(600, 64), y)
    with pytest.raises(ValueError, match=r"X: shape \(10, 8, 8, 8\) may be .*; say which with channels='first'"):
        _tiny().fit(np.zeros((10, 8, 8, 8)), np.arange(10) % 2)
    with pytest.raises(ValueError, match=r"X: expected images of 1 channel; got shape \(2, 3, 8, 8\)"):
        fitted.predict(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match="validation_fraction: expected a number between 0 and 1; got 2"):
        _tiny(validation_fraction=2).fit(X, y)
    with pytest.raises(ValueError, match=r"device: expected one of cpu.*; got 'gpu'"):
        _tiny(device="gpu").fit(X, y)
    with pytest.raises(ValueError, match="unknown recipe 'fats'"):
        _tiny(recipe="fats").fit(X, y)
    for shape in (64, (8.0, 8.0), (-8, -8)):
        with pytest.raises(ValueError, match=r"image_shape: expected .* of 64 numbers in all, or 'row'; got"):
            _tiny(image_shape=shape).fit(X.reshape(600, 64), y)
    with pytest.raises(ValueError, match=r"X: expected numbers up to 3.4e38, which float32 can hold; \d+ of 38400 are"):
        _tiny().fit(X * 1e300, y)
    with pytest.raises(ValueError, match=r"X: expected images of at least one pixel; got shape \(600, 1, 8, 0\)"):
        _tiny().fit(X[:, :, :0], y)
    with pytest.raises(ValueError, match="network: channels and classes follow from the data; got classes"):
        _tiny(network={"classes": 3}).fit(X, y)
    with pytest.raises(ValueError, match="network: expected a dict of settings, or None; got 'hcnn_digits'"):
        _tiny(network="hcnn_digits").fit(X, y)
    with pytest.raises(ValueError, match=r"y: expected labels of at least two classes; all 5 are 'cat'"):
        _tiny().fit(X[:5], ["cat"] * 5)
    with pytest.raises(ValueError, match="expected training images that differ; all 10 have the same constant colour"):
        _tiny(early_stopping=False).fit(np.full((10, 8, 8), 3.0), np.arange(10) % 2)
    with pytest.raises(ValueError, match="NaN"):
        _tiny().fit(np.full((4, 8, 8), np.nan), [0, 1, 0, 1])


def test_the_split_is_by_class(digits) -> None:
    X, y = digits
    X_train, X_test, y_train, _ = train_test_split(X, y, test_size=0.5, random_state=0)
    assert _tiny(epochs=1).fit(X_train, y_train).predict(X_test[:3]).shape == (3,)


def test_without_scikit_learn_the_error_says_how_to_install_it() -> None:
    script = "import sys; sys.modules['sklearn'] = None\nimport hcnn.estimator"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "hcnn.estimator needs scikit-learn: pip install scikit-learn" in done.stderr


def test_images_that_cannot_be_written_are_taken(tmp_path) -> None:
    X, y = np.random.default_rng(0).normal(size=(40, 8, 8)).astype(np.float32), np.arange(40) % 2
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = _tiny(epochs=1).fit(mapped, y)
    assert np.array_equal(model.predict_proba(mapped), _tiny(epochs=1).fit(X, y).predict_proba(X))
