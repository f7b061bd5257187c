"""What tests give to executors: calls that a worker process of any start method can import.

A call that must still run when the test looks at it writes ``NAME.started`` into a folder, with its pid, and waits for
``go`` there (:func:`attend`); so no test waits for a clock where it can wait for an event.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memwarden.readers.linux.identity import ProcProbe

MIB = 1 << 20
#: How long a test waits for another process before it fails.
SOON = 30.0


def until(done: Callable[[], Any], seconds: float = SOON) -> Any:
    """What ``done`` gives, as soon as that is true; a failed test otherwise."""
    end = time.monotonic() + seconds
    while not (got := done()):
        assert time.monotonic() < end, f"{seconds} s were not enough"
        time.sleep(0.005)
    return got


def text(path: str | os.PathLike[str]) -> str:
    """What stands in a file; nothing where there is none yet."""
    with contextlib.suppress(FileNotFoundError):
        return Path(path).read_text()
    return ""


def is_gone(pid: int) -> bool:
    """Whether no process has this pid, or only a zombie whose parent has not looked yet."""
    try:
        return not ProcProbe().alive(ProcProbe().key_of(pid))
    except Exception:
        return True


# --- calls -----------------------------------------------------------------------------------------------


def same(value: Any) -> Any:
    """Its argument."""
    return value


def given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All its arguments."""
    return args, kwargs


def product(one: int, two: int) -> int:
    """One times two."""
    return one * two


def rest(value: Any, seconds: float) -> Any:
    """``value``, after so many seconds."""
    time.sleep(seconds)
    return value


def inverse(value: float) -> float:
    """1 / value; raises for 0."""
    return 1 / value


def pid(*_: Any) -> int:
    """Return the pid of the worker."""
    return os.getpid()


def attend(folder: str, name: str = "task") -> int:
    """Say that it has started, wait for ``go`` in the folder; gives the pid."""
    part = Path(folder, f"{name}.part")
    part.write_text(str(os.getpid()))
    part.rename(Path(folder, f"{name}.started"))
    until(Path(folder, "go").exists, 60)
    return os.getpid()


def started(folder: str | os.PathLike[str], name: str = "task") -> int:
    """Wait until that call has started; the pid of its worker."""
    return int(until(lambda: text(Path(folder, f"{name}.started"))))


def go(folder: str | os.PathLike[str]) -> None:
    """Let all tasks continue that attend there."""
    Path(folder, "go").touch()


def end_with(code: int) -> None:
    """The worker ends by itself, at once."""
    os._exit(code)


def end_once(marker: str, number: int = signal.SIGKILL) -> int:
    """The first attempt ends its worker by a signal; the second one returns the pid of its worker."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), number)
        time.sleep(60)
    return os.getpid()


def say(words: str) -> None:
    """Print."""
    print(words)


def hold(mib: float, seconds: float = 0.1) -> int:
    """Take so much, keep it so long; gives the bytes."""
    kept = b"x" * int(mib * MIB)
    time.sleep(seconds)
    return len(kept)


def grow(mib: float, seconds: float, begin: float = 1) -> int:
    """Grow evenly from ``begin`` MiB to ``mib`` MiB in so many seconds of work; gives the bytes."""
    kept = [b"x" * int(begin * MIB)]
    steps = int(mib - begin)
    for _ in range(steps):
        kept.append(b"x" * MIB)
        time.sleep(seconds / max(1, steps))
    return sum(map(len, kept))


def spike(mib: int, seconds: float) -> None:
    """Take so much for so short a time, and give it back to the system."""
    kept = b"x" * (mib * MIB)
    time.sleep(seconds)
    del kept


def read_whole(path: str) -> int:
    """Read a file into memory, keep it for a moment; its bytes."""
    with open(path, "rb") as file:
        kept = file.read()
    time.sleep(0.1)
    return len(kept)


def read_in_parts(path: str) -> int:
    """The same, as a library does it that has errors of its own."""
    try:
        return read_whole(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read") from error


def read_and_fail(path: str, folder: str) -> None:
    """Read a file, and find fault with it; each begin leaves a file behind."""
    Path(folder, f"{time.monotonic_ns()}.started").touch()
    with open(path, "rb") as file:
        while file.read(MIB):
            pass
    raise ValueError("not what it should be")


def hold_and_start(mib: int, seconds: float, folder: str) -> None:
    """Hold so much, and then start a program that fails; each begin leaves a file behind."""
    Path(folder, f"{time.monotonic_ns()}.started").touch()
    kept = b"x" * (mib * MIB)
    time.sleep(seconds)
    subprocess.run(["false"], check=True)
    del kept


def note_begin(folder: str) -> int:
    """Create a file, and take a millisecond; return the pid of the worker."""
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.001)
    return os.getpid()


_kept: list[bytes] = []


def keep(mib: int) -> int:
    """Keep so much for as long as the worker lives; gives its pid."""
    _kept.append(b"x" * (mib * MIB))
    return os.getpid()


HOLDS = "import sys, time; kept = b'x' * (int(sys.argv[1]) << 20); print(1, flush=True); time.sleep(float(sys.argv[2]))"


def child_holds(mib: int, seconds: float) -> int:
    """A program that this starts takes so much for so long; its exit code."""
    return subprocess.run(
        [sys.executable, "-S", "-c", HOLDS, str(mib), str(seconds)], stdout=subprocess.DEVNULL, check=True
    ).returncode


def start_sleepers(folder: str, count: int = 2, *, own_session: bool = False) -> list[int]:
    """Start programs that sleep, write their pids to a file, and attend; return the pids."""
    command = ["sleep", "300"]
    pids = [subprocess.Popen(command, start_new_session=own_session).pid for _ in range(count)]
    part = Path(folder, "sleepers.part")
    part.write_text(" ".join(map(str, pids)))
    part.rename(Path(folder, "sleepers"))
    attend(folder)
    return pids


def sleepers(folder: str | os.PathLike[str]) -> list[int]:
    """Wait until they are there; their pids."""
    return [int(each) for each in until(lambda: text(Path(folder, "sleepers"))).split()]


# --- values that travel badly ------------------------------------------------------------------------------


class Refusal(Exception):
    """An error of a user's."""


class NeedsTwo(Exception):
    """Cannot be made again from what pickle keeps of it."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unspeakable(Exception):
    """Can neither be pickled nor put into words."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")

    def __str__(self) -> str:
        raise ValueError("not to be said")


class Shy:
    """Refuses to be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("shy")


def _refuse() -> None:
    raise Refusal("not to be unpickled")


class OneWay:
    """Is pickled, and refuses to be unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def make(name: str) -> Any:
    """One of those above."""
    return globals()[name]()


def refuse(words: str = "no") -> None:
    """Raise a user's error."""
    raise Refusal(words)


def refuse_two() -> None:
    """Raise an error that cannot be unpickled."""
    raise NeedsTwo(1, 2)


def refuse_unspeakably() -> None:
    """Raise an error that cannot be printed."""
    raise Unspeakable


def leave(code: int = 0) -> None:
    """``sys.exit``."""
    sys.exit(code)


# --- starting a worker  --------------------------------------------------------------------------------------

_remembered: list[Any] = []


def remember(*values: Any) -> None:
    """An initializer: remembers."""
    _remembered.extend(values)


def remembered() -> list[Any]:
    """What the initializer of this worker was given."""
    return list(_remembered)


def unfit(*_: Any) -> None:
    """An initializer that fails."""
    raise Refusal("this machine has no disk")


def end_at_once(*_: Any) -> None:
    """An initializer that ends its worker."""
    os._exit(3)
