"""Events as JSON lines that survive a crash.

Each event is one line, written by one ``write`` on a descriptor opened for appending, so events of a killed process
are in the file. After a torn line (power loss, full disk) the next event starts on a new line, and readers skip what
is not JSON. Events that are not samples are flushed to the disk.

Rotation: past ``max_bytes`` or ``max_age`` the file becomes ``NAME.1``, ``NAME.1`` becomes ``NAME.2`` and so on, at
most ``keep`` of them.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict, to_json
from memwarden.model.units import MIB


class JsonlRecorder:
    """Appends events to ``path``; creates its folder (0700) if it is missing.

    Samples may wait ``max_delay`` seconds and are then written together; any other event is written at once, after
    the waiting ones. ``every_sample`` also keeps samples between those of the interval. ``record`` raises
    :class:`RecordError` when a line could not be kept; the next call tries again, and ``lost`` counts such lines.
    """

    #: Seconds; see :class:`memwarden.protocols.Recorder`.
    max_delay = 5.0

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 64 * MIB,
        max_age: float = 7 * 86400.0,
        keep: int = 5,
        every_sample: bool = False,
        encode: Callable[[Event], dict[str, Any]] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.lost = 0
        #: See :class:`memwarden.protocols.Recorder`.
        self.every_sample = every_sample
        self._max_bytes, self._max_age, self._keep = max_bytes, max_age, keep
        self._encode, self._wall = encode, wall
        self._fd = -1
        self._size = 0
        self._opened = 0.0
        self._torn = False

    def record(self, event: Event) -> None:
        """Write an event. Raises :class:`RecordError`."""
        try:
            if self._encode is None:
                line = to_json(event)
            else:
                import json

                line = json.dumps(self._encode(event), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except Exception as error:  # the event's values and the encoder are the caller's
            self.lost += 1
            raise RecordError(
                f"record {self.path}: this {event.kind.value} cannot be written: {error!r}", path=self.path
            ) from error
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._prepare(len(data))
            if self._torn:
                data = b"\n" + data
            written = os.write(self._fd, data)
            self._size += written
            self._torn = written != len(data)
            if self._torn:  # a partial write: writing the rest raises the reason
                rest = os.write(self._fd, data[written:])
                self._size += rest
                self._torn = written + rest != len(data)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if event.kind is not EventKind.SAMPLE:
                self._flush()
        except OSError as error:
            self.lost += 1
            if error.errno == errno.ELOOP:
                raise RecordError(
                    f"record {self.path}: is a link, and links are not followed; name the file itself", path=self.path
                ) from None
            way_out = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise RecordError(
                f"record {self.path}: {error.strerror or error}; {way_out}record to another path", path=self.path
            ) from None

    def _flush(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.EROFS,
            ):  # a pipe or a terminal has nothing to flush
                raise

    def _prepare(self, size: int) -> None:
        now = self._wall()
        if now < self._opened:
            self._opened = now  # set back: age counts from now, not from a later hour
        if self._fd >= 0 and self._size:
            if self._size + size <= self._max_bytes and now - self._opened <= self._max_age:
                return
            self._rotate()
        if self._fd < 0:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            # O_NOFOLLOW: in a shared directory another user may have created a link under our name.
            # O_BINARY: Windows would write our line ends as two characters.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"):
                flags |= getattr(os, name, 0)
            if not hasattr(os, "O_NOFOLLOW") and os.path.islink(self.path):  # Windows: checked once, before
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            self._fd = os.open(self.path, flags, 0o600)
            status = os.fstat(self._fd)
            self._size = status.st_size
            self._opened = now
            if self._size:
                os.lseek(self._fd, -1, os.SEEK_END)  # pread is not everywhere; writes append wherever this stands
                self._torn = os.read(self._fd, 1) != b"\n"
                if self._size + size > self._max_bytes or now - status.st_mtime > self._max_age:
                    self._rotate()
                    self._prepare(size)

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd, self._size, self._torn = -1, 0, False
        for number in range(self._keep, 0, -1):
            older = f"{self.path}.{number - 1}" if number > 1 else self.path
            if os.path.exists(older):
                os.replace(older, f"{self.path}.{number}")
        if self._keep == 0:
            os.unlink(self.path)

    def close(self) -> None:
        """Close the descriptor; nothing is buffered."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_lines(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the values of a record, oldest first; torn and unknown lines are skipped."""
    import json

    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield from_dict(json.loads(line))
            except (ValueError, RecursionError):  # SettingsError is a ValueError
                continue
