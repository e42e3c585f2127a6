"""The paper's other systems: their sizes as published, their training on digits, and what bad input says."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import hcnn
from hcnn import cli
from hcnn.data import datasets
from hcnn.data.preprocessing import Preprocessing
from hcnn.data.splits import fewer
from hcnn.models.baselines import BASELINES, HyperNetwork
from hcnn.models.baselines.blocks import BatchNorm
from hcnn.models.baselines.hypernetwork import GeneratedConv
from hcnn.models.records import network_config
from hcnn.models.registry import model_config, model_spec
from hcnn.models.summary import summarize
from hcnn.runs.load import load_run
from hcnn.runs.settings import RunSettings, run_differences
from hcnn.runs.train import train_run
from hcnn.training.evaluate import accuracy
from hcnn.training.recipes import get_recipe

RESULTS = Path(__file__).parents[2] / "results"
# All learned numbers, and what the publication prints.
COUNTS = {
    "allcnn_cifar10": (1_369_738, "1.3M or 1.4M"),
    "resnet20_cifar10": (269_722, "0.27M"),
    "nin_cifar10": (966_986, "none; the HCNN paper's 0.98M is the next one"),
    "nin_cifar100": (984_356, "0.98M"),
    "wrn16_1_cifar10": (175_066, "0.2M"),
    "wrn16_2_cifar10": (691_674, "0.7M"),
    "wrn40_1_cifar10": (563_930, "0.6M; 0.563M in Ha et al."),
    "fitnet4_cifar10": (2_548_602, "2.5M"),
    "maxout_cifar10": (9_046_330, "9M"),
    "hypernetwork_cifar10": (97_770, "0.097M, cut"),
    "densenet_bc40_cifar10": (176_122, "0.18M"),
    "compact_cifar10": (95_458, "at most 97,530"),
    "resnet8_cifar10": (78_186, "78,666 with 480 running statistics"),
    "tiniest_cifar10": (97_530, "97,530"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_of_the_publication(name) -> None:
    model = hcnn.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name][0]
    counts = hcnn.count_parameters(model)
    assert counts.trained + counts.normalization + counts.logit_scale == COUNTS[name][0]
    rows = summarize(model, (32, 32))
    assert sum(row.trained for row in rows) == counts.trained
    assert sum(row.normalization for row in rows) == counts.normalization


def test_counts_of_publications_that_count_otherwise() -> None:
    wrn = hcnn.count_parameters(hcnn.create_model("wrn16_1_cifar10"))
    assert wrn.trained == 174_138  # the HCNN paper's 0.17M: without normalizations
    hyper = hcnn.count_parameters(hcnn.create_model("hypernetwork_cifar10"))
    assert hyper.composed + hyper.normalization == 563_930  # what computes is WRN-40-1
    small = hcnn.create_model(
        "fitnet4_cifar10", widths=(16, 16, 16, 32, 32, 32, 48, 48, 64), downsample=(3, 6)
    )  # FitNet 1, whose 250K and 30M multiplications fix how Romero et al. count
    assert sum(p.numel() for p in small.parameters() if p.ndim > 1) == 249_576
    maxout = hcnn.create_model("maxout_cifar10")
    assert sum(p.numel() for p in maxout.parameters() if p.ndim > 1) == 9_044_360
    for model, millions in ((small, 30), (hcnn.create_model("fitnet4_cifar10"), 382), (maxout, 725)):
        assert round(model.multiply_adds((32, 32)) / 1e6) == millions


def test_small_networks_cost_what_is_published() -> None:
    resnet8, tiniest = (hcnn.create_model(name) for name in ("resnet8_cifar10", "tiniest_cifar10"))
    statistics = sum(value.numel() for key, value in resnet8.named_buffers() if "running" in key)
    assert sum(p.numel() for p in resnet8.parameters()) + statistics == 78_666
    assert resnet8.multiply_adds((32, 32)) == 12_501_632  # published as 12.5 M
    assert tiniest.multiply_adds((32, 32)) == 43_878_176  # published as 43.9 M


@pytest.mark.parametrize("name", [f"{system}_digits" for system, data in BASELINES if data == "digits"])
def test_every_parameter_gets_a_gradient(name) -> None:
    torch.manual_seed(0)
    model = hcnn.create_model(name)
    logits = model(torch.randn(8, 1, 8, 8))
    assert logits.shape == (8, 10)
    torch.nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
    modules = dict(model.named_modules())
    assert len(model.stages) >= 3
    assert all(stage in modules for stage in model.stages)


@pytest.mark.parametrize("name", ["resnet20_cifar100", "maxout_cifar100", "compact_cifar100"])
def test_cifar100(name) -> None:
    assert hcnn.create_model(name).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 100)


def test_multiply_adds_agree_with_the_summary() -> None:
    names = "resnet20_cifar10", "densenet_bc40_cifar10", "compact_cifar10", "tiniest_cifar10"
    for name in (*names, "hcnn_digits", "hypernetwork_digits"):
        model = hcnn.create_model(name)
        side = 8 if name.endswith("digits") else 32
        expected = sum(row.multiply_adds for row in summarize(model, (side, side)))
        found = model.multiply_adds((side, side))
        assert found == expected, name


@pytest.mark.parametrize("name", ["resnet8_digits", "hypernetwork_digits"])
def test_whoever_counts_changes_nothing(name) -> None:
    model = hcnn.create_model(name)
    model.get_submodule("norm").eval()  # as in fine-tuning
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    counted = [(hcnn.count_parameters(model), summarize(model, (8, 8)), model.multiply_adds((8, 8))) for _ in range(2)]
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert counted[0] == counted[1]


# ---------------------------------------------------------------------------------------------- hypernetwork


def test_a_generated_network_takes_over_type_preprocessing_and_outputs() -> None:
    model = hcnn.create_model("hypernetwork_digits", depth=10).double().eval()
    model.preprocessing = Preprocessing((0.3,), (0.4,), (8, 8), tuple("0123456789"))
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    made = model.inference()
    torch.testing.assert_close(made(x), model(x), rtol=1e-12, atol=1e-12)
    assert made.preprocessing == model.preprocessing


def test_a_hypernetwork_keeps_its_kernels_for_inference_until_something_changes() -> None:
    torch.manual_seed(0)
    model = hcnn.create_model("hypernetwork_digits", depth=10).eval()
    assert isinstance(model, HyperNetwork)
    x, conv = torch.randn(2, 1, 8, 8), cast(GeneratedConv, model.get_submodule("groups.1.0.conv2"))
    with torch.no_grad():
        before = model(x)
        kernel = conv.kernel()
        assert conv.kernel() is kernel  # kept
        torch.testing.assert_close(model.generated()(x), before)
        model.generator.second.mul_(1.5)  # as an optimizer or load_state_dict would
        assert conv.kernel() is not kernel
        torch.testing.assert_close(conv.kernel(), 1.5 * kernel)
        other = copy.deepcopy(model)
        other.load_state_dict(hcnn.create_model("hypernetwork_digits", depth=10).state_dict())
        assert not torch.equal(other(x), model(x))
    assert conv.kernel().requires_grad  # with gradients it is made anew
    assert not any("_kept" in key or "_shared" in key for key in model.state_dict())
    assert sum(key.startswith("generator.") for key in model.state_dict()) == 4


# -------------------------------------------------------------------------------------------------- training


def _train(folder, name, *, recipe=None, **options):
    recipe = recipe or get_recipe("digits", epochs=4)
    settings = RunSettings(hcnn.model_config(name), recipe, "digits", **options)
    return train_run(folder, settings, datasets.load("digits"))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # 8x8 images are too small to share
    yield
    torch.set_num_threads(threads)


NAMES = [system for system, data in BASELINES if data == "digits"]
WIDE = ("wrn16_2", "wrn40_1", "maxout")  # wider versions and teachers of what is trained anyway
LONG = ("allcnn", "fitnet4", "densenet_bc40")  # ten seconds or more


@pytest.mark.parametrize("system", LONG)
def test_long_systems_begin_to_learn(system, tmp_path, one_thread) -> None:
    data = fewer(datasets.load("digits"), 320)
    recipe = get_recipe(model_spec(f"{system}_digits").recipe, epochs=4)
    train_run(tmp_path, RunSettings(hcnn.model_config(f"{system}_digits"), recipe, "digits"), data)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    assert losses[3] < 0.99 * losses[0]


@pytest.mark.parametrize(
    "system",
    [pytest.param(name, marks=[pytest.mark.slow] if name in (*WIDE, *LONG) else []) for name in NAMES],
)
def test_every_system_learns_the_digits(system, tmp_path, one_thread) -> None:
    suited = model_spec(f"{system}_digits").recipe
    epochs = {"digits": 6, "digits_muon": 10, "digits_plain": 18}[suited]
    epochs += 12 * (system == "fitnet4")  # 19 layers
    recipe = get_recipe(suited, epochs=epochs)
    result = _train(tmp_path / "run", f"{system}_digits", recipe=recipe)
    assert result["test_accuracy"] > 0.95
    run = load_run(tmp_path / "run")
    test = datasets.load("digits").test
    assert test is not None
    assert accuracy(run.model, run.preprocessing.standardize(test.images), test.labels) == result["test_accuracy"]


def test_the_command_chooses_a_recipe_that_the_network_learns_by(tmp_path, one_thread) -> None:
    for name, expected in (
        ("fitnet4_digits", "digits_plain"),
        ("nin_digits", "digits_muon"),
        ("resnet20_digits", "digits"),
    ):
        folder = tmp_path / name
        small = ["--train-images", "80", "--epochs", "1", "--threads", "1", "--output", str(folder)]
        models = ["--model", "hcnn_digits", f"--model={name}"]  # of which the last counts
        assert cli.main(["train", "digits", *models, *small]) == 0
        trained = json.loads((folder / "config.json").read_text())["recipe"]
        assert trained["optimizer"] == get_recipe(expected).optimizer
        assert trained["lr"] == get_recipe(expected).lr
    assert {model_spec(f"{name}_cifar10").recipe for name in ("fitnet4", "maxout")} == {"fast_plain"}
    assert model_spec("hcnn_cifar10").recipe == "cifar"


def test_dropout_goes_on_bit_for_bit(tmp_path, one_thread) -> None:
    """Stopped after a step and gone on, a run with dropout ends as one that was never stopped."""
    data = dataclasses.replace(fewer(datasets.load("digits"), 300), test=None)
    recipe = get_recipe("digits_plain", epochs=1)
    settings = RunSettings(hcnn.model_config("nin_digits", widths=(8,) * 8), recipe, "digits")
    whole = train_run(tmp_path / "whole", settings, data)

    class Stop(Exception):
        pass

    def stop(progress) -> None:
        torch.rand(7)  # whatever else draws random numbers
        if progress.step == 2:
            raise Stop

    hasty = dataclasses.replace(settings, checkpoint_seconds=0.0)
    with pytest.raises(Stop):
        train_run(tmp_path / "parts", hasty, data, on_step=stop)
    parts = train_run(tmp_path / "parts", hasty, data, resume=True)
    assert parts["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_normalization_over_processes_is_that_of_the_whole_batch(dtype, accuracy) -> None:
    """`BatchNorm` in a group of one equals torch's, values, gradients and running statistics."""
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4, 4, dtype=dtype, requires_grad=True)
    ours, theirs = BatchNorm(5).to(dtype), torch.nn.BatchNorm2d(5, dtype=dtype)
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        vars(ours)["hcnn_group"] = torch.distributed.group.WORLD
        weight = torch.randn_like(x)
        gradients = [torch.autograd.grad((norm(x) * weight).sum(), x)[0] for norm in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=accuracy, atol=accuracy / 100)
        torch.testing.assert_close(ours(x), theirs(x), rtol=accuracy / 10, atol=accuracy / 100)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("pools", [(1, 2, 3), (2, 1, 1), (4, 4, 2)])
