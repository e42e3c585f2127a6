"""The API reference: what one imports, then a page per folder of the package with its modules."""

import importlib
import inspect
import pkgutil
import sys

import hcnn

ORDER = [
    "functional",
    "layers",
    "models",
    "data",
    "training",
    "runs",
    "evaluation",
    "export",
    "explore",
    "bench",
    "storage",
]
LOOSE = "more"  # modules that are in no folder


def public_modules() -> tuple[list[str], list[str]]:
    """Modules of the library, and those that could not be imported because an extra is not installed.

    `hcnn.functional` describes everything that it offers on one page, and `hcnn.cli` has a reference of its own.
    """
    names = [
        module.name
        for module in pkgutil.walk_packages(hcnn.__path__, "hcnn.")
        if not any(part.startswith("_") for part in module.name.split("."))
        and not module.name.startswith(("hcnn.functional.", "hcnn.cli"))
    ]
    usable, missing = [], []
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError:
            missing.append(name)
            continue
        package, _, last = name.rpartition(".")
        if getattr(sys.modules[package], last) is module:  # else a function of this name, on the page of the package
            usable.append(name)
    return usable, missing


def api_pages() -> dict[str, str]:
    """The pages by their paths: api.md and one for each folder."""
    usable, missing = public_modules()
    folders: dict[str, list[str]] = {name: [] for name in ORDER}
    for name in usable:
        folder = name.split(".")[1]
        folders.setdefault(folder if hasattr(sys.modules[f"hcnn.{folder}"], "__path__") else LOOSE, []).append(name)
    folders = {folder: names for folder, names in folders.items() if names}
    return {
        "api.md": _index(folders, missing),
        **{f"api/{folder}.md": _folder(folder, names) for folder, names in folders.items()},
    }


def _index(folders: dict[str, list[str]], missing: list[str]) -> str:
    """What `import hcnn` offers, by the folder that it comes from, and the list of folders."""
    page = "# API reference\n\n## What `import hcnn` offers\n"
    offered: dict[str, list[str]] = {name: [] for name in ("front", *ORDER)}
    for name in hcnn.__all__:
        thing = getattr(hcnn, name)
        module = thing.__module__
        folder = module.split(".")[1]
        home = "hcnn.functional" if folder == "functional" else module
        offered[folder].append(f"{{py:obj}}`{name} <{home}.{thing.__name__}>`\n: {_summary(thing)}\n")
    for folder, entries in offered.items():
        if entries:
            page += f"\n**{folder}**\n\n" + "\n".join(entries)
    page += "\n## By subject\n\n"
    for folder in folders:
        words = "Prediction, pictures and tests." if folder == LOOSE else _summary(sys.modules[f"hcnn.{folder}"])
        page += f"[{_title(folder)}](api/{folder}.md)\n: {words}\n\n"
    if missing:
        page += "Not described, because an extra was not installed when these pages were built: "
        page += ", ".join(f"`{name}`" for name in missing) + ".\n\n"
    return page + "```{toctree}\n:hidden:\n\n" + "\n".join(f"api/{folder}" for folder in folders) + "\n```\n"


def _folder(folder: str, names: list[str]) -> str:
    listing = "\n".join(f"   {name}" for name in names)
    return f"# {_title(folder)}\n\n```{{eval-rst}}\n.. autosummary::\n   :toctree: ../../api\n\n{listing}\n```\n"


def _title(folder: str) -> str:
    return "Single modules" if folder == LOOSE else f"`hcnn.{folder}`"


def _summary(thing: object) -> str:
    """The first paragraph of its docstring, as Markdown."""
    parts = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()).split("``")
    parts[::2] = [part.replace("*", r"\*") for part in parts[::2]]  # what is not code
    return "``".join(parts)
