"""One way of computing one network, and a function that takes a step of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from hcnn.bench.timing import make_step
from hcnn.bench.two_step import TwoStepNetwork
from hcnn.functional import Method, native_disabled
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.models.factory import build
from hcnn.models.registry import model_config


@dataclass(frozen=True)
class Case:
    """One way of computing one network.

    Attributes:
        name: a named network.
        overrides: fields of its configuration that differ.
        two_step: whether to run the two-step baseline.
        method: the method of `hcnn.functional.attribute_conv`.
        dtype: "float32", or "bfloat16" for autocast.
        batch: images per step.
        side: side of the images in pixels.
        native: whether the native kernels may be used; without them PyTorch's forms serve.
    """

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    two_step: bool = False
    method: Method = "auto"
    dtype: str = "float32"
    batch: int = 16
    side: int = 32
    native: bool = True


def prepare(case: Case, *, train: bool, images: int | None = None, device: str = "cpu") -> Callable[[], None]:
    """A function that takes one step of a case: forward, loss and backward, or inference as deployed.

    Args:
        case: what to run.
        train: whether to train.
        images: a batch size instead of the case's.
        device: type of the device.

    Returns:
        The step.
    """
    torch.manual_seed(0)
    source = build(model_config(case.name, **case.overrides), method=case.method)
    channels, classes, model = source.config.channels, source.config.classes, source
    if case.two_step:
        assert isinstance(source, AttributeNetwork)
        model = TwoStepNetwork(source)
    elif not train:
        model = source.inference()
    model = model.to(device).train(train)
    x = torch.randn(images or case.batch, channels, case.side, case.side, device=device)
    step = make_step(model, x, classes=classes, train=train, dtype=case.dtype)
    if case.native:
        return step

    def without_native_kernels() -> None:
        with native_disabled():
            step()

    return without_native_kernels
