"""Render formulas as MathML, which browsers show without scripts, fonts or a network."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _inline(writer, node):
    writer.body.append(_converted(node, "inline"))
    raise SkipNode


def _block(writer, node):
    writer.body.append(f'<div class="math-block">{_converted(node, "block")}</div>\n')
    raise SkipNode


def _converted(node, display: str) -> str:
    source = node.astext()
    try:
        return convert(source, display=display)
    except Exception as error:  # of many types: the formula is at fault
        logger.warning("formula %r: %r", source, error, location=node)
        return f"<code>{source}</code>"


def setup(app):
    """Register the renderer, and choose it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer_name = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
