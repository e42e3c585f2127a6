"""Writing logs, checkpoints, weights and the result of a run."""

import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hcnn.data.image_set import ImageSet, Splits
from hcnn.models.counts import count_parameters
from hcnn.models.network import Network
from hcnn.runs.environment import commit, hardware
from hcnn.runs.settings import CONFIG, METRICS, RESULT, TIMING, WEIGHTS, RunSettings
from hcnn.storage.atomic import write_json
from hcnn.storage.checkpoints import save_checkpoint
from hcnn.storage.log import append_line, sync_log
from hcnn.storage.records import read_object
from hcnn.storage.safetensors import WEIGHTS_FORMAT, save_weights
from hcnn.storage.state_tree import flatten_state
from hcnn.training.best_epoch import BestEpoch, accuracy_and_loss, logits_with
from hcnn.training.progress import Diverged, Progress
from hcnn.training.trainer import Trainer


class Recorder:
    """Writes logs, checkpoints, weights and the result of a run; on rank 0 only.

    With validation images the result is the weights of the epoch that did best on them, else those of the last epoch.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        settings: RunSettings,
        data: Splits,
        seconds: float,
        best: BestEpoch,
        last: Path | None,
        earlier: list[dict[str, Any]],
    ) -> None:
        self.folder, self.trainer, self.settings, self.data, self.best = folder, trainer, settings, data, best
        self.before, self.start = seconds, time.perf_counter()
        self.saved_at = self.start
        self.last = last  # checkpoint
        self.process = _describe_process(trainer)
        self.earlier = [one for one in earlier if one != self.process]  # those that trained before, once each
        self.board = _tensorboard(folder)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all its processes in turn."""
        return self.before + time.perf_counter() - self.start

    def after_step(self, progress: Progress, *, stopping: bool) -> Progress:
        """Append to the logs after an epoch, and write a checkpoint when one is due.

        Returns:
            The progress, with the accuracy on the validation images after an epoch.
        """
        if progress.epoch_done:
            row = dict(progress.epoch_done)
            if self.data.validation is not None:
                weights = self.trainer.result_state()
                accuracy, loss = self._measure(self.data.validation, weights)
                self.best.offer(progress.epoch, accuracy, loss, weights)
                row |= {"validation_accuracy": accuracy, "validation_loss": loss}
                progress = replace(progress, validation=accuracy)
            append_line(self.folder / METRICS, row)
            append_line(
                self.folder / TIMING,
                {
                    "epoch": progress.epoch,
                    "seconds": round(self.seconds, 3),
                    "images_per_second": round(progress.images_per_second, 1),
                },
            )
            if self.board:
                for name, value in row.items():
                    if name != "epoch":
                        self.board.add_scalar(name, value, progress.epoch)
                self.board.flush()
        due = time.perf_counter() - self.saved_at > self.settings.checkpoint_seconds
        if progress.epoch_done or due or stopping:
            self.save()
        return progress

    def save(self) -> None:
        """Write a checkpoint of the trainer as it is.

        Raises:
            Diverged: if the weights contain NaN or infinities; the checkpoints before stay.
        """
        self.trainer.check_finite()
        best = {"best": self.best.state_dict()} if self.best.epoch else {}
        tensors, tree = flatten_state(self.trainer.state() | best)
        log_size = sync_log(self.folder / METRICS)
        processes = [*self.earlier, self.process]
        state = {"tree": tree, "log_size": log_size, "seconds": self.seconds, "processes": processes}
        cpu = {name: value.detach().cpu() for name, value in tensors.items()}
        self.last = save_checkpoint(self.folder, self.trainer.step, cpu, state)
        self.saved_at = time.perf_counter()

    def _measure(self, images: ImageSet, weights: dict[str, Tensor], *, flip: bool = False) -> tuple[float, float]:
        """Accuracy and loss of some weights on a set, leaving the trainer as it was."""
        standardized = self.trainer.preprocessing.standardize(images.images.to(self.trainer.device))
        logits = logits_with(self.trainer.model, weights, standardized, flip=flip)
        if not bool(logits.isfinite().all()):
            raise Diverged(f"the logits of {images.name} contain NaN or infinities after step {self.trainer.step}")
        return accuracy_and_loss(logits, images.labels.to(self.trainer.device))

    def finish(self) -> dict[str, Any]:
        """Write weights and result; read the test set, once."""
        trainer, settings, best = self.trainer, self.settings, self.best
        weights = trainer.result_state()
        if self.data.validation is not None and not best.epoch:  # its epochs are from before checkpoints kept the best
            best.offer(settings.recipe.epochs, *self._measure(self.data.validation, weights), weights)
        weights = best.weights or weights
        self._measure(self.data.train.subset(range(min(250, len(self.data.train)))), weights)  # refuses useless weights
        state = {name: value.detach().cpu() for name, value in weights.items()}
        digest = save_weights(self.folder / WEIGHTS, state, WEIGHTS_FORMAT)
        model = trainer.model
        result: dict[str, Any] = {
            "data": settings.data_name,
            "seed": settings.seed,
            "epochs": settings.recipe.epochs,
            "train_images": len(self.data.train),
            "precision": trainer.precision,
            "weights": _origin(trainer, best),
            "weights_sha256": digest,
            "parameters": asdict(count_parameters(cast(Network, model))),
        }
        if self.data.validation is not None:
            result["validation_images"] = len(self.data.validation)
            result["validation_accuracy"] = best.accuracy
            result["validation_loss"] = best.loss
            result["best_epoch"] = best.epoch
        extended = read_object(self.folder / CONFIG).get("extended")
        if self.data.test is not None:
            result["test_images"] = len(self.data.test)
            result["test_accuracy"], _ = self._measure(self.data.test, weights)
            result["test_set"] = (
                "read once after every training length that was finished; one view per image"
                if extended
                else "read once, after training; one view per image"
            )
            if settings.flip:
                result["test_accuracy_with_flips"], _ = self._measure(self.data.test, weights, flip=True)
        if extended:
            result["extended"] = extended
        result |= {"seconds": round(self.seconds, 2), **self.process}
        if self.earlier:
            result["earlier"] = self.earlier
        write_json(self.folder / RESULT, result)
        return result

    def close(self) -> None:
        """End TensorBoard's thread and file, where there are any."""
        if self.board:
            self.board.close()


def _describe_process(trainer: Trainer) -> dict[str, Any]:
    """What trains a run; to be asked at the start, for a checkout may be changed while its code trains."""
    return {
        "processes": trainer.processes,
        "graph": trainer.graph,  # beside which Muon rounds otherwise
        "hardware": hardware(trainer.device),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "commit": commit(),
    }


def _origin(trainer: Trainer, best: BestEpoch) -> str:
    """Which weights the result holds, in words."""
    if not best.epoch:
        return "moving average" if trainer.average else "last step"
    kind = "moving average after epoch" if trainer.average else "epoch"
    return f"{kind} {best.epoch}, the best on the validation images"


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer where TensorBoard is installed and takes the name of the folder, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        str(folder).encode()  # TensorBoard writes into folders whose names are text only, and fails after making them
    except (ImportError, UnicodeError):
        return None
    return SummaryWriter(str(folder / "tensorboard"))
