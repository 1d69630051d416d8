"""WikiText-2 as plain text, in a folder that the user names: nothing is downloaded."""

import pathlib
import sys

from benchmarks.benchmark import REQUIRED, Setting

FILES = LEARNED, JUDGED = "valid.txt", "test.txt"
FOLDER = Setting(REQUIRED, help=f"folder with {' and '.join(FILES)}", parse=pathlib.Path)


def texts(folder: pathlib.Path) -> list[str]:
    """The text to learn from and the one to be judged by; where one is missing, the end."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        sys.exit(
            f"benchmarks: {folder} has no {', '.join(missing)}. Give the folder of WikiText-2 as "
            "plain text, words with spaces between (Merity et al., 2016)."
        )
    return [(folder / name).read_text(encoding="utf-8") for name in FILES]
