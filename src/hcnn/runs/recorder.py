"""Writing logs, checkpoints, weights and the result of a run."""

import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hcnn.data.image_set import ImageSet, Splits
from hcnn.models.counts import count_parameters
from hcnn.models.network import Network
from hcnn.runs.environment import commit, hardware
from hcnn.runs.settings import METRICS, RESULT, TIMING, WEIGHTS, RunSettings
from hcnn.storage.atomic import write_json
from hcnn.storage.checkpoints import load_newest, save_checkpoint
from hcnn.storage.log import append_line, sync_log
from hcnn.storage.safetensors import save_weights
from hcnn.storage.state_tree import flatten_state
from hcnn.training.evaluate import predict_logits
from hcnn.training.progress import Diverged, Progress
from hcnn.training.trainer import Trainer


class Recorder:
    """Writes logs, checkpoints, weights and the result of a run; on rank 0 only."""

    def __init__(self, folder: Path, trainer: Trainer, settings: RunSettings, data: Splits, seconds: float) -> None:
        self.folder, self.trainer, self.settings, self.data = folder, trainer, settings, data
        self.before, self.start = seconds, time.perf_counter()
        self.saved_at = self.start
        newest, _ = load_newest(folder) if trainer.step else (None, [])
        self.last: Path | None = newest.path if newest else None
        self.board = _tensorboard(folder)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all its processes in turn."""
        return self.before + time.perf_counter() - self.start

    def after_step(self, progress: Progress, *, stopping: bool) -> None:
        """Append to the logs after an epoch, and write a checkpoint when one is due."""
        if progress.epoch_done:
            row = dict(progress.epoch_done)
            if self.data.validation is not None:
                row["validation_accuracy"] = self._accuracy(self.data.validation)
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

    def save(self) -> None:
        """Write a checkpoint of the trainer as it is.

        Raises:
            Diverged: if the weights contain NaN or infinities; the checkpoints before stay.
        """
        self.trainer.check_finite()
        tensors, tree = flatten_state(self.trainer.state())
        log_size = sync_log(self.folder / METRICS)
        state = {"tree": tree, "log_size": log_size, "seconds": self.seconds}
        cpu = {name: value.detach().cpu() for name, value in tensors.items()}
        self.last = save_checkpoint(self.folder, self.trainer.step, cpu, state)
        self.saved_at = time.perf_counter()

    def _accuracy(self, images: ImageSet, *, flip: bool = False) -> float:
        """Accuracy of the result's weights on a set, leaving the trainer as it was."""
        model = self.trainer.model
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.trainer.result_state())
        standardized = self.trainer.preprocessing.standardize(images.images.to(self.trainer.device))
        logits = predict_logits(model, standardized, flip=flip)
        model.load_state_dict(kept)
        if not bool(logits.isfinite().all()):
            raise Diverged(f"the logits of {images.name} contain NaN or infinities after step {self.trainer.step}")
        return (logits.argmax(1) == images.labels.to(self.trainer.device)).float().mean().item()

    def finish(self, processes: int) -> dict[str, Any]:
        """Write weights and result; read the test set, once."""
        trainer, settings = self.trainer, self.settings
        self._accuracy(self.data.train.subset(range(min(250, len(self.data.train)))))  # refuses useless weights
        state = {name: value.detach().cpu() for name, value in trainer.result_state().items()}
        digest = save_weights(self.folder / WEIGHTS, state, {"format": "hcnn-1"})
        model = trainer.model
        result: dict[str, Any] = {
            "data": settings.data_name,
            "seed": settings.seed,
            "epochs": settings.recipe.epochs,
            "train_images": len(self.data.train),
            "precision": trainer.precision,
            "weights": "moving average" if trainer.average else "last step",
            "weights_sha256": digest,
            "parameters": asdict(count_parameters(cast(Network, model))),
        }
        if self.data.validation is not None:
            result["validation_images"] = len(self.data.validation)
            result["validation_accuracy"] = self._accuracy(self.data.validation)
        if self.data.test is not None:
            result["test_images"] = len(self.data.test)
            result["test_accuracy"] = self._accuracy(self.data.test)
            result["test_set"] = "read once, after training; one view per image"
            if settings.flip:
                result["test_accuracy_with_flips"] = self._accuracy(self.data.test, flip=True)
        result |= {
            "seconds": round(self.seconds, 2),
            "processes": processes,
            "hardware": hardware(trainer.device),
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
            "commit": commit(),
        }
        write_json(self.folder / RESULT, result)
        if self.board:
            self.board.close()
        return result


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer where TensorBoard is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
