"""Context managers for resources that must be released: temporary files, processes, video captures, anything closable.

A resource belongs to the current scope (:mod:`memwarden.guards.resources.resource_scope`). It is released at the end of
its block, also after an exception, when its scope is released, and at interpreter exit; temporary files also after a
kill.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from memwarden.actions.rss_delta import RssDelta
from memwarden.actions.trim import trim_allocator
from memwarden.errors import ActionFailed, ExtraMissing, ReadError, SettingsError
from memwarden.guards.resources.processes import ManagedProcess as ManagedProcess
from memwarden.guards.resources.processes import managed_process as managed_process
from memwarden.guards.resources.resource_scope import Handle as Handle
from memwarden.guards.resources.resource_scope import ResourceScope as ResourceScope
from memwarden.guards.resources.resource_scope import current_scope as current_scope
from memwarden.guards.resources.resource_scope import open_counts, releasing
from memwarden.guards.resources.tempfiles import PREFIX, TemporaryPath, make_directory, make_file
from memwarden.model.log import warn
from memwarden.readers.factory import rss_function

T = TypeVar("T")

FILE, DIRECTORY, PROCESS, CAPTURE, CLOSABLE = KINDS = ("file", "directory", "process", "capture", "closable")


class _NotRemoved(ActionFailed):
    """A temporary file was not removed: logged, and not raised from the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """Result of a forced cleanup."""

    #: Number of released resources by kind.
    files: int
    directories: int
    processes: int
    captures: int
    closables: int
    #: Objects that were collected.
    objects: int
    #: Bytes that left the process: 0 within noise, None where not measured.
    returned: int | None
    #: Resources that were not released, with their errors.
    failed: tuple[str, ...]


def resource_scope(name: str = "scope") -> ResourceScope:
    """Return a new scope: resources managed in ``with resource_scope("encode"):`` are released at its end."""
    return ResourceScope(name)


@contextlib.contextmanager
def managed_tempfile(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None
) -> Iterator[str]:
    """Yield the path of an empty, closed file that only this user may read; remove it at the end.

    It is in a private directory of this process, or in ``directory``. A file that was moved away stays. After a kill of
    this process it is removed when another process of this user makes a temporary file. Raises as
    :func:`memwarden.guards.resources.tempfiles.make_file`.
    """
    with _path(make_file(suffix, prefix, directory), FILE) as path:
        yield path


@contextlib.contextmanager
def managed_temp_directory(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None
) -> Iterator[str]:
    """Yield the path of an empty directory that only this user may enter; remove it with its content at the end.

    As :func:`managed_tempfile`.
    """
    with _path(make_directory(suffix, prefix, directory), DIRECTORY) as path:
        yield path


@contextlib.contextmanager
def _path(made: TemporaryPath, kind: str) -> Iterator[str]:
    def remove() -> None:
        if wrong := made.remove():
            raise _NotRemoved(f"not removed, retried later: {wrong}")

    handle = current_scope().add(made, remove, kind=kind, name=made.path)
    with contextlib.suppress(_NotRemoved), releasing(handle, made.path):
        yield made.path


@contextlib.contextmanager
def managed_opencv_capture(source: str | os.PathLike[str] | int) -> Iterator[Any]:
    """Yield a ``cv2.VideoCapture`` of a file, an address or a camera number; release it at the end.

    OpenCV is imported here; a headless build suffices. Raises :class:`~memwarden.errors.ExtraMissing` without it or
    its libraries, and :class:`~memwarden.errors.ReadError` for a source that cannot be opened as a video.
    """
    try:
        cv2 = import_module("cv2")
    except ImportError as error:
        raise ExtraMissing("reading video with OpenCV", "video") from error
    name = source if isinstance(source, int) else os.fspath(source)
    capture = cv2.VideoCapture(name)
    if not capture.isOpened():
        capture.release()
        if isinstance(name, int):
            raise ReadError("video", f"camera {name}", "absent", "OpenCV cannot open it")
        if "://" in name or os.path.exists(name):
            raise ReadError("video", name, "malformed", "OpenCV cannot open it as a video")
        raise ReadError("video", name, "absent", "no such file")
    with releasing(current_scope().add(capture, capture.release, kind=CAPTURE, name=str(source)), capture):
        yield capture


@contextlib.contextmanager
def managed(thing: T, close: Callable[[], object] | None = None) -> Iterator[T]:
    """Yield any object and close it at the end: by ``close``, else by its ``close`` or ``release`` method."""
    with releasing(register(thing, close), thing):
        yield thing


def register(thing: object, close: Callable[[], object] | None = None) -> Handle:
    """Close an object with the current scope; ``release()`` of the returned handle closes it earlier.

    It is closed by ``close``, else by its ``close`` or ``release`` method. Raises
    :class:`~memwarden.errors.SettingsError` where there is none.
    """
    closing = close
    for name in ("close", "release"):
        closing = closing or getattr(thing, name, None)
    if not callable(closing):
        raise SettingsError(f"{thing!r}: has neither close() nor release(); pass close=")
    return current_scope().add(thing, closing, kind=CLOSABLE)


def force_memory_cleanup() -> Cleanup:
    """Release all resources of the current scope, collect garbage and return free memory to the system.

    Resources of its open ``with`` blocks are released too. Those of other scopes, threads, tasks and processes stay.
    Raises nothing, so that it can be called in an ``except`` block; errors are in the result and in the log. May be
    called again.
    """
    import gc

    scope = current_scope()
    returned = RssDelta(rss_function())
    done, errors = scope.release()
    for name, error in errors:
        warn("scope %s: %s was not released: %r", scope.name, name, error)
    objects = gc.collect()
    with contextlib.suppress(ActionFailed):  # no glibc
        trim_allocator()
    return Cleanup(
        files=done.get(FILE, 0),
        directories=done.get(DIRECTORY, 0),
        processes=done.get(PROCESS, 0),
        captures=done.get(CAPTURE, 0),
        closables=done.get(CLOSABLE, 0),
        objects=objects,
        returned=returned.bytes(),
        failed=tuple(f"{name}: {error}" for name, error in errors),
    )


def resource_counts() -> dict[str, int]:
    """Return the number of resources in all scopes of this process, by kind: ``file``, ``directory``, ``process``, …"""
    return dict.fromkeys(KINDS, 0) | open_counts()
