"""Time an epoch of CIFAR-10 on a GPU: HCNN and HCNN(+), with and without Triton, torch.compile and CUDA graphs.

    python benchmarks/cuda_epoch.py --output results/benchmarks/cuda         # on a GPU, about 10 minutes
    python benchmarks/cuda_epoch.py --output /tmp/smoke --device cpu --tiny  # a smoke test, not a measurement

The script first checks every kernel against its reference implementation on the device, and one step under PyTorch's
own detector of synchronization. Each variant then trains on 50,000 synthetic images of 32×32 with augmentation; --steps
of them are timed and scaled to an epoch, as the record says. Finally, some steps of the fastest variant of each network
are profiled. The results go to cuda_epoch.json, the profiles to text files beside it. On a GPU only the check of the
kernels has been tried, and stopped after a minute without a result.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hcnn import HierarchicalCNN, HierarchicalCNNConfig
from hcnn.bench.timing import time_steps
from hcnn.data.preprocessing import Preprocessing
from hcnn.functional import backend
from hcnn.functional.normalize_elu import batch_normalize_elu
from hcnn.functional.normalize_elu import naive as naive_norm
from hcnn.functional.patch_moments import naive as naive_moments
from hcnn.functional.patch_moments import patch_moments
from hcnn.functional.plus_step import naive as naive_plus
from hcnn.functional.plus_step import plus_step
from hcnn.runs.environment import commit, hardware
from hcnn.storage.atomic import ensure_writable, write_atomically, write_json
from hcnn.training.recipe import Recipe
from hcnn.training.recipes import get_recipe
from hcnn.training.trainer import Trainer


@dataclass(frozen=True)
class Variant:
    """One way of running the same training step."""

    name: str
    triton: bool = False
    compile: bool = False
    graph: bool = False
    channels_last: bool = False


VARIANTS = (
    Variant("plain"),
    Variant("channels last", channels_last=True),
    Variant("triton", triton=True),
    Variant("triton, channels last", triton=True, channels_last=True),
    Variant("compile", compile=True),
    Variant("graph", graph=True),
    Variant("triton, graph", triton=True, graph=True),
    Variant("triton, channels last, graph", triton=True, graph=True, channels_last=True),
    Variant("triton, compile, graph", triton=True, compile=True, graph=True),
    Variant("triton, channels last, compile, graph", triton=True, compile=True, graph=True, channels_last=True),
)


def make_trainer(config: HierarchicalCNNConfig, recipe: Recipe, images: Tensor, *, graph: bool) -> Trainer:
    """A trainer on synthetic images, from the same seed each time."""
    torch.manual_seed(0)
    labels = torch.randint(0, config.classes, (len(images),), device=images.device)
    classes = tuple(str(i) for i in range(config.classes))
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, tuple(images.shape[2:]), classes)
    model = HierarchicalCNN(config).to(images.device).train()
    return Trainer(model, images, labels, preprocessing, recipe, graph=graph)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------------------------------------- self-check


def deviation(kernel: Callable[..., Any], reference: Callable[..., Any], inputs: list[Tensor], *more: Any) -> float:
    """Largest difference of outputs and gradients, relative to the largest element of each."""
    found = []
    for function in (kernel, reference):
        leaves = [one.detach().clone().requires_grad_() for one in inputs]
        outputs = function(*leaves, *more)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        # Weights that do not cancel: symmetric ones make every gradient of a periodic covariance exactly zero.
        total = torch.stack([(o.float() * torch.linspace(-1, 2, o.numel(), device=o.device).view(o.shape)).sum()
                             for o in outputs if o.requires_grad]).sum()  # fmt: skip
        found.append([*(o.detach() for o in outputs), *torch.autograd.grad(total, leaves)])
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(*found, strict=True))


def check_kernels(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """Deviation of every kernel from its reference implementation, by name, data type and boundary.

    Raises:
        SystemExit: if one deviates by more than rounding in its data type explains.

    """
    b, v, q, o, u = (2, 4, 8, 16, 8) if tiny else (4, 128, 32, 512, 32)
    found: dict[str, float] = {}
    for dtype, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 4e-2)):
        x = torch.randn(b, v, u, u, device=device).to(dtype)
        y = torch.randn(b, 4, o // 64 or 1, 16, u, u, device=device).to(dtype)
        k = [torch.rand(16, device=device) + 0.5, torch.randn(16, device=device)]
        step = [x, torch.randn(q, 3, 3, device=device) / 3, torch.randn(q, device=device) / 2,
                torch.randn(o, v * q, device=device) / (v * q) ** 0.5]  # fmt: skip
        rows = y.flatten(1, 3).contiguous(memory_format=torch.channels_last).view(y.shape)
        # name, kernel, reference, the tensors that they are given, and what follows these
        cases: list[tuple[str, Callable[..., Any], Callable[..., Any], list[Tensor], tuple[Any, ...]]] = []
        for layout, given in (("first", y), ("last", rows)):
            name = f"batch_normalize_elu channels {layout}"
            cases.append((name, batch_normalize_elu, naive_norm.batch_normalize_elu, [given, *k], (1e-5, 2, True)))
        for edge in ("zeros", "circular"):
            moments = partial(patch_moments, boundary=edge), partial(naive_moments.patch_moments, boundary=edge)
            cases.append((f"patch_moments {edge}", *moments, [x], ((3, 3),)))
            cases += [
                (f"plus_step {edge} stride {s}", plus_step, naive_plus.plus_step, step, ((s, s), edge)) for s in (1, 2)
            ]
        for name, kernel, reference, inputs, more in cases:
            key = f"{name} {str(dtype).removeprefix('torch.')}"
            found[key] = deviation(kernel, reference, inputs, *more)
            if not found[key] <= allowed:
                raise SystemExit(
                    f"{key}: deviates from its reference implementation by {found[key]:.1e}; "
                    f"expected {allowed:.0e} at most"
                )
    return found


def check_synchronization(trainer: Trainer) -> str:
    """Take one step under PyTorch's detector, which raises an error where the host waits for the device."""
    trainer._train_step(0, 0, 0.01)
    if trainer.device.type != "cuda":
        return "not checked: no GPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._train_step(0, 1, 0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none in a step"


