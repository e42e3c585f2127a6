"""Build hook: compiles the native kernels into the wheel, or beside the source for an editable install.

Without a C++ compiler, or if it fails, the build goes on without them: the PyTorch forms then serve.
"""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

FOLDER = Path("src/hcnn/functional/native")


class NativeKernels(BuildHookInterface):
    """Adds `kernels.so` to a wheel, whose tag then names the platform but no version of Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add what was made."""
        if self.target_name != "wheel":
            return
        path = Path(self.root) / FOLDER / "build.py"  # by its path: importing the package would need torch
        spec = importlib.util.spec_from_file_location("hcnn_native_build", path)
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            library = build.build()
        except (RuntimeError, OSError) as error:
            self.app.display_warning(f"hcnn: no native kernels, the PyTorch forms serve instead: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(sys_tags()).platform}"
        build_data["artifacts"].append(str(library.relative_to(self.root)))
