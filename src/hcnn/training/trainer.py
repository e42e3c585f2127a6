"""The training loop: plain PyTorch, over images that are kept on the training device as bytes.

Everything random derives from (seed, epoch, index of the image), so a run that is resumed from a checkpoint, at any
step, gives the same bits as one that was never interrupted.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from numbers import Integral
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.layers.normalization import synchronize
from hcnn.layers.randomness import drawn_from
from hcnn.models.transfer import parameter_groups
from hcnn.training.attribute_loss import ArrayLoss
from hcnn.training.batches import Batches
from hcnn.training.cuda_graph import CapturedStep
from hcnn.training.device import settle_precision
from hcnn.training.distributed import average_gradients, rank_and_size
from hcnn.training.evaluate import parameter_type
from hcnn.training.first_step import (
    check_batch,
    check_labels,
    check_learnable,
    check_weights,
    prepare_network,
    try_step,
)
from hcnn.training.optimizers import RecipeOptimizer, WeightAverage
from hcnn.training.progress import Diverged, Progress, Steps
from hcnn.training.recipe import Recipe, learning_rate


class DistillationLoss(Protocol):
    """What `Trainer` needs for distillation; see `hcnn.training.distillation.losses.Distillation`."""

    regressors: nn.ModuleList

    def loss(self, x: Tensor, logits: Tensor, label_loss: Tensor, *, epoch: int, progress: float) -> Tensor:
        """The loss of a batch that the student has just seen."""
        ...


class Trainer:
    """Trains a network step by step; its whole state can be taken out and put back between any two steps.

    With a process group every process takes an equal, contiguous share of each batch; statistics are taken over the
    whole batch and gradients averaged, so that the number of processes changes rounding only.

    Args:
        model: the network, on the device of the images.
        images: uint8 (n, c, *u).
        labels: int64 (n,).
        preprocessing: of the images.
        recipe: how to train.
        seed: of order and augmentation, and of dropout where a network has it.
        group: the processes that train together, or None.
        graph: record the step as a CUDA graph; only for a single process on a CUDA device.
        distillation: a teacher; its loss takes the place of the loss against the labels.
        weights: of the images (n,), positive; the loss of an image is multiplied by its weight. None for equal ones.
        part: the images are part of a training set that comes bit by bit, and may show one class only.

    Raises:
        ValueError: if there are fewer images than one batch, the batch cannot be divided evenly, or into pairs for
            mixup and CutMix, the labels or weights are not those of the images, the images show one class only or do
            not fit the network, or no CUDA graph can be recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        preprocessing: Preprocessing,
        recipe: Recipe,
        *,
        seed: int = 0,
        group: dist.ProcessGroup | None = None,
        graph: bool = False,
        distillation: DistillationLoss | None = None,
        weights: Tensor | None = None,
        part: bool = False,
    ) -> None:
        if graph and (images.device.type != "cuda" or group is not None):
            raise ValueError(
                f"graph: expected one process on a CUDA device; got {1 if group is None else group.size()} on "
                f"{images.device}"
            )
        if not isinstance(recipe, Recipe):
            raise ValueError(f"recipe: expected a Recipe, such as get_recipe('fast'); got {recipe!r}")
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(f"seed: expected a whole number, 0 or more; got {seed!r}")
        self.rank, self.processes = rank_and_size(group)
        check_batch(recipe, len(images), self.processes)
        check_labels(images, labels, preprocessing.classes)
        if weights is not None:
            check_weights(weights, labels)
            if distillation is not None:
                raise ValueError("weights: expected none beside a teacher, whose loss has no weights of images")
        if not part:
            check_learnable(images, labels, preprocessing.classes)
        self.draws = any(
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in model.modules()
        )
        if graph and (distillation is not None or self.draws):
            raise ValueError("graph: a step with a teacher or with dropout depends on the host and cannot be recorded")
        self.model, self.weighted = model, weights is not None
        self.preprocessing, self.recipe, self.seed, self.group = preprocessing, recipe, seed, group
        self.device = images.device
        self.precision, _ = settle_precision(
            recipe.precision, self.device, attributes=getattr(model, "array_count", 0) > 0
        )
        self.arrays = None
        if recipe.attributes or recipe.topography:
            pixels = (float(images.min()), float(images.max()))
            self.arrays = ArrayLoss(model, recipe.attributes, recipe.topography, preprocessing, pixels, group)
        self.source = Batches(
            images,
            labels,
            preprocessing,
            recipe,
            seed=seed,
            dtype=parameter_type(model),
            rank=self.rank,
            processes=self.processes,
            weights=weights,
            arrays=self.arrays,
        )
        self.batches = self.source.count
        self.steps, self.step = self.batches * recipe.epochs, 0
        count = min(2, len(images), recipe.batch_size // self.processes // recipe.accumulate)
        for epoch, batch in self.source.places_of_each_size():
            x, *_ = self.source.inputs(torch.arange(count, device=self.device), epoch, batch)
            try_step(model, x, len(preprocessing.classes), bfloat16=self.precision == "bfloat16")
        prepare_network(model, images, preprocessing, recipe)
        synchronize(model, group)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("model: expected parameters that learn; all of them are frozen")
        self.forward = torch.compile(model) if recipe.compile else model
        self.graph, self.distillation = graph, distillation
        learned = nn.ModuleList([model, distillation.regressors]) if distillation else model
        groups = parameter_groups(model, 1.0, layer_decay=recipe.layer_decay)
        factors = {parameter: group["lr"] for group in groups for parameter in group["params"]}
        self.optimizer = RecipeOptimizer(learned, recipe, factors, capturable=graph)
        self._captured = CapturedStep(self._compute)
        # What a step reads from the host beside its images; a graph reads it from here.
        self._rate, self._stop, self._strength = (torch.zeros((), device=self.device) for _ in range(3))
        self.average = WeightAverage(model, recipe.ema) if recipe.ema else None
        self.stop_requested = False
        # loss · images, hits, images of the epoch so far, over all processes; then the equivariance error of each tie
        wide = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS devices do not have
        self.sums = torch.zeros(3 + len(recipe.attributes), dtype=wide, device=self.device)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as nested dicts and lists of tensors and numbers."""
        return {
            "step": self.step,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else dict(self.average.state),
            "sums": self.sums,
            **({"regressors": dict(self.distillation.regressors.state_dict())} if self.distillation else {}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from `state`.

        Args:
            state: what `state` returned, of a trainer made in the same way.

        Raises:
            ValueError: if it is something else.
        """
        if missing := sorted(self.state().keys() - state.keys()):
            raise ValueError(f"load_state: expected what `state` returns; without {', '.join(missing)}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._captured = CapturedStep(self._compute)  # the optimizer's state has moved
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.sums.copy_(state["sums"])
        self.step = int(state["step"])
        if self.distillation:
            self.distillation.regressors.load_state_dict(state["regressors"])

    def result_state(self) -> dict[str, Tensor]:
        """The weights that training is for: the moving average if the recipe has one."""
        return dict(self.model.state_dict()) if self.average is None else dict(self.average.state)

    def check_finite(self) -> None:
        """Refuse weights or statistics that contain NaN or infinities.

        Raises:
            Diverged: names the first tensor that does.
        """
        for state in (self.model.state_dict(), self.result_state()):
            for name, value in state.items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise Diverged(f"{name} contains NaN or infinities after step {self.step} of {self.steps}")

    def fit(self, on_step: Callable[[Progress], None] | None = None) -> list[dict[str, Any]]:
        """Train to the end, and leave the network in eval mode with the weights that `result_state` returns.

        Args:
            on_step: called after every step.

        Returns:
            The metrics of each epoch.

        Raises:
            Diverged: as `run` does.
        """
        epochs = []
        for progress in self.run():
            if on_step is not None:
                on_step(progress)
            if progress.epoch_done:
                epochs.append(progress.epoch_done)
        self.model.load_state_dict(self.result_state())
        self.model.eval()
        return epochs

    def run(self) -> Iterator[Progress]:
        """Train to the end, step by step, as the result is iterated; `fit` does it in one call.

        Returns:
            What is known after each step. A `RuntimeWarning` says so if it is never iterated.

        Raises:
            Diverged: when the loss is NaN or infinite (looked at every step on a CPU, every 50th on a GPU, where each
                look waits for it).
        """
        return Steps(self._steps())

    def _steps(self) -> Iterator[Progress]:
        self.model.train()
        start, first, epoch_start, epoch_first = time.perf_counter(), self.step, time.perf_counter(), self.step
        while self.step < self.steps:
            epoch, batch = divmod(self.step, self.batches)
            if batch == 0:
                self.sums.zero_()
                epoch_start, epoch_first = time.perf_counter(), self.step
            rate = learning_rate(self.recipe, self.step, self.steps)
            numbers = self._train_step(epoch, batch, rate)
            self.step += 1
            done = batch + 1 == self.batches
            if self.device.type == "cpu" or done or self.step % 50 == 0:
                loss, _, stop, *_ = numbers.tolist()
                if not math.isfinite(loss) or not math.isfinite(float(self.sums[0])):
                    raise Diverged(
                        f"the loss became {loss} at step {self.step} of {self.steps}, learning rate {rate:g}"
                    )
            else:
                stop = 0.0
            if done or self.step % 50 == 0:
                self.check_finite()
            looked = done or self._looks()
            mean_loss, accuracy = (self.sums[:2] / self.sums[2]).tolist() if looked else (math.nan, math.nan)
            now = time.perf_counter()
            row = {"epoch": epoch + 1, "loss": mean_loss, "train_accuracy": accuracy, "lr": rate} if done else None
            if row and self.arrays is not None:
                row |= self._errors(self.arrays, epoch)
            yield Progress(
                epoch + 1,
                self.recipe.epochs,
                self.step,
                self.steps,
                mean_loss,
                accuracy,
                (self.step - epoch_first) * self.recipe.batch_size / (now - epoch_start),
                (now - start) / (self.step - first) * (self.steps - self.step),
                row,
                stop > 0,
            )

    def _errors(self, arrays: ArrayLoss, epoch: int) -> dict[str, float]:
        """The mean error of each tie over the parts of the epoch in which some image drew it, if there are any."""
        order = self.source.order(epoch)[: self.batches * self.recipe.batch_size]
        parts = order.reshape(self.batches, self.processes, self.recipe.accumulate, -1).transpose(1, 2).flatten(2)
        drawn, errors = arrays.drawn(seed=self.seed, epoch=epoch, index=parts), (self.sums[3:] / self.sums[2]).tolist()
        shares = [float((drawn == number).any(2).float().mean()) for number in range(len(arrays.ties))]
        every = zip(arrays.ties, errors, shares, strict=True)
        return {f"equivariance_error {tie}": error / share for tie, error, share in every if share}

    def _looks(self) -> bool:
        """Whether reading a number off the device is free, or due."""
        return self.device.type == "cpu" or self.step % 50 == 0

    def _train_step(self, epoch: int, batch: int, rate: float) -> Tensor:
        """One step of all processes; returns mean loss, fraction of hits, and whether some process wants to stop.

        After these come the equivariance errors of the ties. The host only issues work: for bytes without ties nothing
        here waits for the device.
        """
        self._rate.fill_(rate)
        self._stop.fill_(float(self.stop_requested))
        self._strength.fill_(min(1.0, (self.step + 1) / max(1.0, self.recipe.attribute_warmup * self.steps)))
        if self.graph and self.arrays is None and self.recipe.accumulate == 1 and self.recipe.batch_size % 2 == 0:
            return self._captured(self.source.ahead(epoch, batch))
        parts = self.source.parts(epoch, batch)
        return self._captured(parts) if self.graph else self._compute(parts, rate)

    def _compute(self, parts: list[Tensor], rate: float | None = None) -> Tensor:
        """From what `Batches.parts` gives to new weights and the step's numbers; what a graph records."""
        recipe = self.recipe
        numbers = torch.zeros(len(self.sums), device=self.device)
        numbers[2] = self._stop
        self.optimizer.zero_grad()
        with self._dropout_seeded():
            size = len(parts) // recipe.accumulate
            for start in range(0, len(parts), size):
                self._backward(*parts[start : start + size], numbers=numbers)
        numbers = average_gradients(self.optimizer.parameters, numbers, self.group)
        self.optimizer.step(self._rate if rate is None else rate)
        if self.average is not None:
            self.average.update(self.model)
        one = torch.ones_like(numbers[:1])
        self.sums += torch.cat([numbers[:2], one, numbers[3:]]).to(self.sums.dtype) * recipe.batch_size
        return numbers

    def _backward(self, x: Tensor, targets: Tensor, *pairs: Tensor, numbers: Tensor) -> None:
        """Add the gradients of a part of a batch, and its loss and fraction of hits to the step's numbers."""
        recipe = self.recipe
        with (
            nullcontext() if self.arrays is None else self.arrays.watching(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            logits = self.forward(x)
        logits = logits.float()
        smooth = 0.0 if self.weighted else recipe.label_smoothing  # which is in the targets where images have weights
        loss = F.cross_entropy(logits, targets, label_smoothing=smooth)
        if self.distillation is not None:
            loss = self.distillation.loss(
                x[: len(logits)], logits, loss, epoch=self.step // self.batches, progress=self.step / self.steps
            )
        if self.arrays is not None:
            extra, errors = self.arrays.loss(*pairs)
            loss = loss + self._strength * extra
            numbers[3:] += errors / recipe.accumulate
        (loss / recipe.accumulate).backward()
        with torch.no_grad():
            numbers[0] += loss / recipe.accumulate
            numbers[1] += (logits.argmax(1) == targets.argmax(1)).float().mean() / recipe.accumulate

    @contextmanager
    def _dropout_seeded(self) -> Iterator[None]:
        """Dropout derives from (seed, step, rank) too, whatever was drawn before, here or elsewhere."""
        seed = ((self.seed * self.steps + self.step) * self.processes + self.rank) % 2**63
        if not self.draws:
            yield
        elif self.recipe.compile:  # compiled code draws from the global random state, which is put back
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # the CPU is forked always
                torch.manual_seed(seed)
                yield
        else:
            with drawn_from(torch.Generator(self.device).manual_seed(seed)):
                yield
