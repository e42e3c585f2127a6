"""Run the command: ``python -m hcnn.cli``."""

import os
import sys

from hcnn.cli.main import main

if __name__ == "__main__":
    code = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A worker of torchrun, with everything written and its group gone: threads that PyTorch leaves to the end of
        # the interpreter now and then abort it there (torch 2.13, gloo), which torchrun takes for a failure.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
