"""Count two clauses that make prose hard to read, and fail where they are frequent.

Nominal clauses hide a noun that the field has a word for. Relatives behind a preposition make one
sentence of two; KINDS has the words of both. Docstrings, comments, messages, Markdown and notebooks
may have up to LIMIT of each per 1,000 words.

    python .ci/english.py            # a table by folder; exit status 1 above the limit
    python .ci/english.py --list core mappings   # every place, in paths that contain these words
"""

import argparse
import ast
import io
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 1.0  # of each kind, per 1,000 words of each folder
PACKAGES = ("jsoftmax", "tests", "benchmarks", "examples", ".ci")
FOLDERS = (*PACKAGES, "notebooks", "docs", "pages at the root")

SEVERAL = 4  # words make a string a message
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
KINDS = {
    # Questions are exempt.
    "what": re.compile(r"\bwhat\b(?![^.!?:;]*\?)", re.IGNORECASE),
    "which": re.compile(
        r"\b(?:whose|(?:about|across|after|against|among|around|at|before|behind|between|beyond|by|"
        r"during|for|from|in|into|of|on|onto|over|through|to|toward|under|upon|with|within|without)"
        r"\s+(?:which|whom))\b",
        re.IGNORECASE,
    ),
}


def main() -> None:
    """Print the rates, or with --list the places."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--list", nargs="*", metavar="PART", help="print the places instead")
    parts = options.parse_args().list
    passages = [(path, line, text) for path in _files() for line, text in _passages(path)]
    if parts is not None:
        chosen = (each for each in passages if not parts or any(p in str(each[0]) for p in parts))
        for path, line, text in chosen:
            for kind, match in _found(text):
                number = line + text.count("\n", 0, match.start())
                context = text[max(0, match.start() - 60) : match.end() + 40]
                print(f"{path}:{number}: {kind}: {' '.join(context.split())}")
        return
    faults = False
    print(f"{'':20}{'words':>8}" + "".join(f"{kind:>8}" for kind in KINDS) + "  per 1,000 words")
    for folder in FOLDERS:
        texts = [text for path, _, text in passages if _folder(path) == folder]
        words = sum(len(WORD.findall(text)) for text in texts)
        counts = dict.fromkeys(KINDS, 0)
        for text in texts:
            for kind, _ in _found(text):
                counts[kind] += 1
        rates = {kind: 1000 * count / max(words, 1) for kind, count in counts.items()}
        faults |= any(rate > LIMIT for rate in rates.values())
        print(f"{folder:20}{words:>8}" + "".join(f"{rate:>8.2f}" for rate in rates.values()))
    if faults:
        sys.exit(
            f"More than {LIMIT} clauses per 1,000 words. Name the thing instead, or make two "
            "sentences; see the places by: python .ci/english.py --list"
        )


def _files() -> Iterator[pathlib.Path]:
    """Every file with prose, relative to the root."""
    for package in (*PACKAGES, "notebooks"):
        yield from (path.relative_to(ROOT) for path in sorted((ROOT / package).rglob("*.py")))
    for folder in ("docs", ".ci", "benchmarks"):
        found = sorted((ROOT / folder).rglob("*.md"))
        yield from (path.relative_to(ROOT) for path in found if "_build" not in path.parts)
    yield from (path.relative_to(ROOT) for path in sorted(ROOT.glob("*.md")))


def _folder(path: pathlib.Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else "pages at the root"


def _found(text: str) -> Iterator[tuple[str, re.Match]]:
    for kind, pattern in KINDS.items():
        yield from ((kind, match) for match in pattern.finditer(text))


def _is_message(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and len(WORD.findall(node.value)) >= SEVERAL
    )


def _passages(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, run of comments and message, or of a whole page."""
    source = (ROOT / path).read_text()
    if path.suffix != ".py":
        yield (
            1,
            re.sub(
                r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), source, flags=re.S | re.M
            ),
        )
        return
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            if (docstring := ast.get_docstring(node, clean=False)) is not None:
                yield node.body[0].lineno, docstring
                node.body[0].value.value = ""
        # Messages, whether raised, returned or printed: strings of several words.
        elif _is_message(node):
            yield node.lineno, node.value
    start, lines = 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# %%"):
            if lines and token.start[0] != start + len(lines):
                yield start, "\n".join(lines)
                lines = []
            start = start if lines else token.start[0]
            lines.append(token.string.lstrip("# "))
    if lines:
        yield start, "\n".join(lines)


if __name__ == "__main__":
    main()
