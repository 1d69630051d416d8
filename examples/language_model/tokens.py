"""Convert text to tokens and back: frequent words and marks, and bytes for everything else."""

from __future__ import annotations

import collections
import pathlib
import re

from examples.language_model.config import Mistake

END = 0  # ends a document, and fills windows
BYTES = 257  # tokens below are END and the 256 bytes
IGNORED = -1  # the label of padding
PIECE = re.compile(r" ?\w+|\s+|[^\w\s]")


class Tokenizer:
    """A lossless vocabulary: END, 256 bytes, then pieces by falling frequency.

    Args:
        pieces: words with the space before them, runs of white space, single marks.

    Example:
        >>> tokenizer = Tokenizer.of(["to be or not to be"], classes=260)
        >>> ids = tokenizer.encode("be or not to be")
        >>> tokenizer.decode(ids)
        'be or not to be'
    """

    def __init__(self, pieces: list[str]):
        self.pieces = pieces
        self._number = {piece: BYTES + i for i, piece in enumerate(pieces)}

    @classmethod
    def of(cls, documents: list[str], classes: int) -> Tokenizer:
        """Build a tokenizer of the most frequent pieces, with at most `classes` tokens in all."""
        counts = collections.Counter(
            piece for document in documents for piece in PIECE.findall(document)
        )
        # Ties are broken alphabetically, so that the vocabulary is deterministic.
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return cls(ranked[: classes - BYTES])

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ids = []
        for piece in PIECE.findall(text):
            known = self._number.get(piece)
            ids += [1 + byte for byte in piece.encode()] if known is None else [known]
        return ids

    def decode(self, ids) -> str:
        """Return the text of tokens, without END; tokens out of range are skipped."""
        known = b"".join(
            bytes([i - 1]) if i < BYTES else self.pieces[i - BYTES].encode()
            for i in map(int, ids)
            if END < i < BYTES + len(self.pieces)
        )
        return known.decode(errors="replace")


def documents(path: pathlib.Path | None = None) -> list[str]:
    """Return the parts of a file between empty lines, or the help topics that come with Python."""
    if path is None:
        from pydoc_data import topics

        return [text for _, text in sorted(topics.topics.items())]
    text = path.read_text(encoding="utf-8", errors="replace")
    found = [part for part in re.split(r"\n\s*\n\s*\n", text) if part.strip()]
    if not found:
        raise Mistake(f"--text {path} has no text in it.")
    return found
