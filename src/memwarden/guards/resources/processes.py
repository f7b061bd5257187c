"""Commands that do not outlive their job: ended gently, then by TERM, then by KILL, with all that they started.

Starting, watching and ending are :func:`memwarden.contain.contained_process.popen`'s; here are the gentle step before, pipes,
and the shape that users of :class:`subprocess.Popen` know. Linux only, as ``hold`` is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from memwarden.contain.contained_process import GRACE_SECONDS, ContainedProcess, popen
from memwarden.engine.lifecycle import opening
from memwarden.errors import ActionFailed, SettingsError
from memwarden.model.exits import ExitReport
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Limit
from memwarden.model.log import warn
from memwarden.model.units import parse_duration
from memwarden.process.process_tree import ProcessTree
from memwarden.process.signals import KILL
from memwarden.readers.linux.identity import ProcProbe

#: How long a command may take to end by its own quit signal.
GENTLY_SECONDS = 5.0

_probe = ProcProbe()


class ManagedProcess:
    """A command that runs; made by :func:`start`.

    ``stdin``, ``stdout`` and ``stderr`` are binary files where :data:`subprocess.PIPE` was asked for, else None.
    """

    def __init__(
        self,
        contained: ContainedProcess,
        files: Sequence[IO[bytes] | None],
        gently: int | Callable[[ManagedProcess], object] | None,
        gently_for: float,
        grace: float,
    ) -> None:
        self._contained, self._gently, self._gently_for, self._grace = contained, gently, gently_for, grace
        self.stdin, self.stdout, self.stderr = files
        self._asked = False
        self._family: ProcessTree | None = None

    @property
    def pid(self) -> int:
        return self._contained.pid

    @property
    def command(self) -> tuple[str, ...]:
        """What was started."""
        return self._contained.args

    @property
    def ending(self) -> ExitReport | None:
        """What it came to: code or signal, peak, whether its limit ended it; None while it runs."""
        return self._contained.report

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """The same; never waits."""
        return self._contained.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it and what it started have ended; a negative one is a signal's.

        Raises :class:`subprocess.TimeoutExpired` when ``timeout`` seconds pass first; it runs on.
        """
        return self._contained.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Signal the command's own process; nothing happens when it has ended."""
        self._contained.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM to it and all that it started, and SIGKILL after the grace. Does not wait."""
        self._contained.terminate()

    def kill(self) -> None:
        """SIGKILL to it and all that it started. Does not wait."""
        with contextlib.suppress(ActionFailed):  # it has ended
            family = ProcessTree(self._contained.key, _probe)
            family.signal(KILL, family.members)

    def ask_to_end(self) -> None:
        """Begin to end it, by its own quit signal where one was named, else by SIGTERM to the tree. Does not wait."""
        if self._asked or self.poll() is not None:
            return
        self._asked = True
        if self._gently is not None:
            with contextlib.suppress(ActionFailed):  # it ends just now
                # Before it is asked: what outlives it is then found by nobody else.
                self._family = ProcessTree(self._contained.key, _probe)
        if callable(self._gently):
            try:
                self._gently(self)
            except Exception as error:  # noqa: BLE001 - what asks is the user's; the command is ended all the same
                warn("%s was not asked to end gently: %r", self.command[0], error)
                self._contained.terminate()
        elif self._gently is not None:
            self.send_signal(self._gently)
        else:
            self._contained.terminate()

    def end(self) -> int:
        """End it with all that it started: gently, then SIGTERM, then SIGKILL; returns as :meth:`wait`."""
        try:
            self.ask_to_end()
            if self._gently is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._contained.wait(self._gently_for)
        finally:  # also where an interrupt came meanwhile
            self._contained.terminate()
            self._contained.wait()
            self._end_others()
            self.close()
        return self.wait()

    def _end_others(self) -> None:
        """What it had started before it ended in good order."""
        if self._family is None:
            return
        for number in (signal.SIGTERM, KILL):
            until, nap = time.monotonic() + self._grace, 0.001
            asked: set[ProcessKey] = set()
            while self._family.grow() or self._family.alive():
                asked.update(self._family.signal(number, [key for key in self._family.alive() if key not in asked]))
                if time.monotonic() >= until:
                    break
                time.sleep(nap)
                nap = min(nap * 1.5, 0.020)

    def close(self) -> None:
        """Close our ends of its pipes."""
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                try:
                    file.close()
                except OSError:  # what is left in a buffer for a command that has gone
                    pass


def start(
    command: Sequence[str],
    *,
    limit: int | str | Limit | None = None,
    gently: int | Callable[[ManagedProcess], object] | None = None,
    gently_for: float | str = GENTLY_SECONDS,
    grace: float | str = GRACE_SECONDS,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
) -> ManagedProcess:
    """Start ``command``, its whole tree held to ``limit`` (bytes or ``"512MiB"``) where one is given.

    ``gently``: the signal by which it ends in good order (``signal.SIGINT`` for many), or a function that asks it to
    (``lambda process: process.stdin.write(b"q")``); it then has ``gently_for`` seconds before SIGTERM, and ``grace``
    seconds after that before SIGKILL. When this process is killed, so is the command. Raises as
    :func:`~memwarden.contain.contained_process.popen` does.
    """
    gently_seconds, grace_seconds = parse_duration(gently_for), parse_duration(grace)
    theirs: list[int | None] = []
    ours: list[IO[bytes] | None] = []
    opened: list[int] = []
    try:
        with opening():
            for number, asked in enumerate((stdin, stdout, stderr)):
                end, file = _end(number, asked, opened)
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
    return ManagedProcess(contained, ours, gently, gently_seconds, grace_seconds)


def _end(number: int, asked: int | IO[Any] | None, opened: list[int]) -> tuple[int | None, IO[bytes] | None]:
    """What the command gets as this descriptor, and our end of the pipe where one is asked for."""
    if asked is None:
        return None, None
    if not isinstance(asked, int):
        return asked.fileno(), None
    if asked != subprocess.PIPE:
        if asked == subprocess.STDOUT and number != 2:
            raise SettingsError("STDOUT: is for stderr alone, which then goes where stdout does")
        return asked, None
    reading, writing = os.pipe()
    opened.append(reading if number == 0 else writing)
    file: IO[bytes] = os.fdopen(writing, "wb", buffering=0) if number == 0 else os.fdopen(reading, "rb")
    return opened[-1], file
