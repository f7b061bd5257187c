"""Which lines of a program allocate: not measured here, but asked of a profiler that can, for single calls.

``tracemalloc`` comes with Python and sees what Python allocates; while it runs, code that allocates is 3 to 18 times
slower. ``memray`` sees native allocations, too; it is an optional package, and one call at a time can use it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

from memwarden.errors import ExtraMissing, SettingsError
from memwarden.model.calls import AllocationLine
from memwarden.process.fork_hooks import GUARDS, at_fork

#: Who may be asked.
Profiler = Literal["tracemalloc", "memray"]

#: Gets the lines that most was allocated at, the largest first.
Lines = Callable[[tuple[AllocationLine, ...]], object]

_lock = threading.Lock()
_users = 0  # calls that use tracemalloc now
_started = False  # whether it was us who started it
_memray_busy = False


def _child() -> None:
    global _lock, _memray_busy
    _lock, _memray_busy = threading.Lock(), False


at_fork(GUARDS, child=_child)


def profiler(name: str) -> Callable[[int, Lines], AbstractContextManager[None]]:
    """``around(most, lines)`` for one call. Raises :class:`SettingsError`, and :class:`ExtraMissing` without memray."""
    if name == "tracemalloc":
        return _with_tracemalloc
    if name != "memray":
        raise SettingsError(f"lines {name!r}: there is 'tracemalloc', which Python has, and 'memray'")
    try:
        import memray  # noqa: F401 - asked for, so whoever lacks it hears of it at once
    except ImportError:
        raise ExtraMissing("line-level profiling with memray", "profile") from None
    return _with_memray


@contextlib.contextmanager
def _with_tracemalloc(most: int, lines: Lines) -> Iterator[None]:
    """The lines whose memory was allocated during the call and is held at its end."""
    import tracemalloc

    global _users, _started
    with _lock:
        _users += 1
        if not tracemalloc.is_tracing():
            tracemalloc.start()
            _started = True
    try:
        before = tracemalloc.take_snapshot()
        try:
            yield
        finally:
            after = tracemalloc.take_snapshot() if tracemalloc.is_tracing() else before
    finally:
        with _lock:
            _users -= 1
            if not _users and _started:
                tracemalloc.stop()
                _started = False
    grown = [each for each in after.compare_to(before, "lineno") if each.size_diff > 0]
    ours = os.path.dirname(os.path.dirname(__file__)), tracemalloc.__file__
    lines(
        tuple(
            AllocationLine(each.traceback[0].filename, each.traceback[0].lineno, each.size_diff, each.count_diff)
            for each in grown
            if not each.traceback[0].filename.startswith(ours)
        )[:most]
    )


@contextlib.contextmanager
def _with_memray(most: int, lines: Lines) -> Iterator[None]:
    """The lines that held most at the highest moment of the call. Nothing for a call during another one's."""
    import tempfile

    import memray

    global _memray_busy
    with _lock:
        busy, _memray_busy = _memray_busy, True
    if busy:
        yield
        return
    try:
        with tempfile.TemporaryDirectory(prefix="memwarden-memray-") as folder:
            path = os.path.join(folder, "call.bin")
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(memray.Tracker(path))
                except RuntimeError:  # the whole program runs under memray, which then knows more than we could say
                    yield
                    return
                yield
            with memray.FileReader(path) as reader:
                found: dict[tuple[str, int], list[int]] = {}
                for record in reader.get_high_watermark_allocation_records(merge_threads=True):
                    stack = record.stack_trace(max_stacks=1)
                    place = (stack[0][1], stack[0][2]) if stack else ("", 0)
                    total = found.setdefault(place, [0, 0])
                    total[0] += record.size
                    total[1] += record.n_allocations
    finally:
        _memray_busy = False
    ranked = sorted(found.items(), key=lambda each: -each[1][0])[:most]
    lines(tuple(AllocationLine(file, line, size, blocks) for (file, line), (size, blocks) in ranked))
