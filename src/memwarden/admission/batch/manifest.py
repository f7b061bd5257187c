"""What came of each input of a command, one line of JSON each, so that a batch can go on where it ended.

The first line says which command it was: ``{"schema": 1, "type": "map", "command": […], "directory": …, "began": …}``;
the others are results: ``{"input": …, "state": "done", "exit_code": 0, …}``, written at once and whole. A line that
was torn nevertheless (the machine lost its power) is passed over, and its input is run again.
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

#: What is written reaches the disk itself this often, for the case that the power fails.
_SYNC_SECONDS = 1.0
#: So long may a batch that was killed take to be gone.
_PATIENCE = 10.0


class Manifest:
    """The results of one command, in a file.

    ``resume``: what is done already is left out; the file may be missing. Without it there must be no such file.
    Raises :class:`SettingsError` where another command's results stand there, and :class:`RecordError` where the file
    cannot be used or another batch writes it.
    """

    def __init__(self, path: str, command: Sequence[str], *, resume: bool = False) -> None:
        self.path = os.path.abspath(path)
        #: Inputs that are done, and how often (one input may come more than once).
        self.done: Counter[str] = Counter()
        self._synced = 0.0
        #: Nothing stands there but the first line.
        self._empty = False
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        try:
            self._fd = os.open(self.path, flags, 0o666)
        except FileExistsError:
            words = f"{path}: there are results already; --resume goes on with them, or name another file"
            raise SettingsError(words) from None
        except OSError as error:
            raise self._trouble(error) from None
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise SettingsError(f"{path}: is no file; results need one that can be read again")
            self._lock()
            if os.fstat(self._fd).st_size:
                self._take_up(path, list(command))
            else:
                head = {"schema": 1, "type": "map", "command": list(command), "directory": os.getcwd()}
                self._write({**head, "began": iso(time.time())})
                self._empty = True
        except BaseException:
            os.close(self._fd)
            raise

    def leaves_out(self, text: str) -> bool:
        """Whether this input is done; to be asked once for each time that it comes."""
        if not self.done[text]:
            return False
        self.done[text] -= 1
        return True

    def add(self, result: CommandResult) -> None:
        """Keep a result. Raises :class:`RecordError`."""
        self._write(as_dict(result))
        self._empty = False

    def close(self) -> None:
        """All of it is on the disk, and others may have the file. One without a result is removed."""
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

        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RecordError(f"{self.path}: another batch writes its results there", path=self.path) from None
                time.sleep(0.05)
            except OSError:
                return  # a file system without locks

    def _take_up(self, path: str, command: list[str]) -> None:
        """Read what is there."""
        torn = False
        with open(self._fd, "rb", closefd=False) as lines:
            lines.seek(0)
            for place, line in enumerate(lines):
                torn = not line.endswith(b"\n")
                try:
                    said = json.loads(line)
                except (ValueError, RecursionError):
                    said = None
                if not isinstance(said, dict):
                    said = {}
                if place == 0:
                    self._compare(path, said, command)
                elif said.get("state") == "done" and isinstance(said.get("input"), str):
                    self.done[said["input"]] += 1
        if torn:
            self._put(b"\n")

    def _compare(self, path: str, head: dict[str, Any], command: list[str]) -> None:
        if head.get("type") != "map" or head.get("schema") != 1:
            raise SettingsError(f"{path}: holds something else than the results of a batch; name another file")
        if head.get("command") != command:
            raise SettingsError(
                f"{path}: holds the results of another command, {head.get('command')}; name another file"
            )

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
            raise self._trouble(error) from None

    def _trouble(self, error: OSError) -> RecordError:
        return RecordError(f"{self.path}: {error.strerror or error}; results cannot be kept there", path=self.path)


def as_dict(result: CommandResult) -> dict[str, Any]:
    """A result as JSON can hold it."""
    return {
        "input": result.input,
        "number": result.number,
        "state": result.state,
        "exit_code": result.exit_code,
        "began": None if result.began is None else iso(result.began),
        "seconds": None if result.seconds is None else round(result.seconds, 4),
        "peak_bytes": result.peak,
        "size": result.size,
        "output": result.output,
        "errors": result.errors,
        "why": result.why,
    }
