"""The images that a run set aside for validation, found again when its data is loaded later."""

from hcnn.data.image_set import Splits
from hcnn.data.splits import fewer, set_aside
from hcnn.runs.load import Run, read_result


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
        trained = divided if count == len(divided.train) else fewer(divided, count)
    except ValueError:  # there are too few images now
        return splits
    return divided if trained.train.digest() == run.config.get("data_sha256") else splits
