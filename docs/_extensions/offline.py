"""Fail the build where a page loads something from the network."""

import re

from sphinx.util import logging

logger = logging.getLogger(__name__)
# Links that a reader follows are <a href>; these load by themselves.
LOADS = re.compile(
    r"""<(?:link|script|img|iframe|source)\b[^>]*?\s(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)
STYLE_LOADS = re.compile(r"""(?:url\(|@import\s*)["']?((?:https?:)?//[^"')\s]+)""")


def _check(app, exception):
    if exception or app.builder.format != "html":
        return
    for pattern, suffix in ((LOADS, "html"), (STYLE_LOADS, "css")):
        for page in sorted(app.outdir.rglob(f"*.{suffix}")):
            for address in sorted(set(pattern.findall(page.read_text()))):
                logger.warning("%s loads %s", page.relative_to(app.outdir), address)


def setup(app):
    """Check when everything is written."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
