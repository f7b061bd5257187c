"""A settings file that may change while it is in force."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from memwarden.errors import SettingsError

T = TypeVar("T")


class SettingsReloader(Generic[T]):
    """Value that ``make`` returns for the file at ``path``, renewed when the file has changed.

    ``make`` is given the path and raises :class:`SettingsError` when the file cannot be used; the first time
    that goes to the caller. Later the value that was in force stays in force, and ``trouble`` says why.
    """

    def __init__(self, path: str, make: Callable[[str], T]) -> None:
        self._path, self._make = path, make
        self._seen = self._signature()  # before it is read: what is written meanwhile is read again
        self.value = make(path)
        #: Why the file as it now stands is not in force, or "".
        self.trouble = ""

    def look(self) -> bool:
        """Read the file if it has changed; returns whether ``value`` or ``trouble`` is new."""
        seen = self._signature()
        if seen == self._seen:
            return False
        self._seen, value, trouble = seen, self.value, self.trouble
        try:
            self.value, self.trouble = self._make(self._path), ""
        except SettingsError as error:
            self.trouble = str(error)
        return self.value != value or self.trouble != trouble

    def _signature(self) -> tuple[int, int, int] | None:
        """Return values that change when the file is written or replaced."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
