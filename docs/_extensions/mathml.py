"""Render formulas as MathML, which browsers show without scripts, fonts or a network."""

import html
import re

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
    source = node.astext().replace(r"\arg", r"\operatorname{arg}")  # which the converter lacks
    if display == "block":
        source = re.sub(r"\\(max|min)_", r"\\\1\\limits_", source)
    try:
        found = convert(source, display=display)
    except Exception as error:  # of many types: the formula is at fault
        logger.warning("formula %r: %r", source, error, location=node)
        return f"<code>{html.escape(source)}</code>"
    return FUNCTION.sub(r'\g<0><mspace width="0.17em"/>', SIGN.sub(_operator, found))


# The converter takes ≤ and ⟨, written as such, for variables: they want an operator's spaces.
SIGN = re.compile(r"<mi>(\W)</mi>")
FUNCTION = re.compile(
    r"(?<!<munder>)(?<!<msub>)(?<!<msup>)<m[io]>(?:log|arg|max|min)</m[io]>(?=<m(?:i|n|sub|row)\b)"
)


def _operator(sign) -> str:
    return f'<mo stretchy="false">{sign[1]}</mo>' if sign[1] not in "∂∞" else sign[0]


def setup(app):
    """Register the renderer, and choose it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer_name = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