# ---------------------------------------------------------------------------------------------------- timing


def time_variant(trainer: Trainer, *, warm_up: int, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds per epoch: the median and all of the repeats, each of which is `steps` steps."""
    device, epoch = trainer.device, 0
    for step in range(warm_up):
        trainer._train_step(0, step % trainer.batches, 0.01)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def some_steps() -> None:
        nonlocal epoch
        epoch += 1
        for step in range(steps):
            trainer._train_step(epoch, step, 0.01)

    [taken] = time_steps([some_steps], rounds=repeats, warm_up=0, device=device)
    seconds = [one / steps * trainer.batches for one in taken]
    loss = (trainer.sums[0] / trainer.sums[2]).item()
    return {
        "seconds_per_epoch": round(statistics.median(seconds), 4),
        "all": [round(one, 4) for one in seconds],
        "images_per_second": round(trainer.batches * trainer.recipe.batch_size / statistics.median(seconds), 1),
        "steps_timed": steps,
        "steps_per_epoch": trainer.batches,
        "peak_memory_mib": torch.cuda.max_memory_allocated(device) >> 20 if device.type == "cuda" else None,
        "mean_loss": loss,
    }


def profile_step(trainer: Trainer) -> str:
    """A table that shows where three steps spend their time."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (trainer.device.type == "cuda")
    with profile(activities=activities) as record:
        for step in range(3):
            trainer._train_step(9, step, 0.01)
        synchronize(trainer.device)
    key = "self_cuda_time_total" if trainer.device.type == "cuda" else "self_cpu_time_total"
    return record.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=80)


def main() -> None:
    """Check, time and profile every variant, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200, help="steps in each repeat, at most an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a few small images and a small network")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: expected one, or --device cpu --tiny for a smoke test")
    ensure_writable(options.output)
    batch, steps = (4, 2) if options.tiny else (options.batch_size, options.steps)
    count, size = (4 * batch, 8) if options.tiny else (50_000, 32)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device)
    recipe = get_recipe("fast", batch_size=batch)
    small = {"width": 4, "rank": 3, "depth": 5, "attribute_support": (3, 3), "downsample": (4,)} if options.tiny else {}
    report: dict[str, Any] = {
        "hardware": hardware(device),
        "torch": torch.__version__,
        "commit": commit(),
        "images": list(images.shape),
        "batch_size": batch,
        "precision": recipe.precision,
        "optimizer": recipe.optimizer,
        "triton": backend.available(torch.zeros(1, device=device)),
        "deviations": check_kernels(device, tiny=options.tiny),
        "networks": {},
    }
    worst = f"deviate from their reference implementations by {max(report['deviations'].values()):.1e} at most"
    print(f"kernels {worst if report['triton'] else 'not checked: no Triton on a GPU'}")
    for name, inner_elu in (("HCNN", False), ("HCNN(+)", True)):
        config = HierarchicalCNNConfig(inner_elu=inner_elu, **small)
        checked = check_synchronization(make_trainer(config, recipe, images, graph=False))
        rows: dict[str, Any] = {"synchronization": checked, "variants": {}}
        report["networks"][name] = rows
        profiles: dict[str, str] = {}
        for variant in VARIANTS:
            if device.type != "cuda" and variant != VARIANTS[0]:
                continue
            changed = replace(recipe, compile=variant.compile, channels_last=variant.channels_last)
            try:
                torch.compiler.reset()
                with nullcontext() if variant.triton else backend.disabled():
                    trainer = make_trainer(config, changed, images, graph=variant.graph)
                    row = time_variant(
                        trainer, warm_up=6, steps=min(steps, trainer.batches), repeats=options.repeats
                    )  # fmt: skip
                    profiles[variant.name] = profile_step(trainer)
            except Exception as error:  # one variant that fails must not cost the others their GPU time
                row = {"error": f"{type(error).__name__}: {error}"[:2000]}
            rows["variants"][variant.name] = row
            print(f"{name:8} {variant.name:40} {row.get('seconds_per_epoch', row.get('error', ''))!s:.60}", flush=True)
            write_json(options.output / "cuda_epoch.json", report)
        done = {key: row["seconds_per_epoch"] for key, row in rows["variants"].items() if "error" not in row}
        if done:
            rows["fastest"] = min(done, key=lambda key: done[key])
            file = f"profile-{'plus' if inner_elu else 'hcnn'}.txt"
            write_atomically(options.output / file, profiles[rows["fastest"]].encode())
    write_json(options.output / "cuda_epoch.json", report)
    print(f"wrote {options.output / 'cuda_epoch.json'}")


if __name__ == "__main__":
    main()
