"""Reload of a settings file that changes while it is in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from memwarden.errors import SettingsError

T = TypeVar("T")


class SettingsReloader(Generic[T]):
    """The result of ``make(path)``, made again when the file has changed.

    ``make`` raises :class:`SettingsError` when the file cannot be used; the first time the caller gets it. Later the
    last value stays in use, and ``error`` has the reason.
    """

    def __init__(self, path: str, make: Callable[[str], T]) -> None:
        self._path, self._make = path, make
        self._last = self._signature()  # before reading: a later change is then noticed
        self.value = make(path)
        #: Reason why the present file is not in use, or "".
        self.error = ""

    def check(self) -> bool:
        """Read the file if it has changed; returns True if ``value`` or ``error`` is new."""
        signature = self._signature()
        if signature == self._last:
            return False
        self._last, value, error = signature, self.value, self.error
        try:
            self.value, self.error = self._make(self._path), ""
        except SettingsError as failed:
            self.error = str(failed)
        return self.value != value or self.error != error

    def _signature(self) -> tuple[int, int, int] | None:
        """Return a signature that changes when the file is written or replaced."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
