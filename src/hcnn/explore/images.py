"""The images that a run is explored with: those that neighbours are looked for in, and held-out ones to ask about."""

from hcnn.data.image_set import ImageSet
from hcnn.runs.held_out import load_run_data
from hcnn.runs.load import Run
from hcnn.storage.atomic import StrPath


def images_of(
    run: Run, *, data: str | None = None, data_dir: StrPath | None = None
) -> tuple[ImageSet, ImageSet | None]:
    """The training images of a data set, and images of the same kind that the network was not trained on.

    Held-out images are the test set; where there is none, the validation set, which is drawn again as it was for the
    training if it did not come with the data or was named.

    Args:
        run: a loaded run.
        data: a data set, as `hcnn.data.datasets.load` takes it; the run's own by default.
        data_dir: the folder of data sets.

    Returns:
        Training images; and held-out images, or None where there are none, or where it cannot be told which ones they
        are, because the data has changed since the training.

    Raises:
        ValueError: if the data cannot be read, or the images are not of the network's channels and size.

    """
    splits = load_run_data(run, data, data_dir)
    return splits.train, splits.validation if splits.test is None else splits.test
