"""Losses of a teacher: their values, any network on either side, and what is refused before training."""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

import hcnn
from hcnn.data import datasets
from hcnn.data.image_set import ImageSet, Splits
from hcnn.data.preprocessing import Preprocessing
from hcnn.data.splits import fewer
from hcnn.runs.settings import RunSettings
from hcnn.runs.train import train_run
from hcnn.training.distillation.config import DistillationConfig, get_distillation
from hcnn.training.distillation.layer_pairs import find_pairs, layer_shapes
from hcnn.training.distillation.losses import Distillation, attention_loss, attention_map, check_teacher, soft_loss
from hcnn.training.recipes import get_recipe

DIGITS = Preprocessing((0.3,), (0.3,), (8, 8), tuple("0123456789"))
IMAGE = torch.zeros(1, 1, 8, 8)


def test_soft_targets_are_hintons() -> None:
    """The gradient in the student's logits is T (softmax(s / T) - softmax(t / T)) per image, by hand."""
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    soft_loss(student, teacher, 3.0).backward()
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 5
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach())
    assert float(soft_loss(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-6)


def test_attention_looks_at_where_not_at_how_much() -> None:
    maps = torch.rand(2, 3, 4, 4)
    assert float(attention_loss(maps, 7 * maps)) == pytest.approx(0, abs=1e-12)
    other = torch.zeros(1, 1, 1, 2)
    other[..., 1] = 3.0
    first = torch.zeros(1, 5, 1, 2)
    first[..., 0] = 1.0
    assert float(attention_loss(first, other)) == pytest.approx(1.0)  # (1, 0) against (0, 1): mean of 1 and 1


def test_a_map_of_attention_adds_up_squares() -> None:
    maps = torch.tensor([[[[1.0, -2.0]], [[2.0, 0.0]]]])
    torch.testing.assert_close(attention_map(maps), torch.tensor([[5.0, 4.0]]) / math.sqrt(41))


def _distillation(
    student: str, teacher: str, config: DistillationConfig, precision: str = "float32"
) -> tuple[Any, Distillation]:
    torch.manual_seed(0)
    one, other = hcnn.create_model(student), hcnn.create_model(teacher)
    return one, Distillation(other, one, DIGITS, DIGITS, config, precision=precision)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("wrn16_1_digits", "wrn40_1_digits"),
        ("hcnn_digits", "wrn16_1_digits"),
        ("wrn16_1_digits", "hcnn_digits"),
        ("compact_digits", "hypernetwork_digits"),
        ("multiscale", "resnet20_digits"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_network_teaches_any_other(student, teacher, precision) -> None:
    config = DistillationConfig(soft_targets=0.5, attention=1000.0, hints=1.0)
    if student == "multiscale":
        model = hcnn.create_model("multiscale_tiny", channels=1)
        distill = Distillation(hcnn.create_model(teacher), model, DIGITS, DIGITS, config, precision=precision)
    else:
        model, distill = _distillation(student, teacher, config, precision)
    x = torch.randn(6, 1, 8, 8)
    logits = model(x)
    label_loss = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    loss = distill.loss(x, logits, label_loss, epoch=0, progress=0.0)
    assert float(loss.detach()) > float(label_loss.detach())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in distill.regressors.parameters())
    assert all(p.grad is None for p in distill.teacher.parameters())
    assert not distill.teacher.training


def test_the_sum_is_composed_of_its_parts() -> None:
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    parts = []
    for config in (
        DistillationConfig(labels=0.0, soft_targets=0.9),
        DistillationConfig(labels=0.0, attention=50.0),
        DistillationConfig(labels=0.2, soft_targets=0.9, attention=50.0),
    ):
        model, distill = _distillation("wrn16_1_digits", "wrn40_1_digits", config)
        logits = model(x)
        label_loss = torch.nn.functional.cross_entropy(logits, labels)
        parts.append((distill.loss(x, logits, label_loss, epoch=0, progress=0.0).item(), label_loss.item()))
    assert parts[2][0] == pytest.approx(parts[0][0] + parts[1][0] + 0.2 * parts[2][1], rel=1e-5)


def test_each_part_is_weighted_as_its_formula_says() -> None:
    x = torch.randn(4, 1, 8, 8)
    for config in (
        DistillationConfig(labels=0.0, soft_targets=0.9, temperature=3.0),
        DistillationConfig(labels=0.0, attention=50.0),
        DistillationConfig(labels=0.0, hints=7.0),
    ):
        model, distill = _distillation("wrn16_1_digits", "wrn40_1_digits", config)
        logits = model(x)
        found = distill.loss(x, logits, torch.zeros(()), epoch=0, progress=0.0).item()
        with torch.no_grad():
            expected = 0.9 * soft_loss(logits, distill.teacher(x), 3.0) if config.soft_targets else torch.zeros(())
            for number, (name, other, *_) in enumerate(distill.pairs):
                student, teacher = distill._student.kept[name], distill._teacher.kept[other]
                if config.attention:
                    expected += 50 / 2 * attention_loss(student, teacher)
                else:
                    expected += 7 / 2 * (distill.regressors[number](student) - teacher).square().mean()
        assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_weight_of_soft_targets_moves_and_hints_come_first() -> None:
    config = DistillationConfig(labels=0.0, soft_targets=4.0, soft_targets_end=1.0, hints=1.0, hint_epochs=2)
    model, distill = _distillation("wrn16_1_digits", "wrn40_1_digits", config)
    x = torch.randn(4, 1, 8, 8)
    logits = model(x)
    zero = torch.zeros(())
    at = [distill.loss(x, logits, zero, epoch=2, progress=p).item() for p in (0.0, 0.5, 1.0)]
    assert at[1] == pytest.approx(at[0] * 2.5 / 4, rel=1e-5)
    assert at[2] == pytest.approx(at[0] / 4, rel=1e-5)
    distill.loss(x, logits, zero, epoch=1, progress=0.0).backward()
    assert model.linear.weight.grad is None  # hints alone reach no further than their layer
    assert model.groups[2][0].conv1.weight.grad is not None


def test_a_teacher_sees_its_own_standardization() -> None:
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    other = dataclasses.replace(DIGITS, mean=(0.5,), std=(0.2,))
    student, teacher = hcnn.create_model("wrn16_1_digits"), hcnn.create_model("wrn40_1_digits")
    distill = Distillation(teacher, student, other, DIGITS, DistillationConfig(soft_targets=1.0))
    seen = []
    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = DIGITS.standardize(pixels)
    distill.loss(x, student(x), torch.zeros(()), epoch=0, progress=0.0)
    torch.testing.assert_close(seen[0], other.standardize(pixels), rtol=1e-5, atol=1e-5)


def test_pairs_are_the_last_layers_of_each_common_resolution() -> None:
    student, teacher = hcnn.create_model("hcnn_small_cifar10"), hcnn.create_model("wrn16_1_cifar10")
    found = find_pairs(student, teacher, torch.zeros(1, 3, 32, 32), DistillationConfig(attention=1.0))
    assert [(s, t) for s, t, *_ in found] == [
        ("layers.3", "groups.0"),
        ("layers.7", "groups.1"),
        ("layers.10", "groups.2"),
    ]
    assert [shape for *_, shape, _ in found] == [(64, 32, 32), (64, 16, 16), (80, 8, 8)]


def test_the_hint_of_fitnets_fits() -> None:
    """Layer 11 of FitNet 4 (80 maps of 8x8) learns from layer 2 of the maxout network (192 of 7x7): support 2."""
    student, teacher = hcnn.create_model("fitnet4_cifar10"), hcnn.create_model("maxout_cifar10")
    size = Preprocessing((0.5,) * 3, (0.2,) * 3, (32, 32), tuple("0123456789"))
    distill = Distillation(teacher, student, size, size, get_distillation("fitnet"))
    shapes = [tuple(p.shape) for p in distill.regressors.parameters() if p.ndim > 1]
    assert shapes == [(192, 80, 2, 2)]


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = get_recipe("digits", epochs=2)
    train_run(folder, RunSettings(hcnn.model_config("wrn16_1_digits"), recipe, "digits"), _few(1000))
    yield folder
    torch.set_num_threads(threads)


def _few(count: int) -> Splits:
    return dataclasses.replace(fewer(datasets.load("digits"), count), test=None)


def test_a_taught_run_is_recorded_and_goes_on_bit_for_bit(teacher_run, tmp_path) -> None:
    config = DistillationConfig(soft_targets=0.9, attention=100.0, hints=1.0)
    recipe = get_recipe("digits", epochs=2)
    network = hcnn.model_config("hcnn_digits", width=4, rank=4)
    settings = RunSettings(network, recipe, "digits", teacher=teacher_run, distillation=config, checkpoint_seconds=0)
    whole = train_run(tmp_path / "whole", settings, _few(300))

    class Stop(Exception):
        pass

    def stop(progress) -> None:
        if progress.step == 5:
            raise Stop

    with pytest.raises(Stop):
        train_run(tmp_path / "parts", settings, _few(300), on_step=stop)
    parts = train_run(tmp_path / "parts", settings, _few(300), resume=True)
    assert parts["weights_sha256"] == whole["weights_sha256"]
    config_file = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config_file["teaching"]["attention"] == 100.0
    digest = json.loads((teacher_run / "result.json").read_text())["weights_sha256"]
    assert config_file["teacher"]["weights_sha256"] == digest
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows)
    alone = dataclasses.replace(settings, teacher=None, distillation=DistillationConfig())
    with pytest.raises(ValueError, match=r"holds another run: its teaching \(none here, .* there\) differ"):
        train_run(tmp_path / "whole", alone, _few(300), resume=True)


