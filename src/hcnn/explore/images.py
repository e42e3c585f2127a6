"""The images that a run is explored with: those that neighbours are looked for in, and held-out ones to ask about."""

from hcnn.data import datasets
from hcnn.data.image_set import ImageSet
from hcnn.runs.held_out import set_aside_again
from hcnn.runs.load import Run, folder_options
from hcnn.storage.atomic import StrPath


def images_of(
    run: Run, *, data: str | None = None, data_dir: StrPath | None = None
) -> tuple[ImageSet, ImageSet | None]:
    """The training images of a data set, and images of the same kind that the network was not trained on.

    Held-out images are the test set; where there is none, the validation set, which is drawn again as it was for the
    training.

    Args:
        run: a loaded run.
        data: a data set, as `hcnn.data.datasets.load` takes it; the run's own by default.
        data_dir: the folder of data sets.

    Returns:
        Training images; and held-out images, or None where there are none, or where it cannot be told which ones they
        are, because the data has changed since the training.

    Raises:
        ValueError: if the images are not of the network's channels and size.

    """
    name = data or run.config["data"]
    splits = datasets.load(name, data_dir=data_dir, **folder_options(name, run))
    expected = (len(run.preprocessing.mean), *run.preprocessing.size)
    if splits.train.images.shape[1:] != expected:
        got = tuple(splits.train.images.shape[1:])
        raise ValueError(f"{name}: expected images (c, *u) = {expected}, as the run's; got {got}")
    if data is None:
        splits = set_aside_again(run, splits)
    return splits.train, splits.validation if splits.test is None else splits.test