def test_the_sides_of_a_maxout_network_are_those_of_its_maps(pools) -> None:
    for side in (16, 17, 18, 19):
        model = hcnn.create_model("maxout_cifar10", input_side=side, widths=(2, 2, 2), hidden=2, pools=pools)
        assert model(torch.randn(1, 3, side, side)).shape == (1, 10)


# -------------------------------------------------------------------------------------------- network in network


def test_network_in_network_takes_maxima_after_both_blocks_as_published() -> None:
    """Lin et al. 2013, section 4.1, with the windows of their cuda-convnet: the first begins at the first pixel."""
    torch.manual_seed(0)
    model = hcnn.create_model("nin_cifar10", widths=(4,) * 8).eval()
    theirs = copy.deepcopy(model)
    for module in theirs.modules():  # our windows are theirs of the mirrored image
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.flip(2, 3)
    x = y = torch.randn(2, 3, 32, 32)
    for number in range(3):
        y = theirs.get_submodule(f"blocks.{number}")(y)
        if number < 2:
            y = torch.nn.functional.max_pool2d(y, 3, 2, ceil_mode=True)
    assert y.shape == (2, 10, 8, 8)
    torch.testing.assert_close(model(x.flip(2, 3)), y.mean((2, 3)))


def test_a_network_in_network_of_an_earlier_version_keeps_its_means() -> None:
    config = json.loads((RESULTS / "short" / "nin" / "config.json").read_text(encoding="utf-8"))
    del config["model"]["second_pool"]  # which it did not write
    assert network_config(config) == model_config("nin_cifar10", second_pool="mean")
    now = {**config, "model": dataclasses.asdict(model_config("nin_cifar10"))}
    assert run_differences(config, now)["model.second_pool"] == ("max", "mean")
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    of_means = hcnn.create_model("nin_cifar10", second_pool="mean").eval()
    of_maxima = hcnn.create_model("nin_cifar10").eval()
    of_maxima.load_state_dict(of_means.state_dict())
    assert not torch.allclose(of_means(x), of_maxima(x))


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet20_cifar10", {"depth": 21}, r"ResNet: depth: expected 6n \+ 2 layers, n >= 1; got 21"),
        ("wrn16_1_cifar10", {"depth": 20}, r"WideResNet: depth: expected 6n \+ 4 layers"),
        ("wrn16_1_cifar10", {"width": 0}, "expected a factor of at least 1; got 0"),
        ("resnet20_cifar10", {"downsample": (4,)}, r"downsample: expected stages between 1 and 3; got \(4,\)"),
        ("compact_cifar10", {"downsample": (1, 2)}, r"downsample: expected stages between 2 and 3; got \(1, 2\)"),
        ("allcnn_cifar10", {"dropout": (0.2, 1.0)}, r"two probabilities in \[0, 1\)"),
        ("allcnn_cifar10", {"dropout": (0.2,)}, r"dropout: expected 2 numbers; got \(0\.2,\)"),
        ("allcnn_cifar10", {"width": 0}, "AllCNN: width: expected a positive number of filters; got 0"),
        ("resnet20_cifar10", {"width": 0}, "ResNet: width: expected a positive number of filters; got 0"),
        ("maxout_cifar10", {"widths": (96, 192)}, r"widths: expected 3 whole numbers; got \(96, 192\)"),
        ("maxout_cifar10", {"hidden": 0}, "MaxoutNetwork: expected positive widths, pieces and hidden units"),
        ("nin_cifar10", {"widths": (1, 2)}, r"eight numbers of filters; got \(1, 2\)"),
        ("nin_cifar10", {"second_pool": "min"}, "second_pool: expected 'max' or 'mean'; got 'min'"),
        ("maxout_cifar10", {"input_side": 8}, "images of 8x8 are too small for supports"),
        ("densenet_bc40_cifar10", {"growth": 0}, "growth: expected a positive number of maps; got 0"),
        ("compact_cifar10", {"support": 4}, "odd support; got 4"),
        ("resnet8_cifar10", {"width": 0}, "width: expected a positive number of filters; got 0"),
        ("tiniest_cifar10", {"widths": (48, 72)}, r"positive multiples of 16; got \(48, 72\)"),
        ("tiniest_cifar10", {"depth": 0}, "positive number of blocks; got 0"),
        ("hypernetwork_cifar10", {"embedding": 0}, "embedding: expected a positive size"),
        ("fitnet4_cifar10", {"pieces": 0}, "expected positive widths, pieces and hidden units"),
        ("resnet20_cifar10", {"classes": 0}, "classes: expected a positive number; got 0"),
        ("resnet20_cifar10", {"num_classes": 3.0}, "classes: expected a whole number; got 3.0"),
        ("nin_cifar10", {"dropout": "0.5"}, "dropout: expected a number; got '0.5'"),
        ("resnet20_cifar10", {"wide": 3}, r"resnet20_cifar10: unknown settings \['wide'\]"),
    ],
)
def test_bad_configurations_are_explained(name, overrides, message) -> None:
    with pytest.raises(ValueError, match=message):
        hcnn.create_model(name, **overrides)


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'resnet_cifar10'; did you mean resnet8_cifar10"):
        hcnn.create_model("resnet_cifar10")


def test_bad_images_are_explained() -> None:
    model = hcnn.create_model("allcnn_cifar10")
    with pytest.raises(ValueError, match=r"AllCNN: expected images \(b, 3, u1, u2\), at least one; got shape \(1, 1,"):
        model(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match=r"AllCNN: expected a tensor \(b, 3, u1, u2\); got a ndarray"):
        model(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="AllCNN: expected images of at least 9x9; got 8x8"):
        model(torch.zeros(1, 3, 8, 8))
    model(torch.zeros(1, 3, 9, 9))
    with pytest.raises(ValueError, match=r"AllCNN: expected floating-point values, standardized; got torch.uint8"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"AllCNN: expected torch.float32, as its parameters are; got torch.float64"):
        model(torch.zeros(1, 3, 32, 32).double())
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(1, 3, 32, 32).bfloat16())
    assert model.double().multiply_adds((32, 32)) == sum(row.multiply_adds for row in summarize(model, (32, 32)))
    with pytest.raises(ValueError, match="expected images of 32x32, as input_side says; got 16x16"):
        hcnn.create_model("maxout_cifar10")(torch.zeros(1, 3, 16, 16))