def test_a_wrong_teacher_is_refused_before_anything_is_written(teacher_run, tmp_path) -> None:
    recipe = get_recipe("digits", epochs=1)
    config = DistillationConfig(soft_targets=1.0)
    pixels = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(120)
    for images, classes, message in (
        (pixels, tuple("abcd"), r"the teacher knows 10 classes, the student learns 4: .* differ are '0' and 'a'"),
        (pixels, tuple("0123"), r"the teacher knows 10 classes, the student learns 4: .* the rest agree"),
        (
            pixels.repeat(1, 1, 2, 2),
            tuple("0123456789"),
            r"images of size \(8, 8\), the student's data have \(16, 16\)",
        ),
        (pixels.repeat(1, 3, 1, 1), tuple("0123456789"), r"expects channels 1, the student's data have 3"),
    ):
        data = Splits(ImageSet(images, labels % len(classes), classes, "made", allow_empty=True), None, None)
        network = hcnn.model_config("resnet20_digits", channels=images.shape[1], classes=len(classes))
        settings = RunSettings(network, recipe, "made", teacher=teacher_run, distillation=config)
        with pytest.raises(ValueError, match=message):
            train_run(tmp_path / "run", settings, data)
        assert not (tmp_path / "run").exists()
    missing = RunSettings(hcnn.model_config("resnet20_digits"), recipe, "digits", teacher=tmp_path, distillation=config)
    with pytest.raises(ValueError, match="is not a finished run"):
        train_run(tmp_path / "run", missing, _few(300))


