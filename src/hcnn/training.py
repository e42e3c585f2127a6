"""The training loop: plain PyTorch over arrays that fit in memory. Needs torch, numpy and safetensors only."""

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn import checkpoints
from hcnn.networks import AttributeNetwork, HierarchicalCNNConfig, MultiscaleConfig, build, count_parameters
from hcnn.recipes import Recipe

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"


@dataclass(frozen=True)
class Progress:
    """What the loop tells its observer after every step.

    Attributes:
        epoch: current epoch, from 1.
        epochs: how many there are.
        step: steps done in all.
        steps: steps there are in all.
        loss: mean training loss of this epoch so far.
        accuracy: training accuracy of this epoch so far, a fraction.
        images_per_second: over this epoch so far.
        seconds_left: estimate for the whole run.
        epoch_done: the metrics of the epoch that just ended, or None.

    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float
    epoch_done: dict[str, Any] | None = None


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the network's input; saved with the weights.

    Attributes:
        mean: per channel, on the scale 0 … 1.
        std: per channel.
        size: spatial size of the images.
        classes: class names, in the order of the logits.

    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, ...]
    classes: tuple[str, ...]

    def standardize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 images (b, c, *u) to standardized floats.

        Example:
            >>> p = Preprocessing((0.5,), (0.25,), (1, 1), ("a", "b"))
            >>> p.standardize(torch.tensor([[[[255]]]], dtype=torch.uint8))
            tensor([[[[2.]]]])

        """
        shape = (1, -1, *[1] * (images.ndim - 2))
        mean = torch.tensor(self.mean, dtype=dtype, device=images.device).reshape(shape)
        std = torch.tensor(self.std, dtype=dtype, device=images.device).reshape(shape)
        return (images.to(dtype) / 255 - mean) / std


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The one-cycle learning rate of a step: linear rise, then half a cosine to 0.

    Example:
        >>> recipe = Recipe(lr=1.0, warmup=0.5)
        >>> [round(learning_rate(recipe, step, 4), 2) for step in range(4)]
        [0.5, 1.0, 0.85, 0.15]

    """
    rise = max(1, round(recipe.warmup * steps))
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * (1 + math.cos(math.pi * (step - rise + 0.5) / max(1, steps - rise))) / 2


def random_translations(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Translate each image by its own random shift of up to `pixels` along every spatial axis, zeros coming in.

    Args:
        images: (b, c, *u).
        pixels: largest shift, 0 for none.
        generator: source of randomness, on the CPU.

    Returns:
        An array of the same shape.

    Example:
        >>> random_translations(torch.ones(1, 1, 3), 0, torch.Generator()).tolist()
        [[[1.0, 1.0, 1.0]]]

    """
    if not pixels:
        return images
    for axis in range(2, images.ndim):
        size = images.shape[axis]
        shift = torch.randint(-pixels, pixels + 1, (len(images), 1), generator=generator)
        source = (torch.arange(size) - shift).to(images.device)  # (b, u)
        inside = (source >= 0) & (source < size)
        shape = [len(images), *[1] * (axis - 1), size, *[1] * (images.ndim - axis - 1)]
        index = source.clamp(0, size - 1).reshape(shape).expand_as(images)
        images = images.gather(axis, index) * inside.reshape(shape)
    return images


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Convolution weights decay; normalizations, biases and the logit scale (one axis or none) do not."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train_epochs(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int = 0,
    on_step: Callable[[Progress], None] | None = None,
) -> None:
    """Train a network in place. Order and augmentation of every epoch derive from (seed, epoch).

    Args:
        model: maps (b, c, *u) to logits.
        images: standardized floats (n, c, *u), on the model's device.
        labels: int64 (n,).
        recipe: how.
        seed: of order and augmentation.
        on_step: called after every step.

    Raises:
        ValueError: if the loss stops being finite (step and learning rate are named), or there is no full batch.

    """
    count, device = len(images), images.device
    batches = count // recipe.batch_size
    if not batches:
        raise ValueError(f"batch_size: {recipe.batch_size} is more than the {count} training images")
    steps = recipe.epochs * batches
    optimizer = torch.optim.SGD(
        _groups(model, recipe.weight_decay),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    model.train()
    start = time.perf_counter()
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(count, generator=generator).to(device)
        epoch_start = time.perf_counter()
        loss_sum = torch.zeros((), device=device)
        hits = torch.zeros((), device=device)
        for batch in range(batches):
            step = epoch * batches + batch
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            x = random_translations(images[index], recipe.translation, generator)
            if recipe.flip:
                mirrored = torch.rand(len(x), generator=generator).to(device) < 0.5
                x = torch.where(mirrored.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[index], label_smoothing=recipe.label_smoothing)
            if not math.isfinite(loss.item()):
                raise ValueError(f"the loss became {loss.item()} at step {step + 1} of {steps}, learning rate {rate:g}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            hits += (logits.argmax(1) == labels[index]).sum()
            if on_step:
                now, seen = time.perf_counter(), batch + 1
                last = seen == batches
                mean_loss = loss_sum.item() / seen
                accuracy = hits.item() / (seen * recipe.batch_size)
                done = {"epoch": epoch + 1, "loss": mean_loss, "train_accuracy": accuracy, "lr": rate} if last else None
                on_step(
                    Progress(
                        epoch + 1,
                        recipe.epochs,
                        step + 1,
                        steps,
                        mean_loss,
                        accuracy,
                        seen * recipe.batch_size / (now - epoch_start),
                        (now - start) / (step + 1) * (steps - step - 1),
                        done,
                    )
                )


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor, *, batch_size: int = 250) -> Tensor:
    """Logits of standardized images in eval mode, batch by batch.

    Args:
        model: maps (b, c, *u) to logits; left in the mode it was in.
        images: (n, c, *u).
        batch_size: images at a time.

    Returns:
        (n, classes), float.

    """
    training = model.training
    model.eval()
    logits = torch.cat([model(part).float() for part in images.split(batch_size)])
    model.train(training)
    return logits


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of standardized images that are classified correctly."""
    return (predict_logits(model, images).argmax(1) == labels).float().mean().item()


@dataclass(frozen=True)
class Run:
    """A run folder, loaded.

    Attributes:
        folder: where it lies.
        model: the trained network, in eval mode.
        preprocessing: how its input is made.
        config: the contents of config.json.

    """

    folder: Path
    model: AttributeNetwork
    preprocessing: Preprocessing
    config: dict[str, Any]


def train_run(
    folder: Path,
    model_config: HierarchicalCNNConfig | MultiscaleConfig,
    recipe: Recipe,
    *,
    data_name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None,
    preprocessing: Preprocessing,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train from scratch into a run folder: config.json, metrics.jsonl, weights.safetensors, result.json.

    Args:
        folder: made if missing; checked for writing before training, refused while another run holds it or if it
            has a finished run in it.
        model_config: the network.
        recipe: how to train it.
        data_name: what the data are called in the records.
        train: uint8 images (n, c, *u) and labels.
        test: the same, read once after training; or None.
        preprocessing: fitted on the training images.
        seed: of initialization, order and augmentation.
        device: a torch device.
        on_step: called after every step.

    Returns:
        The contents of result.json.

    Raises:
        ValueError: if the folder cannot be used or the data do not fit the network.
        OSError: if the folder cannot be written.

    """
    if model_config.classes != len(preprocessing.classes):
        raise ValueError(
            f"the network has {model_config.classes} classes; {data_name} has {len(preprocessing.classes)}"
        )
    if model_config.channels != train[0].shape[1]:
        raise ValueError(f"the network expects {model_config.channels} channels; {data_name} has {train[0].shape[1]}")
    folder = checkpoints.ensure_writable(folder)
    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} already holds a finished run; give another --output or remove it")
    with checkpoints.RunLock(folder):
        torch.manual_seed(seed)
        model = build(model_config).to(device)
        config = {
            "format": 1,
            "network": type(model).__name__,
            "model": asdict(model_config),
            "recipe": asdict(recipe),
            "data": data_name,
            "preprocessing": asdict(preprocessing),
            "seed": seed,
        }
        checkpoints.write_json(folder / CONFIG, config)
        checkpoints.write_atomically(folder / METRICS, b"")

        def observe(progress: Progress) -> None:
            if progress.epoch_done:
                checkpoints.append_line(folder / METRICS, progress.epoch_done)
            if on_step:
                on_step(progress)

        images = preprocessing.standardize(train[0].to(device))
        start = time.perf_counter()
        train_epochs(model, images, train[1].to(device), recipe, seed=seed, on_step=observe)
        seconds = time.perf_counter() - start
        model.eval()
        state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        digest = checkpoints.save_weights(folder / WEIGHTS, state, {"format": "hcnn-1"})
        result: dict[str, Any] = {
            "data": data_name,
            "seed": seed,
            "epochs": recipe.epochs,
            "train_images": len(images),
            "train_seconds": round(seconds, 2),
            "parameters": asdict(count_parameters(model)),
            "weights_sha256": digest,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads(), "device": device},
        }
        if test is not None:
            test_images = preprocessing.standardize(test[0].to(device))
            result["test_images"] = len(test_images)
            result["test_accuracy"] = accuracy(model, test_images, test[1].to(device))
        checkpoints.write_json(folder / RESULT, result)
    return result


def load_run(folder: Path) -> Run:
    """Load the network of a run folder.

    Args:
        folder: as `train_run` leaves it.

    Returns:
        The run, its network in eval mode.

    Raises:
        ValueError: if the folder, its configuration or its weights are missing, damaged, or do not fit each other.

    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a finished run: expected {name} in it, as `hcnn train` leaves")
    try:
        config = json.loads((folder / CONFIG).read_text())
        kind = {"HierarchicalCNN": HierarchicalCNNConfig, "MultiscaleHierarchicalCNN": MultiscaleConfig}
        model_config = kind[config["network"]](**_tuples(config["model"]))
        preprocessing = Preprocessing(**_tuples(config["preprocessing"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / CONFIG}: expected a run's configuration; {error!r}") from error
    model = build(model_config)
    state, _ = checkpoints.load_weights(folder / WEIGHTS)
    checkpoints.match_state(model.state_dict(), state, str(folder / WEIGHTS))
    model.load_state_dict(state)
    return Run(folder, model.eval(), preprocessing, config)


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
