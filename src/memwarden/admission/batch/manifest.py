"""Results of a command's inputs, one line of JSON each, so that a stopped batch can be resumed.

The first line names the command: ``{"schema": 1, "type": "map", "command": […], "directory": …, "started": …}``; the
others are results: ``{"input": …, "state": "done", "exit_code": 0, …}``, each written at once. An incomplete line
(after a power failure) is skipped, and its input is run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memwarden.errors import RecordError, SettingsError
from memwarden.model.serialize import iso

if TYPE_CHECKING:
    from memwarden.admission.batch.command_result import CommandResult

#: Seconds between synchronisations with the disk, for the case of a power failure.
_SYNC_SECONDS = 1.0
#: Seconds that a killed batch may take to end.
_LOCK_TIMEOUT = 10.0


class Manifest:
    """The results of one command, in a file.

    ``resume``: inputs that are done are skipped; the file may be missing. Without it there must be no such file.
    Raises :class:`SettingsError` for a file with another command's results, and :class:`RecordError` where the file
    cannot be used or another batch writes it.
    """

    def __init__(self, path: str, command: Sequence[str], *, resume: bool = False) -> None:
        self.path = os.path.abspath(path)
        #: How often each input is done (one input may come more than once).
        self.done: Counter[str] = Counter()
        self._synced = 0.0
        #: It has only the first line.
        self._empty = False
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        try:
            self._fd = os.open(self.path, flags, 0o666)
        except FileExistsError:
            message = f"{path}: has results already; resume them with --resume, or name another file"
            raise SettingsError(message) from None
        except OSError as error:
            raise self._error(error) from None
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise SettingsError(f"{path}: is not a regular file; name one that can be read again")
            self._lock()
            if os.fstat(self._fd).st_size:
                self._load(path, list(command))
            else:
                head = {"schema": 1, "type": "map", "command": list(command), "directory": os.getcwd()}
                self._write({**head, "started": iso(time.time())})
                self._empty = True
        except BaseException:
            os.close(self._fd)
            raise

    def skips(self, text: str) -> bool:
        """Return whether this input is done; call it once for each occurrence."""
        if not self.done[text]:
            return False
        self.done[text] -= 1
        return True

    def add(self, result: CommandResult) -> None:
        """Write a result. Raises :class:`RecordError`."""
        self._write(as_dict(result))
        self._empty = False

    def close(self) -> None:
        """Synchronise the file with the disk and unlock it; delete it if it has no result."""
        if self._fd >= 0:
            if self._empty:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            with contextlib.suppress(OSError):
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        import fcntl  # not on Windows

        until = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RecordError(
                        f"{self.path}: another batch is writing to it; wait for it, or name another file",
                        path=self.path,
                    ) from None
                time.sleep(0.05)
            except OSError:
                return  # a file system without locks

    def _load(self, path: str, command: list[str]) -> None:
        """Read the file."""
        incomplete = False
        with open(self._fd, "rb", closefd=False) as lines:
            lines.seek(0)
            for place, line in enumerate(lines):
                incomplete = not line.endswith(b"\n")
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                if not isinstance(value, dict):
                    value = {}
                if place == 0:
                    self._compare(path, value, command)
                elif value.get("state") == "done" and isinstance(value.get("input"), str):
                    self.done[value["input"]] += 1
        if incomplete:
            self._put(b"\n")

    def _compare(self, path: str, head: dict[str, Any], command: list[str]) -> None:
        if head.get("type") != "map" or head.get("schema") != 1:
            raise SettingsError(f"{path}: is not a file of results; name another one")
        if head.get("command") != command:
            raise SettingsError(f"{path}: has the results of another command, {head.get('command')}; name another file")

    def _write(self, value: dict[str, Any]) -> None:
        self._put(json.dumps(value, allow_nan=False).encode("ascii") + b"\n")
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            with contextlib.suppress(OSError):
                os.fsync(self._fd)
            self._synced = time.monotonic()

    def _put(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise self._error(error) from None

    def _error(self, error: OSError) -> RecordError:
        return RecordError(f"{self.path}: {error.strerror or error}; results cannot be written", path=self.path)


def as_dict(result: CommandResult) -> dict[str, Any]:
    """Return a result as JSON can hold it."""
    return {
        "input": result.input,
        "number": result.number,
        "state": result.state,
        "exit_code": result.exit_code,
        "started": None if result.started is None else iso(result.started),
        "seconds": None if result.seconds is None else round(result.seconds, 4),
        "peak_bytes": result.peak,
        "size": result.size,
        "output": result.output,
        "errors": result.errors,
        "reason": result.reason,
    }
