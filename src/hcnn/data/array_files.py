"""Files of arrays, .npy and .npz, judged before memory is taken and never unpickled."""

import zipfile
import zlib

import numpy as np

from hcnn.storage.atomic import StrPath


def read_npz(path: StrPath) -> dict[str, np.ndarray]:
    """Read every array of an .npz file, and never unpickle anything.

    Args:
        path: a file that `numpy.savez` or `numpy.savez_compressed` wrote.

    Returns:
        The arrays by name.

    Raises:
        ValueError: if the file is a pickle, holds object arrays (which are pickles), is cut off or is something
            else.

    """
    # Judged before numpy sees it, because numpy's loader takes any other file for a pickle.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected an .npz file of arrays; it is truncated or something else (a pickle?)")
    arrays, name = {}, "?"
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                arrays[name] = file[name]
                if not isinstance(arrays[name], np.ndarray):  # numpy hands out other files as bytes
                    raise ValueError("it is not in the .npy format")
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected plain arrays, no pickles; array {name!r} was refused: {error}") from error
    return arrays
