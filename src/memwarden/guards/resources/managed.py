"""Things that a piece of work takes and must give back: temporary files, video captures, processes, whatever closes.

Each ``managed_…`` is a context manager. What it gives belongs to the current job (see :mod:`memwarden.guards.resources.resource_scope`)
and goes at the end of the block, on an exception, when its job is cleaned up and when the interpreter ends; temporary
files go after a kill, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from memwarden.actions.rss_delta import RssDelta
from memwarden.actions.trim import trim_allocator
from memwarden.contain.contained_process import GRACE_SECONDS
from memwarden.errors import ActionFailed, SettingsError
from memwarden.guards.resources.processes import GENTLY_SECONDS, ManagedProcess, start
from memwarden.guards.resources.resource_scope import Handle, ResourceScope, current_scope, held_counts, holding
from memwarden.guards.resources.tempfiles import PREFIX, TemporaryPath, make_directory, make_file
from memwarden.model.limits import Limit
from memwarden.model.log import warn
from memwarden.readers.factory import rss_function

T = TypeVar("T")

FILE, DIRECTORY, PROCESS, CAPTURE, CLOSABLE = KINDS = ("file", "directory", "process", "capture", "closable")


class _Later(ActionFailed):
    """A temporary file that could not be removed is told in the log, and costs nobody the result of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """What a clean-up did."""

    #: How many of each it let go of.
    files: int
    directories: int
    processes: int
    captures: int
    closables: int
    #: Objects that the garbage collector freed.
    objects: int
    #: What left the process, in bytes: 0 when it cannot be told from noise, None when it could not be measured.
    returned: int | None
    #: What could not be let go of, in words.
    failed: tuple[str, ...]


def job(name: str = "job") -> ResourceScope:
    """A new job: within ``with job("encode"):`` everything managed belongs to it, and goes with it."""
    return ResourceScope(name)


@contextlib.contextmanager
def managed_tempfile(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None, *, sentinel: bool = False
) -> Iterator[str]:
    """The path of an empty file, closed, that only this user may read; it is removed at the end.

    It stands in a private directory of this process, or in ``directory``. One that was moved away by then has become
    something else and stays where it is. With ``sentinel`` it goes within a moment of a kill of this process, else
    when another process of this user next makes one. Raises as :func:`memwarden.guards.resources.tempfiles.make_file`.
    """
    with _path(make_file(suffix, prefix, directory, sentinel=sentinel), FILE) as path:
        yield path


@contextlib.contextmanager
def managed_temp_directory(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None, *, sentinel: bool = False
) -> Iterator[str]:
    """The path of an empty directory that only this user may enter; it is removed at the end with all that is in it.

    As :func:`managed_tempfile`.
    """
    with _path(make_directory(suffix, prefix, directory, sentinel=sentinel), DIRECTORY) as path:
        yield path


@contextlib.contextmanager
def _path(made: TemporaryPath, kind: str) -> Iterator[str]:
    def remove() -> None:
        if wrong := made.remove():
            raise _Later(f"not removed, and tried again later: {wrong}")

    with contextlib.suppress(_Later), holding(current_scope().hold(made, remove, kind=kind, name=made.path), made.path):
        yield made.path


@contextlib.contextmanager
def managed_opencv_capture(source: str | os.PathLike[str] | int) -> Iterator[Any]:
    """A ``cv2.VideoCapture`` of a file, an address or a camera; it is released at the end.

    Raises :class:`~memwarden.errors.ExtraMissing` without OpenCV, and :class:`~memwarden.errors.ReadError` for what
    cannot be opened.
    """
    from memwarden.guards.resources.opencv import open_capture

    capture = open_capture(source)
    with holding(current_scope().hold(capture, capture.release, kind=CAPTURE, name=str(source)), capture):
        yield capture


@contextlib.contextmanager
def managed_process(
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
) -> Iterator[ManagedProcess]:
    """A running command. At the end it and all that it started are ended, if they still run: gently, by TERM, by KILL.

    See :func:`memwarden.guards.resources.processes.start` for what is asked and raised.
    """
    process = start(
        command,
        limit=limit,
        gently=gently,
        gently_for=gently_for,
        grace=grace,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
    )
    held = current_scope().hold(process, process.end, kind=PROCESS, name=process.command[0], soon=process.ask_to_end)
    with holding(held, process):
        yield process


@contextlib.contextmanager
def managed(thing: T, close: Callable[[], object] | None = None) -> Iterator[T]:
    """Anything that is to be closed: ``close`` is called at the end, else its ``close`` or ``release`` method."""
    held = register(thing, close)
    with holding(held, thing):
        yield thing


def register(thing: object, close: Callable[[], object] | None = None) -> Handle:
    """Have the current job close something; ``let_go()`` of the result closes it earlier.

    ``close`` is what is called, else the thing's ``close`` or ``release`` method. Raises
    :class:`~memwarden.errors.SettingsError` where there is none.
    """
    closing = close
    for name in ("close", "release"):
        closing = closing or getattr(thing, name, None)
    if not callable(closing):
        raise SettingsError(f"{thing!r}: has neither close() nor release(); say close=")
    return current_scope().hold(thing, closing, kind=CLOSABLE)


def force_memory_cleanup() -> Cleanup:
    """Let go of everything that the current job holds, collect all garbage and give freed memory back to the system.

    What its open ``with`` blocks manage goes, too; they then end without a word. What other jobs, threads and tasks
    hold stays, and so does everything of other processes. Raises nothing, so that it can stand in an ``except`` block;
    what went wrong is in the result and in the log. May be called again.
    """
    import gc

    here = current_scope()
    returned = RssDelta(rss_function())
    done, wrong = here.let_go()
    for name, error in wrong:
        warn("job %s: %s could not be let go of: %r", here.name, name, error)
    objects = gc.collect()
    with contextlib.suppress(ActionFailed):  # no glibc: what comes back by itself is measured all the same
        trim_allocator()
    return Cleanup(
        files=done.get(FILE, 0),
        directories=done.get(DIRECTORY, 0),
        processes=done.get(PROCESS, 0),
        captures=done.get(CAPTURE, 0),
        closables=done.get(CLOSABLE, 0),
        objects=objects,
        returned=returned.bytes(),
        failed=tuple(f"{name}: {error}" for name, error in wrong),
    )


def resource_counts() -> dict[str, int]:
    """How many things this process holds, in all of its jobs, by kind: ``file``, ``directory``, ``process``, …"""
    return dict.fromkeys(KINDS, 0) | held_counts()


__all__ = [
    "Cleanup",
    "Handle",
    "ManagedProcess",
    "ResourceScope",
    "current_scope",
    "force_memory_cleanup",
    "job",
    "managed",
    "managed_opencv_capture",
    "managed_process",
    "managed_temp_directory",
    "managed_tempfile",
    "register",
    "resource_counts",
]
