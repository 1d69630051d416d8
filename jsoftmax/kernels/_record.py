"""Record of kernels: correctness and time of each, by hardware, beside XLA's.

`python -m jsoftmax.kernels` writes it as a JSON file. Its path is `$JSOFTMAX_KERNELS`, or else in
the user's cache: `$XDG_CACHE_HOME/jsoftmax/kernels.json`, `~/.cache/jsoftmax/kernels.json` where
that is not set. `JSOFTMAX_KERNELS=off` ignores all records.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

VARIABLE = "JSOFTMAX_KERNELS"
OFF = "off"
FORMAT = 1
_MARGIN = 0.97  # of XLA's time, above which a kernel is no faster

_UNSET = object()
_override: contextvars.ContextVar[Any] = contextvars.ContextVar("record", default=_UNSET)


@dataclasses.dataclass(frozen=True)
class Entry:
    """The result of one trial: an operation at one shape on one kind of device."""

    device: str  # `device_kind`, as "TPU v5 lite"
    operation: str  # "attention", "attention gradient", "mapping", ...
    case: str  # a variant of it, as "α = 1.5, causal"
    shape: tuple[int, ...]
    dtype: str
    jsoftmax: str  # versions
    jax: str
    error: float  # largest distance from XLA's result in float32, divided by the largest number
    allowed: float
    seconds: dict[str, float]  # of a call: "pallas", "xla", and peers

    @property
    def is_right(self) -> bool:
        """Whether the kernel agrees with XLA. NaN never does."""
        return self.error <= self.allowed

    @property
    def is_faster(self) -> bool:
        """Whether the kernel takes clearly less time than XLA."""
        return self.seconds["pallas"] <= _MARGIN * self.seconds["xla"]

    @property
    def is_chosen(self) -> bool:
        """Whether `implementation=None` takes the kernel."""
        return self.is_right and self.is_faster

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of the trial: a newer entry with the same key replaces this one."""
        return self.device, self.operation, self.case, self.shape, self.dtype


def record_path() -> pathlib.Path | None:
    """Return the path of the record, which need not exist; None where records are off.

    Returns:
        A path: that of `using_record`, or else of the environment variable `JSOFTMAX_KERNELS`, or
        else `jsoftmax/kernels.json` in `$XDG_CACHE_HOME` or `~/.cache`.

    Example:
        >>> import jsoftmax.kernels
        >>> with jsoftmax.kernels.using_record("ours.json"):
        ...     print(jsoftmax.kernels.record_path())
        ours.json
    """
    asked = _override.get()
    if asked is _UNSET:
        asked = os.environ.get(VARIABLE) or None
        if asked is None:
            return _in_cache(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))
    return None if asked in (None, OFF) else pathlib.Path(asked)


@functools.cache
def _in_cache(folder: str | None, home: str | None) -> pathlib.Path:
    cache = pathlib.Path(folder or os.path.join(home or "~", ".cache")).expanduser()
    return cache / "jsoftmax" / "kernels.json"


@contextlib.contextmanager
def using_record(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Read another record inside of a `with` block, or none.

    It overrides `JSOFTMAX_KERNELS`. A kernel is chosen while a function is traced: a function
    compiled before the block keeps its choice in it, and one compiled in the block keeps it after.

    Args:
        path: the file, which need not exist; None for no record, so that XLA computes every call
            that does not name its implementation.

    Returns:
        A context manager.

    Example:
        >>> import jsoftmax.kernels
        >>> with jsoftmax.kernels.using_record(None):
        ...     print(jsoftmax.kernels.record_path())
        None
    """
    token = _override.set(path)
    try:
        yield
    finally:
        _override.reset(token)


def has_record() -> bool:
    """Whether anything is recorded."""
    return bool(entries())


def entries() -> tuple[Entry, ...]:
    """Return the entries of the record; none if it is missing or broken, with one warning."""
    path = record_path()
    if path is None:
        return ()
    try:
        state = os.stat(path)
    except OSError:
        return ()
    stamp = (state.st_mtime_ns, state.st_size)
    known = _read.get(path)
    if known is None or known[0] != stamp:
        # Kept before it is read, so that a broken file warns once.
        _read[path] = stamp, ()
        _read[path] = known = stamp, _parsed(path)
    return known[1]


_read: dict[pathlib.Path, tuple[Any, tuple[Entry, ...]]] = {}


def _parsed(path: pathlib.Path) -> tuple[Entry, ...]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["format"] != FORMAT:
            raise ValueError(f"its format is {known['format']!r}, not {FORMAT}")
        return tuple(_entry(x) for x in known["entries"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(
            f"jsoftmax.kernels: the record {path} cannot be read ({type(error).__name__}: "
            f"{error}), so no kernel is chosen by it. Delete it, or write it again: "
            "python -m jsoftmax.kernels.",
            stacklevel=2,
        )
        return ()


def _entry(known: Any) -> Entry:
    numbers = (known["error"], known["allowed"], *known["seconds"].values())
    if not all(isinstance(x, int | float) for x in numbers):
        raise TypeError("an error or a time is not a number")
    if not all(isinstance(n, int) and n > 0 for n in known["shape"]):
        raise ValueError(f"not a shape: {known['shape']}")
    if not {"pallas", "xla"} <= set(known["seconds"]):
        raise KeyError("seconds of pallas and xla")
    return Entry(**(known | {"shape": tuple(known["shape"])}))


def write(new: Sequence[Entry], path: pathlib.Path, failed: Iterable[tuple[Any, ...]] = ()) -> None:
    """Add entries to a file; they replace those of the same trials and of trials that failed.

    A broken file is replaced. The write is atomic, so that no reader sees half of a file.
    """
    with using_record(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = {entry.key: entry for entry in (*entries(), *new)}
    for key in failed:
        kept.pop(key, None)
    known = {"format": FORMAT, "entries": [dataclasses.asdict(x) for x in kept.values()]}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
