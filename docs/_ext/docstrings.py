"""Docstrings are plain text with formulas; reStructuredText would read `*v` as the start of emphasis."""

import re
from typing import Any

from sphinx.application import Sphinx

LITERAL = re.compile(r"(``.*?``)")


def escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape stars and bars outside of literals and doctests."""
    code = False
    for index, line in enumerate(lines):
        code = line.lstrip().startswith(">>>") or (code and bool(line.strip()))
        if code:
            continue
        parts = LITERAL.split(line)
        parts[::2] = [re.sub(r"(?<!\*)\*(?!\*)", r"\\*", part).replace("|", r"\|") for part in parts[::2]]
        lines[index] = "".join(parts)


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn adds to estimators of its own accord; its text refers to its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon, which writes emphasis of its own."""
    app.connect("autodoc-process-docstring", escape, priority=100)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
