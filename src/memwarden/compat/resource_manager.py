"""The old ``src.utils.resource_manager``: managed files, captures and processes, in its old names and megabytes.

They are :mod:`memwarden.guards.resources.managed`'. A limit on memory limits here, and what one job holds is no other job's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from memwarden.compat.guarding import memory_constrained_operation as memory_constrained_operation
from memwarden.compat.guarding import memory_guard as memory_guard
from memwarden.compat.guarding import memory_optimized as memory_optimized
from memwarden.guards.resources import managed
from memwarden.guards.resources.managed import managed_opencv_capture as managed_opencv_capture
from memwarden.guards.resources.processes import ManagedProcess
from memwarden.guards.resources.tempfiles import PREFIX
from memwarden.model.units import MIB

#: How much of a file's size each kind of work was estimated to take, and what any other kind was.
FACTORS = {"basic": 0.2, "transcoding": 0.5, "analysis": 0.3, "effects": 0.8, "cropping": 0.4}
OTHER_FACTOR = 0.3
#: In MB: what work takes beside the file, at least, and for a file that cannot be read.
BESIDE_MB, LEAST_MB, UNKNOWN_MB = 128, 256, 512


@contextmanager
def managed_tempfile(
    suffix: str = "",
    prefix: str = PREFIX,
    directory: str | os.PathLike[str] | None = None,
    text: bool = False,
) -> Iterator[str]:
    """The path of an empty, closed file that is removed at the end. ``text`` has no meaning: nothing is open."""
    with managed.managed_tempfile(suffix, prefix, directory) as path:
        yield path


@contextmanager
def managed_temp_directory(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None
) -> Iterator[str]:
    """The path of an empty directory that is removed at the end with all that is in it."""
    with managed.managed_temp_directory(suffix, prefix, directory) as path:
        yield path


class TimedProcess:
    """A command that has a deadline; else as :class:`~memwarden.guards.resources.processes.ManagedProcess`."""

    def __init__(self, process: ManagedProcess, timeout: float | None, deadline: float | None) -> None:
        self._process, self._timeout, self._deadline = process, timeout, deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. At the deadline it is ended, and :class:`subprocess.TimeoutExpired` raised."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if left is None or (timeout is not None and timeout < left):
            return self._process.wait(timeout)
        try:
            return self._process.wait(left)
        except subprocess.TimeoutExpired:
            self._process.end()
            raise subprocess.TimeoutExpired(list(self._process.command), self._timeout or 0.0) from None


@contextmanager
def managed_process(
    cmd: Sequence[str],
    name: str = "",
    memory_limit_mb: float | None = None,
    timeout: float | None = None,
    **popen: Any,
) -> Iterator[TimedProcess]:
    """A running command, ended at the end of the block with all that it started.

    ``memory_limit_mb`` holds its whole tree. After ``timeout`` seconds ``wait()`` ends it. Of the arguments of
    :class:`subprocess.Popen` those of :func:`memwarden.guards.resources.processes.start` are understood.
    """
    limit = None if memory_limit_mb is None else round(memory_limit_mb * MIB)
    with managed.managed_process(cmd, limit=limit, **popen) as process:
        yield TimedProcess(process, timeout, None if timeout is None else time.monotonic() + timeout)


@contextmanager
def ffmpeg_process_manager(
    cmd: Sequence[str], memory_limit_mb: float = 1024, timeout: float = 3600
) -> Iterator[TimedProcess]:
    """A running FFmpeg, which is ended by SIGINT, so that it finishes its file, before anything harder."""
    import signal

    with managed_process(cmd, "ffmpeg", memory_limit_mb, timeout, gently=signal.SIGINT) as process:
        yield process


def force_memory_cleanup() -> dict[str, Any]:
    """Let go of what the current job holds, collect garbage and give memory back.

    Safe in an ``except`` block; what other jobs hold stays. Returns counts (``files``, ``directories``, ``processes``,
    ``captures``, ``closables``, ``objects_collected``), ``freed_mb`` (what really left the process; None where that
    could not be measured) and ``failed``, in words.
    """
    done = managed.force_memory_cleanup()
    return {
        "files": done.files,
        "directories": done.directories,
        "processes": done.processes,
        "captures": done.captures,
        "closables": done.closables,
        "objects_collected": done.objects,
        "freed_mb": None if done.returned is None else round(done.returned / MIB, 1),
        "failed": list(done.failed),
    }


def estimate_processing_memory(video_path: str | os.PathLike[str], operation_type: str = "basic") -> int:
    """What an operation on a file was estimated to take, in MB, by the size of the file: 512 for one not to be read.

    Kept for programs that call it: any name of a type is accepted. The size of a file says little about what its
    processing takes; what it took the last time says more (:mod:`memwarden.admission.footprints.footprint`).
    """
    try:
        size = os.path.getsize(video_path)
    except OSError:
        return UNKNOWN_MB
    return max(LEAST_MB, int(size / MIB * FACTORS.get(operation_type, OTHER_FACTOR) + BESIDE_MB))
