"""Commands that end with their scope: by their own quit signal, then SIGTERM, then SIGKILL, child processes included.

:func:`memwarden.contain.contained_process.popen` starts and stops them; this module adds the quit signal and pipes.
Linux only, as ``popen`` is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from memwarden.contain.contained_process import GRACE_SECONDS, ContainedProcess, popen
from memwarden.engine.lifecycle import opening
from memwarden.errors import ActionFailed, SettingsError
from memwarden.guards.resources.resource_scope import current_scope, releasing
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Limit
from memwarden.model.units import parse_duration
from memwarden.process.process_tree import ProcessTree
from memwarden.process.signals import KILL
from memwarden.readers.linux.identity import ProcProbe

#: Seconds that a command has to exit after its own quit signal.
STOP_TIMEOUT = 5.0

_probe = ProcProbe()


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
        grace: float,
    ) -> None:
        self._contained, self._stop_signal = contained, stop_signal
        self._stop_timeout, self._grace = stop_timeout, grace
        self.stdin, self.stdout, self.stderr = files
        self._requested = False
        self._tree: ProcessTree | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._contained, name)

    def request_stop(self) -> None:
        """Send the quit signal, or SIGTERM to the tree where there is none. Does not wait."""
        if self._requested or self._contained.poll() is not None:
            return
        self._requested = True
        if self._stop_signal is None:
            self._contained.terminate()
        else:
            with contextlib.suppress(ActionFailed):  # it has just exited
                # Read before the signal: children that outlive the command could not be found afterwards.
                self._tree = ProcessTree(self._contained.key, _probe)
            self._contained.send_signal(self._stop_signal)

    def stop(self) -> int:
        """Stop the command and its child processes: quit signal, SIGTERM, SIGKILL; return its exit code."""
        try:
            self.request_stop()
            if self._stop_signal is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._contained.wait(self._stop_timeout)
        finally:  # also after an interrupt
            self._contained.terminate()
            self._contained.wait()
            self._stop_survivors()
            self.close()
        return self._contained.wait()

    def _stop_survivors(self) -> None:
        """Stop children that outlived the quit signal of the command: SIGTERM, then SIGKILL."""
        if self._tree is None:
            return
        for number in (signal.SIGTERM, KILL):
            until, signalled = time.monotonic() + self._grace, set[ProcessKey]()
            while self._tree.grow() or self._tree.alive():
                signalled.update(self._tree.signal(number, [key for key in self._tree.alive() if key not in signalled]))
                if time.monotonic() >= until:
                    break
                time.sleep(0.01)

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
    seconds, grace_seconds = parse_duration(stop_timeout), parse_duration(grace)
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
    process = ManagedProcess(contained, ours, stop_signal, seconds, grace_seconds)
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
