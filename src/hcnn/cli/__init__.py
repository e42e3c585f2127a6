"""The command `hcnn`. Only this package prints."""

from hcnn.cli.main import main

__all__ = ["main"]