@pytest.mark.parametrize(
    ("distillation", "recipe", "message"),
    [
        (
            {"hints": 1.0, "hint_epochs": 2},
            {},
            "hint_epochs: expected fewer than the 2 epochs of the run, because the class layer learns nothing from "
            "hints; got 2",
        ),
        (
            {"labels": 0.0, "hints": 1.0, "attention": 1.0},
            {},
            "labels: expected a positive weight of labels or of soft_targets, because the class layer learns nothing",
        ),
        (
            {"hints": 1.0, "match": "convolve", "pairs": ("layers.1=groups.2",)},
            {"image_sizes": (6,), "image_sizes_until": (0.5,)},
            r"image_sizes: expected none, because the convolution between layers.1 and groups.2 fits .*; got \(6,\)",
        ),
    ],
)
def test_recipes_that_do_not_fit_what_is_taught_are_refused(
    teacher_run, tmp_path, distillation, recipe, message
) -> None:
    settings = RunSettings(
        hcnn.model_config("hcnn_digits", width=4, rank=4),
        get_recipe("digits", epochs=2, **recipe),
        "digits",
        teacher=teacher_run,
        distillation=DistillationConfig(**distillation),
    )
    with pytest.raises(ValueError, match=message):
        train_run(tmp_path / "run", settings, _few(300))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"soft_targets": -1.0}, "soft_targets: expected 0 or more; got -1.0"),
        ({"soft_targets_end": -1.0}, "soft_targets_end: expected 0 or more"),
        ({"temperature": 0.0}, "temperature: expected a positive number; got 0.0"),
        ({"match": "stretch"}, "match: expected 'exact', 'pool' or 'convolve'; got 'stretch'"),
        ({"match": "convolve", "attention": 1.0}, "'convolve' is for hints"),
        ({"hint_epochs": 1.5, "hints": 1.0}, "hint_epochs: expected a whole number, 0 or more; got 1.5"),
        ({"hint_epochs": 2}, "2 epochs of hints need a positive weight of hints"),
        ({"pairs": ("groups.0",)}, "pairs: expected STUDENT_LAYER=TEACHER_LAYER; got 'groups.0'"),
    ],
)
def test_bad_teaching_is_explained(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**settings)


