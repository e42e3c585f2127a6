"""What the native kernels gain: images/s with PyTorch's forms and with them, in turns in one process.

    python benchmarks/native_ratio.py --threads 2

Freed memory is kept, as in `hcnn train`. Medians after one round that is not measured; ResNet-20 for scale.
"""

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import hcnn
from hcnn.functional.native.library import description, native_disabled
from hcnn.runs.allocator import keep_freed_memory

NETWORKS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("hcnn_cifar10", {"boundary": "circular"}, 16),
    ("hcnn_cifar10", {}, 16),
    ("hcnn_small_cifar10", {"boundary": "circular"}, 64),
    ("hcnn_small_cifar10", {}, 64),
    ("hcnn_plus_cifar10", {"boundary": "circular"}, 4),
    ("resnet20_cifar10", {}, 64),
)


def training_step(model: Any, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Forward and backward, without an optimizer."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), labels).backward()

    return step


def inference(model: Any, x: torch.Tensor) -> Callable[[], None]:
    """Folded where the network can be."""
    model = copy.deepcopy(model).eval()
    model = model.fold() if hasattr(model, "fold") else model

    def step() -> None:
        with torch.inference_mode():
            model(x)

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print(f"native kernels: {description()}; {arguments.threads} threads, float32, images/s")
    for name, settings, batch in NETWORKS:
        model = hcnn.create_model(name, **settings)
        x, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
        for what, step in (("train", training_step(model.train(), x, labels)), ("infer", inference(model, x))):
            model.train(what == "train")
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(arguments.rounds + 1):
                for native in (False, True):
                    with contextlib.nullcontext() if native else native_disabled():
                        start = time.perf_counter()
                        step()
                        seconds[native].append(time.perf_counter() - start)
            without, using = (batch / statistics.median(seconds[native][1:]) for native in (False, True))
            title = f"{name} {settings.get('boundary', 'zeros')} {what}, batch {batch}"
            print(f"{title:45s} {without:7.1f} -> {using:7.1f}   ratio {using / without:.2f}", flush=True)


if __name__ == "__main__":
    main()
