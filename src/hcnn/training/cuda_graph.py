"""A training step as one CUDA graph, so that the host issues one launch and not thousands of small ones.

Networks have been trained with it on an H200 (`results/hcnn_cifar10-120`). What tests can see on a CPU is that a step
has no synchronization in it that would forbid its capture (`tests/training/test_cuda_graph.py`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class CapturedStep:
    """Runs a step as it is a few times, then records it once and replays the record with new inputs.

    The step may read and change any tensors in place, but it must not allocate memory that outlives it, branch on
    values, or wait for the device. Once it is recorded, its parameters' gradients are in the graph's memory. A record
    holds for one shape of the inputs: where that changes, as it does with a recipe whose images grow, the step is
    recorded again.

    Args:
        step: from input tensors to an output tensor, on a CUDA device.

    """

    # The first calls compile kernels, choose algorithms and create the optimizer's state: none of that may be recorded.
    WARM_UP = 3

    def __init__(self, step: Callable[[list[Tensor]], Tensor]) -> None:
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.output = torch.empty(0)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The step's output for these inputs; overwritten by the next call."""
        # Streams and records are of the current device, which need not be that of the inputs (cuda:1): the record
        # would be empty, and its replay would do nothing.
        with torch.cuda.device_of(inputs[0]):
            return self._run(inputs)

    def _run(self, inputs: Sequence[Tensor]) -> Tensor:
        if self.graph is not None and [one.shape for one in inputs] != [one.shape for one in self.inputs]:
            self.calls, self.graph = 0, None
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self._aside(list(inputs))
        if self.graph is None:
            self.inputs = [torch.empty_like(one) for one in inputs]
        for kept, one in zip(self.inputs, inputs, strict=True):
            kept.copy_(one)
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # recorded, not run
                self.output = self.step(self.inputs)
            self.graph = graph
        self.graph.replay()
        return self.output

    def _aside(self, inputs: list[Tensor]) -> Tensor:
        """Run on another stream, as recording will."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self.step(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output
