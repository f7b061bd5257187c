"""Commands that end with their scope: by their own quit signal, then SIGTERM, then SIGKILL, child processes included.

:func:`memwarden.contain.contained_process.popen` starts and stops them; this module adds the quit signal and pipes.
Linux only, as ``popen`` is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from memwarden.contain.contained_process import GRACE_SECONDS, ContainedProcess, popen
from memwarden.engine.lifecycle import opening
from memwarden.errors import SettingsError
from memwarden.guards.resources.resource_scope import current_scope, releasing
from memwarden.model.limits import Limit
from memwarden.model.units import parse_duration

#: Seconds that a command has to exit after its own quit signal.
STOP_TIMEOUT = 5.0


class ManagedProcess:
    """A running command; made by :func:`managed_process`.

    It has the attributes of :class:`~memwarden.contain.contained_process.ContainedProcess`: ``pid``, ``args``,
    ``returncode``, ``report``, ``poll()``, ``wait(timeout)``, ``send_signal()``, ``terminate()`` and ``kill()``.
    ``stdin``, ``stdout`` and ``stderr`` are binary files where :data:`subprocess.PIPE` was passed, else None.
    """

    def __init__(
        self,
        contained: ContainedProcess,
        files: Sequence[IO[bytes] | None],
        stop_signal: int | None,
        stop_timeout: float,
    ) -> None:
        self._contained, self._stop_signal = contained, stop_signal
        self._stop_timeout = stop_timeout
        self.stdin, self.stdout, self.stderr = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._contained, name)

    def request_stop(self) -> None:
        """Send the quit signal, or SIGTERM to the tree where there is none. Does not wait."""
        self._contained.terminate(self._stop_signal, self._stop_timeout)

    def stop(self) -> int:
        """Stop the command and its child processes: quit signal, SIGTERM, SIGKILL; return its exit code."""
        try:
            self.request_stop()
            return self._contained.wait()
        finally:
            self._contained.terminate()  # after an interrupt: at once
            self._contained.wait()
            self.close()

    def close(self) -> None:
        """Close our ends of its pipes."""
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                with contextlib.suppress(OSError):  # buffered data for a command that has exited
                    file.close()


@contextlib.contextmanager
def managed_process(
    command: Sequence[str],
    *,
    limit: int | str | Limit | None = None,
    stop_signal: int | None = None,
    stop_timeout: float | str = STOP_TIMEOUT,
    grace: float | str = GRACE_SECONDS,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[ManagedProcess]:
    """Yield a running command; at the end stop it with its child processes: quit signal, SIGTERM, SIGKILL.

    ``limit`` is for its whole process tree (bytes or ``"512MiB"``). ``stop_signal`` is its own quit signal
    (``signal.SIGINT`` for many); after it the command has ``stop_timeout`` seconds before SIGTERM, and then ``grace``
    seconds before SIGKILL. When this process is killed the command is too.
    Raises as :func:`~memwarden.contain.contained_process.popen`.
    """
    seconds = parse_duration(stop_timeout)
    theirs: list[int | None] = []
    ours: list[IO[bytes] | None] = []
    opened: list[int] = []
    try:
        with opening():
            for number, asked in enumerate((stdin, stdout, stderr)):
                end, file = _ends(number, asked, opened)
                theirs.append(end)
                ours.append(file)
        contained = popen(
            command,
            limit=limit,
            grace=grace,
            terminate_orphans=True,
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
        )
    except BaseException:
        for file in ours:
            if file is not None:
                file.close()
        raise
    finally:
        for fd in opened:
            os.close(fd)
    process = ManagedProcess(contained, ours, stop_signal, seconds)
    handle = current_scope().add(
        process, process.stop, kind="process", name=process.args[0], request=process.request_stop
    )
    with releasing(handle, process):
        yield process


def _ends(number: int, asked: int | IO[Any] | None, opened: list[int]) -> tuple[int | None, IO[bytes] | None]:
    """Return the command's descriptor, and our end of the pipe where one is asked for."""
    if asked is None:
        return None, None
    if not isinstance(asked, int):
        return asked.fileno(), None
    if asked != subprocess.PIPE:
        if asked == subprocess.STDOUT and number != 2:
            raise SettingsError("STDOUT: is for stderr only")
        return asked, None
    reading, writing = os.pipe()
    opened.append(reading if number == 0 else writing)
    file: IO[bytes] = os.fdopen(writing, "wb", buffering=0) if number == 0 else os.fdopen(reading, "rb")
    return opened[-1], file
