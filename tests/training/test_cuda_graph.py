"""What a CUDA graph demands of a training step, as far as a CPU can tell: nothing in it reads a value or waits."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hcnn.training.batches
from hcnn import HierarchicalCNN, HierarchicalCNNConfig
from hcnn.data.augment import Augmentation
from hcnn.data.preprocessing import Preprocessing
from hcnn.training import cuda_graph
from hcnn.training.optimizers import RecipeOptimizer
from hcnn.training.recipe import Recipe
from hcnn.training.trainer import Trainer

# Reading a number off the device; sizes that depend on values; making a tensor from the host's memory.
WAITING = {
    "_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "masked_select", "unique2", "_unique2",
    "lift_fresh", "lift_fresh_copy", "repeat_interleave.Tensor",
}  # fmt: skip


class NoWaiting(TorchDispatchMode):
    """Fails where a CUDA device would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._opname not in WAITING, f"{func} makes the host wait for the device, or copies from it"
        return func(*args, **(kwargs or {}))


RECIPE = Recipe(
    epochs=1,
    batch_size=6,
    augmentation=Augmentation(translation=2, flip="alternating", cutout=2, mixup=0.2, cutmix=1.0),
    ema=0.9,
    accumulate=3,
    precision="bfloat16",
)


def trainer(recipe: Recipe, **more: Any) -> Trainer:
    torch.manual_seed(0)
    config = HierarchicalCNNConfig(
        width=4, rank=3, depth=5, classes=3, attribute_support=(3, 3), downsample=(4,), **more
    )
    images = torch.randint(0, 256, (18, 3, 8, 8), dtype=torch.uint8)
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, (8, 8), ("a", "b", "c"))
    return Trainer(HierarchicalCNN(config), images, torch.arange(18) % 3, preprocessing, recipe)


@pytest.mark.parametrize(
    "what", [lambda: torch.tensor([1.0]), lambda: torch.ones(1).item(), lambda: bool(torch.ones(1))]
)
def test_the_guard_sees_what_it_is_for(what) -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="wait"):
        what()


