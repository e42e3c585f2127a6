"""Paths as users give them."""

import os
from pathlib import Path

from hcnn.storage.atomic import StrPath


def user_path(path: StrPath) -> Path:
    """A path whose ``~`` or ``~user`` in front stands for a home folder, as in a shell.

    Shells leave it as it is behind an equals sign, ``--output=~/runs``, and Python does not expand it at all. It stays
    where no such user is known.

    Example:
        >>> user_path("~/runs") == Path.home() / "runs", user_path("runs/~").as_posix()
        (True, 'runs/~')
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises a RuntimeError for an unknown user
