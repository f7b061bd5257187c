"""Start of a command through the exec launcher."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from memwarden.contain.kernel import key_of
from memwarden.errors import LaunchError, ReadError
from memwarden.model.facts import ProcessKey

_WHY = {
    errno.ENOEXEC: "neither a program nor a script with a #! line; name its interpreter",
    errno.EACCES: "not executable; chmod +x it, or name its interpreter",
    errno.ENOMEM: "not enough memory to start it; raise the limit",
    errno.E2BIG: "its arguments and environment are too long for this system",
}
_SCRIPT = os.path.join(os.path.dirname(__file__), "_exec.py")


class Launched:
    """A started launcher, soon the command.

    ``pipe`` becomes readable when the launcher has become the command, or could not. Do not wait for that alone:
    under a small limit the launcher can block before.
    """

    def __init__(self, process: subprocess.Popen[bytes], key: ProcessKey, name: str, pipe: int) -> None:
        self.process, self.key, self.name, self.pipe = process, key, name, pipe

    @property
    def pid(self) -> int:
        return self.key.pid

    def check(self) -> None:
        """Read and close the readable pipe. Raises :class:`LaunchError` if the command cannot be run."""
        failure = os.read(self.pipe, 64).decode()
        self.close()
        if failure:
            self.process.wait()
            stage, _, number = failure.partition(" ")
            raise _failed(self.name, stage, int(number))

    def close(self) -> None:
        """Close the pipe."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


def resolve(command: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> str:
    """Return the file of a command. Raises :class:`LaunchError` with the errno that the system would give."""
    if not command or not command[0]:
        raise LaunchError("no command was given; write it after --", errno=errno.ENOENT, stage="exec")
    name = command[0]
    if os.path.dirname(name):
        path = os.path.join(cwd or ".", name) if not os.path.isabs(name) else name
        if os.path.isdir(path):
            raise LaunchError(f"{name}: is a directory, not a command", errno=errno.EACCES, stage="exec")
        if not os.path.exists(path):
            raise LaunchError(f"{name}: no such file", errno=errno.ENOENT, stage="exec")
        return name  # only execve knows whether it may be executed: access(2) ignores capabilities
    search = (os.environ if env is None else env).get("PATH", os.defpath)
    found = shutil.which(name, path=search)
    if found is None:
        raise LaunchError(f"{name}: command not found in PATH", errno=errno.ENOENT, stage="exec")
    return found


def launch(
    command: Sequence[str],
    *,
    joins: Sequence[str] = (),
    blocked: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Launched:
    """Start ``command`` inside the control groups with the ``cgroup.procs`` files ``joins``.

    The command gets SIGKILL when the calling *thread* exits: call this on a thread that lives as long as the guard.
    ``blocked`` are the signals that the command starts with blocked. Raises :class:`LaunchError`.
    """
    path = resolve(command, env, cwd)
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [
                sys.executable, "-I", "-S", _SCRIPT,
                str(writing), str(os.getpid()), str(int(_ctype_is_pythons(env))),
                ",".join(str(int(number)) for number in blocked), str(len(joins)),
                *joins, path, *command,
            ],
            env=env, cwd=cwd, pass_fds=(writing, *pass_fds), stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    except OSError as error:
        os.close(reading)
        raise LaunchError(f"the launcher could not be started: {error}", errno=error.errno or 0, stage="exec") from None
    finally:
        os.close(writing)
    try:
        key = key_of(process.pid)
    except ReadError:  # it has exited, and keeps its pid until it is reaped
        key = ProcessKey(process.pid, 0)
    return Launched(process, key, command[0], reading)


def inheritable_descriptors() -> list[int]:
    """Return the descriptors above 2 that our parent process passed on (``3<file`` in a shell)."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _failed(name: str, stage: str, number: int) -> LaunchError:
    why = os.strerror(number)
    if stage == "join":
        return LaunchError(f"{name}: could not enter its memory group: {why}", errno=number, stage=stage)
    why = _WHY.get(number, why)
    return LaunchError(f"{name}: {why}", errno=number, stage=stage)


def _ctype_is_pythons(env: Mapping[str, str] | None) -> bool:
    """Return whether LC_CTYPE was set by Python in the C locale, here or in the launcher, and not by the user."""
    if env is not None:
        return "LC_CTYPE" not in env
    try:
        with open("/proc/self/environ", "rb") as file:
            return not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0"))
    except OSError:
        return False
