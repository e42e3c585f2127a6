"""From the options of `hcnn train` to data and settings of a run, for the commands and for `hcnn.train`."""

import os
from collections.abc import Callable
from dataclasses import replace

import torch

from hcnn.cli.train_options import TrainOptions
from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.data.splits import fewer
from hcnn.runs import allocator
from hcnn.runs.settings import RunSettings
from hcnn.training.device import find_device
from hcnn.training.distillation.config import DistillationConfig


def prepare_process(options: TrainOptions) -> None:
    """Set threads and memory of this process, and refuse options before minutes of reading images."""
    rest = options.rest
    set_threads(rest.threads)
    find_device(rest.device)
    if rest.device == "cpu":
        allocator.keep_freed_memory()
    if rest.test_flips and not rest.test:
        raise ValueError("--test-flips: expected no --no-test beside it, which leaves the test images unread; got both")
    if rest.teacher is None and options.distillation != DistillationConfig():
        raise ValueError("--teach and the settings of distillation need a --teacher: the folder of a finished run")
    _refuse_unused(options)


def _refuse_unused(options: TrainOptions) -> None:
    """Refuse settings that were given, and that the other settings leave without effect."""
    recipe, taught = options.recipe, options.distillation
    for name, value, used, wanted in (
        ("milestones", recipe.milestones, recipe.schedule == "step", "--schedule step"),
        ("attribute_warmup", recipe.attribute_warmup, recipe.attributes or recipe.topography, "ties or topography"),
        ("pairs", taught.pairs, taught.attention or taught.hints, "attention or hints"),
    ):
        if name in options.given and value and not used:
            raise ValueError(f"{name}: expected {wanted} beside it, without which it has no effect; got {value}")


def run_settings(options: TrainOptions, splits: Splits, seed: int) -> RunSettings:
    """The settings of a run on these images.

    Raises:
        ValueError: if sizes were given that the images have less of; those of a named recipe serve any images.
    """
    rest = options.rest
    sizes, largest = options.recipe.image_sizes, max(splits.train.images.shape[2:])
    if "image_sizes" in options.given and max(sizes, default=0) > largest:
        raise ValueError(f"image_sizes: expected sides of at most {largest}, as the images have; got {max(sizes)}")
    network = replace(options.network, channels=splits.train.images.shape[1], classes=len(splits.train.classes))
    return RunSettings(
        network,
        options.recipe,
        options.data,
        seed,
        rest.device,
        rest.checkpoint_seconds,
        rest.test_flips,
        teacher=rest.teacher,
        distillation=options.distillation,
        graph=rest.cuda_graph,
        validation_name=rest.validation_data,
        initial=options.initial,
        freeze=rest.freeze,
        on_bad=rest.bad_images,
    )


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads, if one was asked for.

    Raises:
        ValueError: if there is no such number of threads.
    """
    if threads is not None:
        most = max(64, 4 * (os.cpu_count() or 1))  # far more than gain anything, far less than a system refuses
        if not 1 <= threads <= most:
            raise ValueError(f"--threads: expected 1 to {most}; got {threads}")
        torch.set_num_threads(threads)


def load_splits(options: TrainOptions, say: Callable[[str], None]) -> Splits:
    """The images that the options name; says what was chosen for a folder, and which files were skipped."""
    rest = options.rest
    splits = datasets.load(
        options.data,
        data_dir=rest.data_dir,
        image_size=options.image_size,
        validation=options.validation,
        on_bad=rest.bad_images,
    )
    if rest.validation_data is not None:
        splits = datasets.with_validation(splits, rest.validation_data, data_dir=rest.data_dir, on_bad=rest.bad_images)
    if options.reason:
        say(options.reason)
    for path, reason in splits.skipped:
        say(f"skipped {path}: {reason}")
    if not rest.test:
        splits = replace(splits, test=None)
    return splits if rest.train_images is None else fewer(splits, rest.train_images)
