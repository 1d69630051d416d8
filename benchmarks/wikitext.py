"""WikiText-2 as plain text, in a folder that the user names: nothing is downloaded."""

import argparse
import pathlib
import sys

FILES = LEARNED, JUDGED = "valid.txt", "test.txt"


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The argument that names the folder."""
    parser.add_argument("folder", type=pathlib.Path, help=f"with {' and '.join(FILES)}")


def texts(folder: pathlib.Path, program: str) -> list[str]:
    """The text to learn from and the one to be judged by; where one is missing, the end."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        sys.exit(
            f"{program}: {folder} has no {', '.join(missing)}. Give the folder of WikiText-2 as "
            "plain text, words with spaces between (Merity et al., 2016)."
        )
    return [(folder / name).read_text(encoding="utf-8") for name in FILES]
