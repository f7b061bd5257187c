"""``@memory_profile``: what each call of a function takes, said to the log and added up in a report.

It costs about two reads of ``/proc/self/status`` a call and slows nothing inside it. Which *lines* allocate it does
not know; ``lines="tracemalloc"`` or ``lines="memray"`` hands single functions over to a profiler that does.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, ParamSpec, TypeVar, overload

from memwarden.errors import SettingsError
from memwarden.guards.measure.call_stats import call_stats, clear, summaries
from memwarden.guards.measure.line_profilers import Profiler, profiler
from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.wrapping import kind_of, name_of, wrap
from memwarden.model.calls import AllocationLine, CallMemory, CallSummary
from memwarden.model.log import extra_of, logger
from memwarden.model.units import parse_size, size_text

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Growth of one call from which on it is a warning and no information, and seconds until it is one again.
WARN_GROWTH, WARN_REST = "10MiB", 60.0
#: Lines that are told of one call.
MOST_LINES = 10
_INFO, _WARNING = 20, 30  # logging.INFO, logging.WARNING

_on = True


def switch_profiling(on: bool) -> None:
    """Turn ``@memory_profile`` on or off for the whole process; turned off a call costs 0.1 µs more than a bare one."""
    global _on
    _on = on


def profiling() -> bool:
    """Whether it is on."""
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

    Each call is one log record at INFO under ``memwarden`` (WARNING where more than ``warn_growth`` stayed of it, at
    most once a minute; None: never), and goes into :func:`profile_report` as ``name`` (its own where None).
    ``lines`` asks a profiler which lines allocated, for plain functions and coroutines; their code is then slow.

    Raises :class:`~memwarden.errors.SettingsError`, and :class:`~memwarden.errors.ExtraMissing` where memray is asked
    for and missing.
    """
    grown = None if warn_growth is None else parse_size(warn_growth)
    ask = None if lines is None else profiler(lines)

    def decorate(function: Any) -> Any:
        called = name or name_of(function)
        known, log = call_stats(called), _Log(grown)
        measured = wrap(function, lambda: Measurement(called, known, log), profiling)
        if ask is None:
            return measured
        if (kind := kind_of(function)) not in ("function", "coroutine"):
            raise SettingsError(f"lines for {called}: it is a {kind}; profile a function that consumes it")
        return wrap(measured, lambda: ask(most_lines, lambda found: _tell_lines(called, found)), profiling)

    return decorate if function is None else decorate(function)


def profile_report() -> tuple[CallSummary, ...]:
    """Every function that was profiled or tracked, and every tracked block; first the one of which most stayed."""
    return summaries()


def profile_text() -> str:
    """The report as a table."""
    rows: list[tuple[str, ...]] = [("calls", "peak", "rise", "growth", "a call", "seconds", "name")]
    for each in summaries():
        sizes = (each.peak, each.rise, each.growth, each.slope)
        rows.append((f"{each.calls}", *map(_shown, sizes), f"{each.seconds:.2f}", each.name + _said(each)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = ("  ".join([*map(str.rjust, row[:-1], widths), row[-1]]) for row in rows)
    return "\n".join(lines)


def clear_profile() -> None:
    """Forget all calls so far."""
    clear()


def _shown(size: float | None) -> str:
    return "-" if size is None else size_text(size)


def _said(each: CallSummary) -> str:
    parts = ("failed", each.failed), ("beside others", each.shared), ("sampled", each.sampled), ("unread", each.unread)
    said = ", ".join(f"{count} {word}" for word, count in parts if count)
    return f" ({said})" if said else ""


class _Log:
    """Tells the log of each call."""

    __slots__ = ("_grown", "_log", "_rested")

    def __init__(self, grown: int | None) -> None:
        self._grown, self._log = grown, logger()
        self._rested = float("-inf")  # from then on it may warn again

    def __call__(self, memory: CallMemory) -> None:
        log, level = self._log, _INFO
        if self._grown is not None and memory.growth > self._grown and (now := monotonic()) >= self._rested:
            level, self._rested = _WARNING, now + WARN_REST
        if log.isEnabledFor(level):
            extra = extra_of(None) | {"memwarden": memory._asdict(), "memwarden_kind": "call"}
            log.log(level, "%s", _told(memory), extra=extra)


def _told(memory: CallMemory) -> str:
    more = f", ended by {memory.error}" if memory.error else ""
    if memory.shared:
        more += f", beside {', '.join(memory.shared)}"
    if memory.method != "kernel":
        more += f", peak {memory.method}"
    return (
        f"{memory.name}: {size_text(memory.rise)} at its peak, {size_text(memory.growth)} stayed, "
        f"{memory.seconds:.3f} s{more}"
    )


def _tell_lines(name: str, found: tuple[AllocationLine, ...]) -> None:
    log = logger()
    if not log.isEnabledFor(_INFO):
        return
    shown = "".join(f"\n  {size_text(each.size):>12}  {each.file}:{each.line}" for each in found)
    extra = extra_of(None) | {"memwarden": [each._asdict() for each in found], "memwarden_kind": "lines"}
    log.log(_INFO, "%s: allocated at%s", name, shown or " no line", extra=extra)
