"""What the native kernels gain: images/s with PyTorch's forms and with them, alternately in one process.

    python benchmarks/native_ratio.py --threads 2

`hcnn bench` has the same table among many others, and takes minutes. Freed memory is kept, as in `hcnn train`. Medians
after one round that is not measured; ResNet-20 for scale.
"""

import argparse
import statistics
from dataclasses import replace

import torch

from hcnn.bench.case import Case, prepare
from hcnn.bench.timing import time_steps
from hcnn.functional import native_description
from hcnn.runs.allocator import keep_freed_memory

PERIODIC = {"boundary": "circular"}
CASES = (
    Case("hcnn_cifar10", PERIODIC),
    Case("hcnn_cifar10"),
    Case("hcnn_small_cifar10", PERIODIC, batch=64),
    Case("hcnn_small_cifar10", batch=64),
    Case("hcnn_plus_cifar10", PERIODIC, batch=4),
    Case("resnet20_cifar10", batch=64),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print(f"native kernels: {native_description()}; {arguments.threads} threads, float32, images/s")
    for case in CASES:
        for train in (True, False):
            steps = [prepare(replace(case, native=native), train=train) for native in (False, True)]
            taken = time_steps(steps, rounds=arguments.rounds, warm_up=1)
            without, using = (case.batch / statistics.median(one) for one in taken)
            kind = f"{case.overrides.get('boundary', 'zeros')} {'train' if train else 'infer'}"
            title = f"{case.name} {kind}, batch {case.batch}"
            print(f"{title:45s} {without:7.1f} -> {using:7.1f}   ratio {using / without:.2f}", flush=True)


if __name__ == "__main__":
    main()
