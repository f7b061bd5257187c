"""The old ``src.utils.resource_manager``: managed files, captures and processes, with sizes in MB.

They are those of :mod:`memwarden.guards.resources.managed`. A memory limit is enforced, and a cleanup releases
resources of the current scope only.
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
from memwarden.guards.resources.managed import managed_temp_directory as managed_temp_directory
from memwarden.guards.resources.processes import ManagedProcess
from memwarden.guards.resources.tempfiles import PREFIX
from memwarden.model.units import MIB

#: Estimated memory of each kind of work as a share of the file size, and of any other kind.
FACTORS = {"basic": 0.2, "transcoding": 0.5, "analysis": 0.3, "effects": 0.8, "cropping": 0.4}
OTHER_FACTOR = 0.3
#: In MB: added to that share, the least estimate, and the estimate for a file that cannot be read.
BESIDE_MB, LEAST_MB, UNKNOWN_MB = 128, 256, 512


@contextmanager
def managed_tempfile(
    suffix: str = "",
    prefix: str = PREFIX,
    directory: str | os.PathLike[str] | None = None,
    text: bool = False,
) -> Iterator[str]:
    """Yield the path of an empty, closed file; remove it at the end. ``text`` has no effect: the file is not open."""
    with managed.managed_tempfile(suffix, prefix, directory) as path:
        yield path


class TimedProcess:
    """A :class:`~memwarden.guards.resources.processes.ManagedProcess` with a deadline."""

    def __init__(self, process: ManagedProcess, timeout: float | None, deadline: float | None) -> None:
        self._process, self._timeout, self._deadline = process, timeout, deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code. At the deadline stop it and raise :class:`subprocess.TimeoutExpired`."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if left is None or (timeout is not None and timeout < left):
            return int(self._process.wait(timeout))
        try:
            return int(self._process.wait(left))
        except subprocess.TimeoutExpired:
            self._process.stop()
            raise subprocess.TimeoutExpired(list(self._process.args), self._timeout or 0.0) from None


@contextmanager
def managed_process(
    cmd: Sequence[str],
    name: str = "",
    memory_limit_mb: float | None = None,
    timeout: float | None = None,
    **popen: Any,
) -> Iterator[TimedProcess]:
    """Yield a running command; stop it with its child processes at the end of the block.

    ``memory_limit_mb`` is enforced for the whole tree. After ``timeout`` seconds ``wait()`` stops it. Further arguments
    are those of :func:`memwarden.guards.resources.processes.managed_process`.
    """
    limit = None if memory_limit_mb is None else round(memory_limit_mb * MIB)
    with managed.managed_process(cmd, limit=limit, **popen) as process:
        yield TimedProcess(process, timeout, None if timeout is None else time.monotonic() + timeout)


@contextmanager
def ffmpeg_process_manager(
    cmd: Sequence[str], memory_limit_mb: float = 1024, timeout: float = 3600
) -> Iterator[TimedProcess]:
    """Yield a running FFmpeg; it is stopped by SIGINT first, so that it completes its file."""
    import signal

    with managed_process(cmd, "ffmpeg", memory_limit_mb, timeout, stop_signal=signal.SIGINT) as process:
        yield process


def force_memory_cleanup() -> dict[str, Any]:
    """Release the resources of the current scope, collect garbage and return free memory to the system.

    Safe in an ``except`` block; resources of other scopes stay. Returns counts (``files``, ``directories``,
    ``processes``, ``captures``, ``closables``, ``objects_collected``), ``freed_mb`` (memory that left the process; None
    where not measured) and ``failed``, in words.
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
    """Return the old estimate of the memory of an operation, in MB, from the size of its file.

    512 for a file that cannot be read; any operation type is accepted. Learned peaks
    (:mod:`memwarden.admission.footprints.footprint`) are better estimates.
    """
    try:
        size = os.path.getsize(video_path)
    except OSError:
        return UNKNOWN_MB
    return max(LEAST_MB, int(size / MIB * FACTORS.get(operation_type, OTHER_FACTOR) + BESIDE_MB))
