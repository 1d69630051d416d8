"""Read docstrings as they are written: plain text with backticks, formulas and doctests.

RST gives a meaning to characters that are mathematics here: the star of a shape [*B, T], the bars
of |x|. Only *word* is emphasis. In the docstring of a module an indented passage is code.
"""

import re

KEPT = re.compile(
    r"^( *)\.\. math::.*(?:\n\1 +.*|\n *$)*"  # a formula, to the end of its indentation
    r"|^ *>>>.*(?:\n.*\S.*)*"  # a doctest, to an empty line
    r"|`+[^`]*`+|(?<![\w*])\*[a-z]+\*(?![\w*])",  # code, emphasis
    re.MULTILINE,
)
MARKS = re.compile(r"(?<!\\)[*|]")


def _escape(app, what, name, obj, options, lines):
    """autodoc's event: change the lines in place, before napoleon sees them."""
    if what == "module":
        for number in range(len(lines) - 1, 1, -1):
            if _starts_block(lines, number):
                lines[number:number] = ["::", ""]
        return
    text = "\n".join(lines)
    lines[:] = _outside(KEPT, text, lambda part: MARKS.sub(r"\\\g<0>", part)).split("\n")


def _starts_block(lines, number) -> bool:
    """Is this the first line of an indented passage, after an empty line?"""
    before = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return lines[number].startswith(" ") and not lines[number - 1].strip() and before[:1] != " "


def _outside(pattern, text, change) -> str:
    """Change the text between the matches of a pattern; the pattern may span lines."""
    parts, end = [], 0
    for match in pattern.finditer(text):
        parts += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(text[end:])])


def setup(app):
    """Listen to autodoc before napoleon does."""
    app.connect("autodoc-process-docstring", _escape, priority=400)
    return {"parallel_read_safe": True}
