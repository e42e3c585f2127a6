"""Mathematics as MathML: every current browser draws it, with no script, no font and no other host."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.math import get_node_equation_number


def to_mathml(latex: str, display: str) -> str:
    """Convert, and refuse what the converter would let through as text."""
    mathml = convert(latex, display=display)
    if "<mi>\\" in mathml or "<mi>&</mi>" in mathml:
        raise SphinxError(f"mathematics that latex2mathml does not know: {latex}")
    return mathml


def inline(translator: Any, node: nodes.math) -> None:
    """One formula within a line."""
    translator.body.append(to_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A formula on its own, numbered where it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math-block"))
    translator.body.append(to_mathml(node.astext(), "block"))
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer `html_math_renderer = "mathml"`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
