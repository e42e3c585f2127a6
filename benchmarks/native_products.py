"""How fast the native kernels multiply per frequency, against the best that PyTorch does with one core.

    python benchmarks/native_products.py

The products cannot be timed alone from here: what 5×5 filters take longer than 3×3 filters do is 16 further taps of
them, since the transforms of both are the same. Everything is timed alternately in one process, on one
thread, in CPU time.
"""

import statistics
import time
from collections.abc import Callable

import torch

from hcnn.bench.timing import time_steps
from hcnn.functional import native_description
from hcnn.functional.attribute_conv.native import native_conv, native_weight
from hcnn.functional.attribute_conv.native_cost import native_work
from hcnn.functional.axes import Boundary

ROUNDS = 15


def main() -> None:
    """Print one line for each layer, and the limits beside it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"native kernels: {native_description()}; multiply-adds a second on one core")
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    image, kernel = torch.randn(4, 128, 32, 32), torch.randn(128, 128, 3, 3)
    layers: list[tuple[tuple[int, int], tuple[int, int], int, Boundary]] = [
        ((8, 16), (7, 11), 16, "circular"),
        ((8, 16), (7, 11), 16, "zeros"),
        ((4, 8), (5, 7), 8, "circular"),
        ((4, 8), (5, 7), 8, "zeros"),
    ]
    with torch.inference_mode():
        for sizes, support, filters, boundary in layers:
            x = torch.randn(8, sizes[0] * sizes[1], 32, 32)

            def conv(
                taps: int,
                x: torch.Tensor = x,
                sizes: tuple[int, int] = sizes,
                support: tuple[int, int] = support,
                filters: int = filters,
                boundary: Boundary = boundary,
            ) -> Callable[[], object]:
                spectrum = native_weight(torch.randn(filters, *support, taps, taps), sizes, (2, 2), boundary)
                return lambda: native_conv(x, spectrum, None, sizes, support, (2, 2, 1, 1), boundary)

            steps = [
                conv(3),
                conv(5),
                lambda: torch.mm(a, b),
                lambda: torch.conv2d(image, kernel, padding=1),
            ]
            taken = time_steps(steps, rounds=ROUNDS, clock=time.process_time)
            three, five, product, convolution = map(statistics.median, taken)
            positions = x.shape[0] * x.shape[2] * x.shape[3]
            per_tap = native_work(sizes, support, (2, 2), boundary)[0] * filters
            rate = 16 * per_tap * positions / (five - three)
            best = max(1024**3 / product, 4 * 128 * 128 * 9 * 1024 / convolution)
            print(
                f"K = {filters:2}, {boundary:8}: products {rate / 1e9:5.1f} G/s, best product or convolution "
                f"{best / 1e9:5.1f} G/s, ratio {rate / best:.2f}"
            )


if __name__ == "__main__":
    main()