@pytest.mark.parametrize("more", [{}, {"inner_elu": True}, {"first_attribute": "hue"}])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_step_never_waits(optimizer, more) -> None:
    one = trainer(replace(RECIPE, optimizer=optimizer, lr=0.01), **more)
    one.optimizer = RecipeOptimizer(one.model, one.recipe, capturable=True)
    one.graph, one._captured = True, one._compute  # pyright: ignore[reportAttributeAccessIssue]
    one._train_step(0, 0, 0.01)  # constants go to the device once, and the order of an epoch
    before = [p.detach().clone() for p in one.model.parameters()]
    with NoWaiting():
        one._train_step(0, 1, 0.02)
    assert any(not torch.equal(old, new) for old, new in zip(before, one.model.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_rate_on_the_device_steps_as_one_on_the_host(optimizer, monkeypatch) -> None:
    # Muon orthogonalizes in bfloat16, where one matrix at a time and all of a shape together round differently.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.05, precision="float32")
    one, other = trainer(recipe), trainer(recipe)
    other.optimizer = RecipeOptimizer(other.model, recipe, capturable=True)
    other.graph, other._captured = True, other._compute  # pyright: ignore[reportAttributeAccessIssue]
    for batch, rate in enumerate((0.05, 0.01, 0.03)):
        numbers = [each._train_step(0, batch, rate) for each in (one, other)]
        torch.testing.assert_close(numbers[1], numbers[0], rtol=1e-4, atol=1e-5)
    state = other.optimizer.state_dict()
    assert state[-1]["param_groups"][0]["lr"] == pytest.approx(0.03 * other.optimizer._rates[-1])
    other.optimizer.load_state_dict(state)
    other._train_step(0, 2, 0.01)
    one._train_step(0, 2, 0.01)
    for expected, actual in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_run_is_resumed_with_a_graph_or_without_one(optimizer, before, after) -> None:
    model, recipe = torch.nn.Linear(3, 2), replace(RECIPE, optimizer=optimizer)
    one, fresh, other = (RecipeOptimizer(model, recipe, capturable=graph) for graph in (before, after, after))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    one.step(torch.tensor(0.1) if before else 0.1)
    state = one.state_dict()
    counts = [own for each in state for own in each["state"].values() if "step" in own]
    assert len(counts) == (2 if optimizer == "adamw" else 0)
    for own in counts:
        own["step"] = own["step"].double()  # on a CPU, the type shows whether PyTorch moves the count to the device
    other.load_state_dict(state)
    for expected, actual in zip(fresh._optimizers, other._optimizers, strict=True):
        for one_group, other_group in zip(expected.param_groups, actual.param_groups, strict=True):
            for key in ("fused", "capturable"):
                assert other_group.get(key) == one_group.get(key)
        for own in actual.state.values():
            assert "step" not in own or own["step"].dtype == (torch.float32 if after else torch.float64)


@pytest.mark.parametrize("most", [1, 2 * 4 * 6 * 192, 1 << 26])
def test_batches_augmented_ahead_are_those_of_one_at_a_time(most, monkeypatch) -> None:
    monkeypatch.setattr(hcnn.training.batches, "_AHEAD", most)
    recipe = replace(
        RECIPE, epochs=3, accumulate=1, channels_last=True, image_sizes=(4, 6), image_sizes_until=(0.2, 0.5)
    )
    one = trainer(recipe)
    one.graph, seen = True, []
    one._captured = lambda parts: seen.append(parts)  # pyright: ignore[reportAttributeAccessIssue]
    for one.step in range(9):
        epoch, batch = divmod(one.step, 3)
        one._train_step(epoch, batch, 0.01)
        for expected, actual in zip(one.source.parts(epoch, batch), seen[-1], strict=True):
            assert torch.equal(actual, expected)
            assert actual.stride() == expected.stride()
    assert [len(parts[0][0, 0]) for parts in seen] == [4, 4, 6, 6, 6, 8, 8, 8, 8]


class Recorder:
    """Stands in for `torch.cuda` on a CPU: counts what is recorded and replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.device: torch.Tensor | None = None  # whose device is the current one

    @contextmanager
    def device_of(self, tensor: torch.Tensor) -> Iterator[None]:
        self.device = tensor
        yield
        self.device = None

    def CUDAGraph(self) -> "Recorder":
        return self

    def replay(self) -> None:
        assert self.device is not None
        self.replayed += 1

    @contextmanager
    def graph(self, _: "Recorder") -> Iterator[None]:
        assert self.device is not None
        self.recorded += 1
        yield

    def Stream(self) -> "Recorder":
        assert self.device is not None
        return self

    def current_stream(self) -> "Recorder":
        return self

    def wait_stream(self, _: "Recorder") -> None:
        pass

    def stream(self, _: "Recorder") -> nullcontext:
        return nullcontext()


def test_images_of_another_size_are_recorded_anew(monkeypatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(cuda_graph.torch, "cuda", recorder)
    seen: list[torch.Size] = []
    step = cuda_graph.CapturedStep(lambda inputs: seen.append(inputs[0].shape) or inputs[0].sum())
    for size in (4, 6):
        for _ in range(5):
            step([torch.ones(size)])
    assert (recorder.recorded, recorder.replayed) == (2, 4)
    assert seen == [torch.Size([4])] * 4 + [torch.Size([6])] * 4  # three steps as they are, then the one recorded


def test_graphs_are_refused_without_cuda() -> None:
    one = trainer(RECIPE)
    with pytest.raises(ValueError, match="graph: expected one process on a CUDA device; got 1 on cpu"):
        Trainer(one.model, one.source.images, one.source.labels, one.preprocessing, one.recipe, graph=True)


@pytest.mark.parametrize("more", [{}, {"inner_elu": True}, {"first_attribute": "hue"}])
def test_forward_and_backward_trace_in_one_piece(more) -> None:
    one = trainer(replace(RECIPE, precision="float32"), **more)
    one.forward = torch.compile(one.model, fullgraph=True, backend="aot_eager")
    plain = trainer(replace(RECIPE, precision="float32"), **more)
    numbers = [each._train_step(0, 0, 0.01) for each in (plain, one)]
    torch.testing.assert_close(numbers[1], numbers[0])
    for expected, actual in zip(plain.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_the_gpu_benchmark_runs_at_tiny_scale(tmp_path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "cuda_epoch.py"
    command = [sys.executable, str(script), "--output", str(tmp_path), "--device", "cpu", "--tiny", "--repeats", "1"]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads((tmp_path / "cuda_epoch.json").read_text())
    for network in ("HCNN", "HCNN(+)"):
        variants = report["networks"][network]["variants"]
        assert set(variants) == {"plain"}
        assert all("error" not in row and row["seconds_per_epoch"] > 0 for row in variants.values()), variants
    assert (tmp_path / "profile-plus.txt").stat().st_size
