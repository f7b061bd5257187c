"""``@memory_profile``: memory of each call of a function, logged and added up in a report.

A call costs about two reads of ``/proc/self/status``, and nothing inside the function. ``lines="tracemalloc"`` names
the allocating lines of single functions, which makes code that allocates 3 to 18 times slower.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Literal, ParamSpec, TypeVar, overload

from memwarden.errors import SettingsError
from memwarden.guards.measure.call_stats import call_stats, clear, summaries
from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.wrapping import function_kind, name_of, wrap
from memwarden.model.calls import AllocationLine, CallMemory, CallSummary
from memwarden.model.log import extra_of, logger
from memwarden.model.units import parse_size, size_text

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Growth of one call above which it is logged as a warning, and seconds until the next such warning.
WARN_GROWTH, WARN_REST = "10MiB", 60.0
#: Lines that are logged per call.
MOST_LINES = 10
_INFO, _WARNING = 20, 30  # logging.INFO, logging.WARNING

Profiler = Literal["tracemalloc"]

_on = True


def switch_profiling(on: bool) -> None:
    """Turn ``@memory_profile`` on or off for the whole process; off, it costs 0.1 µs per call."""
    global _on
    _on = on


def profiling() -> bool:
    """Return True while it is on."""
    return _on


@overload
def memory_profile(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def memory_profile(
    *,
    name: str | None = None,
    warn_growth: int | str | None = WARN_GROWTH,
    lines: Profiler | None = None,
    most_lines: int = MOST_LINES,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


def memory_profile(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    warn_growth: int | str | None = WARN_GROWTH,
    lines: Profiler | None = None,
    most_lines: int = MOST_LINES,
) -> Any:
    """Profile a function of any kind; bare, or with options.

    Each call is logged at INFO under ``memwarden`` (at WARNING where it grew by more than ``warn_growth``, at most
    once a minute; None: never), and counted in :func:`profile_report` as ``name`` (by default the function's).
    ``lines`` logs the lines that allocated most, for plain functions and coroutines.

    Raises :class:`~memwarden.errors.SettingsError`.
    """
    threshold = None if warn_growth is None else parse_size(warn_growth)
    if lines not in (None, "tracemalloc"):
        raise SettingsError(f"lines {lines!r}: must be 'tracemalloc' or None")

    def decorate(function: Any) -> Any:
        called = name or name_of(function)
        stats, log = call_stats(called), _CallLogger(threshold)
        measured = wrap(function, lambda: Measurement(called, stats, log), profiling)
        if lines is None:
            return measured
        if (kind := function_kind(function)) not in ("function", "coroutine"):
            raise SettingsError(f"lines for {called}: it is a {kind}; profile a function that consumes it")
        return wrap(measured, lambda: _trace_lines(called, most_lines), profiling)

    return decorate if function is None else decorate(function)


def profile_report() -> tuple[CallSummary, ...]:
    """Return every function that was profiled or tracked, and every tracked block, the largest growth first."""
    return summaries()


def profile_text() -> str:
    """Return the report as a table."""
    rows: list[tuple[str, ...]] = [("calls", "peak", "rise", "growth", "a call", "seconds", "name")]
    for each in summaries():
        sizes = (each.peak, each.rise, each.growth, each.slope)
        shown = ("-" if size is None else size_text(size) for size in sizes)
        rows.append((f"{each.calls}", *shown, f"{each.seconds:.2f}", each.name + _remarks(each)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = ("  ".join([*map(str.rjust, row[:-1], widths), row[-1]]) for row in rows)
    return "\n".join(lines)


def clear_profile() -> None:
    """Forget all calls so far."""
    clear()


def _remarks(each: CallSummary) -> str:
    counts = ("failed", each.failed), ("concurrent", each.shared), ("sampled", each.sampled), ("unread", each.unread)
    remarks = ", ".join(f"{count} {word}" for word, count in counts if count)
    return f" ({remarks})" if remarks else ""


class _CallLogger:
    """Logs each call."""

    __slots__ = ("_log", "_rested", "_threshold")

    def __init__(self, threshold: int | None) -> None:
        self._threshold, self._log = threshold, logger()
        self._rested = float("-inf")  # the next warning is due from then on

    def __call__(self, memory: CallMemory) -> None:
        log, level = self._log, _INFO
        if self._threshold is not None and memory.growth > self._threshold and (now := monotonic()) >= self._rested:
            level, self._rested = _WARNING, now + WARN_REST
        if log.isEnabledFor(level):
            extra = extra_of(None) | {"memwarden": memory._asdict(), "memwarden_kind": "call"}
            log.log(level, "%s", _call_text(memory), extra=extra)


def _call_text(memory: CallMemory) -> str:
    more = f", raised {memory.error}" if memory.error else ""
    if memory.shared:
        more += f", concurrent with {', '.join(memory.shared)}"
    if memory.method != "kernel":
        more += f", peak {memory.method}"
    return (
        f"{memory.name}: peak {size_text(memory.rise)} above its start, growth {size_text(memory.growth)}, "
        f"{memory.seconds:.3f} s{more}"
    )


# --- allocating lines -----------------------------------------------------------------------------------

_traced_calls: list[None] = []  # single operations are atomic
_started_tracing = False  # by us, not by the program


@contextlib.contextmanager
def _trace_lines(name: str, most: int) -> Iterator[None]:
    """Log the lines that allocated memory during the call that is still in use at its end."""
    import tracemalloc

    global _started_tracing
    _traced_calls.append(None)
    if not tracemalloc.is_tracing():
        tracemalloc.start()
        _started_tracing = True
    try:
        before = tracemalloc.take_snapshot()
        try:
            yield
        finally:
            after = tracemalloc.take_snapshot() if tracemalloc.is_tracing() else before
    finally:
        _traced_calls.pop()
        if not _traced_calls and _started_tracing:
            tracemalloc.stop()
            _started_tracing = False
    own = os.path.dirname(os.path.dirname(__file__)), tracemalloc.__file__
    grown = (each for each in after.compare_to(before, "lineno") if each.size_diff > 0)
    found = [
        AllocationLine(each.traceback[0].filename, each.traceback[0].lineno, each.size_diff, each.count_diff)
        for each in grown
        if not each.traceback[0].filename.startswith(own)
    ][:most]
    log = logger()
    if log.isEnabledFor(_INFO):
        shown = "".join(f"\n  {size_text(each.size):>12}  {each.file}:{each.line}" for each in found)
        extra = extra_of(None) | {"memwarden": [each._asdict() for each in found], "memwarden_kind": "lines"}
        log.log(_INFO, "%s: allocated at%s", name, shown or " no line", extra=extra)
