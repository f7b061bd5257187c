"""A record of either kind (SQLite or JSON lines) as the events of each writer, in order."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from memwarden.errors import RecordError, SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import SCHEMA, from_dict
from memwarden.model.verdicts import Reading

_SQLITE = b"SQLite format 3\0"


class History:
    """A record at ``path``: a history in SQLite or JSON lines, whatever its name.

    The output of ``memwarden watch --json`` is one, too. Raises :class:`RecordError` where there is none, it cannot be
    read, or it contains nothing of memwarden.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        #: Lines that were skipped: torn, or not of memwarden. Not counted in SQLite.
        self.skipped = 0
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise self._error("is not a regular file; name a record")
            with open(self.path, "rb") as file:
                start = file.read(len(_SQLITE))
        except OSError as error:
            raise self._error(f"{error.strerror or error}; name a record that can be read") from None
        if not start:
            raise self._error("is empty; name a record")
        self._sqlite = start == _SQLITE

    def __iter__(self) -> Iterator[Iterator[Event]]:
        """The events of each writer: of a file of lines there is one. Raises :class:`RecordError`."""
        if not self._sqlite:
            yield self._lines()
            return
        from memwarden.records.sqlite_reader import read_history, read_writers

        for writer in read_writers(self.path):
            yield read_history(self.path, writer=writer)

    def _lines(self) -> Iterator[Event]:
        self.skipped, newest, found = 0, 0, False
        try:
            with open(self.path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    plain = _object(line)
                    event = None if plain is None else _event(plain)
                    if event is None:
                        self.skipped += bool(line.strip())
                        schema = (plain or {}).get("schema")
                        newest = max(newest, schema) if isinstance(schema, int) else newest
                    else:
                        found = True
                        yield event
        except OSError as error:
            raise self._error(f"{error.strerror or error}; name a record that can be read") from None
        if found:
            return
        if newest > SCHEMA:
            raise self._error(
                f"was written by a newer memwarden (schema {newest}, this one knows {SCHEMA}); upgrade memwarden"
            )
        raise self._error("contains nothing that memwarden recorded; name a record")

    def _error(self, what: str) -> RecordError:
        return RecordError(f"record {self.path}: {what}", path=self.path)


def _object(line: str) -> dict[str, Any] | None:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None


def _event(plain: dict[str, Any]) -> Event | None:
    try:
        value = from_dict(plain)
    except (SettingsError, RecursionError):
        return None
    if isinstance(value, Reading):  # ``memwarden watch --json`` prints them so
        sample = value.sample
        return Event(EventKind.SAMPLE, sample.wall, sample.monotonic, "", value)
    return value if isinstance(value, Event) else None
