"""The data of a run, loaded again: with the images that it was validated on, which it may have set aside itself."""

from hcnn.data import datasets
from hcnn.data.image_set import Splits
from hcnn.data.splits import fewer, set_aside
from hcnn.runs.load import Run, folder_options, on_bad_of, read_result
from hcnn.storage.atomic import StrPath


def load_run_data(run: Run, data: str | None = None, data_dir: StrPath | None = None) -> Splits:
    """The data of a run, with the validation images that it had; downloaded if that is how it comes.

    Validation images that were named apart are left out if they cannot be read and there are test images to use.

    If the data has changed since the training, it cannot be told which ones it set aside: then there are none, and the
    training images may hold some of them.

    Args:
        run: a network with its preprocessing.
        data: another data set.
        data_dir: where data sets are kept.

    Returns:
        Its sets of images.

    Raises:
        ValueError: if there is no record of the data, it cannot be read, or its images do not fit the network.

    """
    name = data or run.config.get("data")
    if name is None:
        raise ValueError(f"{run.folder}: the network has no record of its data; name a data set with --data")
    apart = None if data else run.config.get("validation_data")
    if apart is not None and not isinstance(apart, str):
        raise ValueError(f"{run.folder}: validation_data: expected a path; got {str(apart)[:60]!r}")
    try:
        splits = datasets.load(name, data_dir=data_dir, **folder_options(name, run))
        if apart is not None:
            try:
                splits = datasets.with_validation(splits, apart, data_dir=data_dir, on_bad=on_bad_of(run))
            except (ValueError, OSError):
                if splits.test is None:
                    raise
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{name}: the images cannot be read; {error}; name another data set with --data") from error
    shape = (run.model.config.channels, *run.preprocessing.size)
    if tuple(splits.train.images.shape[1:]) != shape:
        got = tuple(splits.train.images.shape[1:])
        raise ValueError(f"{name}: expected images (c, *u) = {shape}, as the run's; got {got}")
    return splits if data or apart else set_aside_again(run, splits)


def warn_of_change(run: Run, splits: Splits) -> str:
    """A sentence if the data of a run has other training images than the training had, or "".

    A relative path means another folder wherever another one has its name, so that this may well be the reason.

    Args:
        run: a loaded run.
        splits: its data, as `load_run_data` gives it.

    """
    count = read_result(run.folder).get("train_images")
    if count is None or "data_sha256" not in run.config:  # there is no record of the images
        return ""
    if _trained_on(run, splits, count):
        return ""
    return (
        f"{run.config['data']}: these are not the images that {run.folder} was trained on: the data has changed, or "
        "it is other data of the same name"
    )


def set_aside_again(run: Run, splits: Splits) -> Splits:
    """The splits of a run's data, with the images that its training set aside for validation.

    Which ones they are is drawn, so any change of the data would make them others, among them images that the network
    was trained on. So the rest must be the images of the training, byte for byte.

    Args:
        run: a loaded run.
        splits: its data as it is now.

    Returns:
        The splits with a validation set; as they came if they have one, if the run set nothing aside, or if the data
        has changed since, so that it cannot be told which images it set aside.

    Raises:
        ValueError: if the run's result.json is damaged.

    """
    result = read_result(run.folder)
    aside, count = result.get("validation_images", 0), result.get("train_images", 0)
    if not aside or splits.validation is not None:
        return splits
    try:
        divided = set_aside(splits, aside, 0)
    except ValueError:  # there are too few images now
        return splits
    return divided if _trained_on(run, divided, count) else splits


def _trained_on(run: Run, splits: Splits, count: int) -> bool:
    """Whether the training images, or the `count` of them that a run draws, are those that it was trained on."""
    try:
        trained = splits if count == len(splits.train) else fewer(splits, count)
    except ValueError:  # there are too few images now
        return False
    return trained.train.digest() == run.config.get("data_sha256")
