"""What a network costs: multiply-adds of an image, images a second in training and inference."""

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hcnn.models.baselines import HyperNetwork
from hcnn.models.hierarchical import AttributeNetwork
from hcnn.models.summary import summarize


@dataclass(frozen=True)
class Throughput:
    """Images a second over several steps.

    Attributes:
        median: over the steps.
        low: of the slowest step.
        high: of the fastest step.
        steps: how many were timed.
    """

    median: float
    low: float
    high: float
    steps: int


def inference_network(model: nn.Module) -> Any:
    """The network as one would deploy it: an HCNN folded, a hypernetwork's main network, any other as it is."""
    if isinstance(model, AttributeNetwork):
        return model if model.folded else model.eval().fold()
    return model.generated() if isinstance(model, HyperNetwork) else model.eval()


@torch.no_grad()
def multiply_adds(model: nn.Module, image_size: Sequence[int]) -> int:
    """Multiply-adds of one image through the inference network: convolutions and matrix products.

    Of an attribute network those of the dense form, from `summarize`, in whatever form it is executed; of any other
    half of the floating-point operations that `torch.utils.flop_counter` sees on tensors without contents.

    Args:
        model: an unfolded attribute network, or a comparator.
        image_size: one size per spatial axis.

    Returns:
        A count.

    Example:
        >>> from hcnn import create_model
        >>> multiply_adds(create_model("resnet20_cifar10"), (32, 32))
        40551040
    """
    if isinstance(model, AttributeNetwork):
        return sum(row.multiply_adds for row in summarize(model, image_size))
    network = copy.deepcopy(inference_network(model)).to("meta")
    image = torch.zeros(1, network.config.channels, *image_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2


def measure_throughput(
    model: nn.Module, batch: Tensor, *, train: bool, seconds: float = 3.0, classes: int | None = None
) -> Throughput:
    """Time steps of a network on one batch, after a warm-up, waiting for the device around each.

    Args:
        model: on the device of the batch; its weights and statistics may change in training.
        batch: standardized images (b, c, *u).
        train: forward, loss and backward in training mode; else forward alone in eval mode without gradients.
        seconds: to measure for; at least three steps are timed whatever they take.
        classes: number of classes; ``model.config.classes`` if None.

    Returns:
        Images a second.

    Example:
        >>> speed = measure_throughput(nn.Linear(4, 2), torch.zeros(8, 4), train=True, seconds=0.01, classes=2)
        >>> speed.low <= speed.median <= speed.high
        True
    """
    config: Any = getattr(model, "config", None)
    labels = torch.arange(len(batch), device=batch.device) % (config.classes if classes is None else classes)
    model.train(train)

    def step() -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(train):
            logits = model(batch)
            if train:
                F.cross_entropy(logits.float(), labels).backward()
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        return time.perf_counter() - start

    for _ in range(2):
        step()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        taken.append(step())
        if train:
            model.zero_grad(set_to_none=True)
    return Throughput(
        len(batch) / statistics.median(taken), len(batch) / max(taken), len(batch) / min(taken), len(taken)
    )