def test_layers_of_unlike_resolution_say_which_and_how_to_match_them() -> None:
    student, teacher = hcnn.create_model("wrn16_1_digits"), hcnn.create_model("hcnn_digits")
    with pytest.raises(ValueError, match="pair") as caught:
        find_pairs(student, teacher, IMAGE, DistillationConfig(hints=1.0, pairs=("groups.0=layers.4",)))
    text = str(caught.value)
    assert "pair groups.0=layers.4: the student's maps are 8x8, the teacher's 4x4" in text
    assert "the student's layers of 4x4 are groups.2" in text
    assert "--match pool averages the larger down" in text
    assert "--match convolve (hints)" in text
    for match in ("pool", "convolve"):
        config = DistillationConfig(hints=1.0, match=match, pairs=("groups.0=layers.4",))
        assert find_pairs(student, teacher, IMAGE, config)
    config = DistillationConfig(hints=1.0, match="convolve", pairs=("groups.2=layers.0",))
    with pytest.raises(ValueError, match="the student's maps are 4x4, the teacher's 8x8, and match is 'convolve'"):
        find_pairs(student, teacher, IMAGE, config)
    with pytest.raises(ValueError, match=r"the student has no layer 'groups.7'; did you mean groups"):
        find_pairs(student, teacher, IMAGE, DistillationConfig(hints=1.0, pairs=("groups.7=layers.0",)))
    with pytest.raises(ValueError, match=r"the teacher has no layer 'groups.0'"):
        find_pairs(student, teacher, IMAGE, DistillationConfig(hints=1.0, pairs=("groups.0=groups.0",)))
    strided = hcnn.create_model("wrn16_1_digits", downsample=(1, 2, 3))
    flat = hcnn.create_model("wrn16_1_digits", downsample=())
    with pytest.raises(
        ValueError, match="no layers of one resolution: the student's maps are 4x4, 2x2, 1x1, the teach"
    ):
        find_pairs(strided, flat, IMAGE, DistillationConfig(attention=1.0))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("linear=layers.4", r"the student's 'linear' returns no maps \(b, c, \*u\); expected one of groups.0, "),
        ("groups.2=layers.4.norm", "the teacher's 'layers.4.norm' returns no maps .*; expected one of layers.0, "),
    ],
)
def test_layers_without_maps_are_refused(pair, message) -> None:
    student, teacher = hcnn.create_model("resnet20_digits"), hcnn.create_model("hcnn_digits")
    with pytest.raises(ValueError, match=message):
        find_pairs(student, teacher, IMAGE, DistillationConfig(hints=1.0, pairs=(pair,), match="pool"))


@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_does_not_take_the_image_is_left_as_it_was(training) -> None:
    model = hcnn.create_model("wrn16_1_digits").train(training)
    with pytest.raises(ValueError, match="expected images"):
        layer_shapes(model, ["groups.0"], torch.zeros(1, 3, 8, 8), "student")
    assert all(module.training is training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_teacher_that_teaches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="teaches nothing: expected a weight above 0"):
        _distillation("wrn16_1_digits", "wrn40_1_digits", DistillationConfig())
    with pytest.raises(ValueError, match="unknown distillation 'atention'; did you mean attention"):
        get_distillation("atention")
    with pytest.raises(ValueError, match="distillation: unknown field 'temprature'; did you mean temperature"):
        get_distillation("attention", temprature=2.0)
    with pytest.raises(ValueError, match="expects channels 3, the student's data have 1"):
        check_teacher(dataclasses.replace(DIGITS, mean=(0.1, 0.2, 0.3), std=(0.1, 0.2, 0.3)), DIGITS)
