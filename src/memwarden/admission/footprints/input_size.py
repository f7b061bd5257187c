"""Input size of a task, from its arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def usual_size(*args: Any, **kwargs: Any) -> float | None:
    """Return the first ``int`` among the arguments, else the bytes of the first file or buffer; None without any.

    A file is given by a path object, or by a string that names one. Positional arguments come before the named.
    """
    given = [*args, *kwargs.values()]
    for value in given:
        if isinstance(value, int) and not isinstance(value, bool):
            return float(abs(value)) if abs(value) < 1 << 1023 else None
    return next((float(size) for value in given if (size := _bytes_of(value)) is not None), None)


def _bytes_of(value: Any) -> int | None:
    if isinstance(value, bytes | bytearray):
        return len(value)
    if isinstance(value, memoryview):
        return value.nbytes
    if isinstance(value, str | os.PathLike):
        return _file_bytes(value)
    size = getattr(value, "nbytes", None)  # an array of numpy, or what behaves like one
    return size if isinstance(size, int) else None


def _file_bytes(path: str | os.PathLike[Any]) -> int | None:
    if isinstance(path, str) and (len(path) > 4096 or "\n" in path):
        return None
    try:
        return os.stat(path).st_size if os.path.isfile(path) else None
    except (OSError, ValueError):
        return None


def total_size(paths: Iterable[str | os.PathLike[Any]]) -> float:
    """Return the sum of the bytes of several files; missing ones count 0."""
    return float(sum(_file_bytes(path) or 0 for path in paths))
