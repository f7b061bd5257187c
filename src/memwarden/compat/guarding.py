"""The old guards with limits in MB: ``memory_guard`` and ``memory_optimized`` of ``src.utils.memory_manager``, and
``memory_constrained_operation`` of ``src.utils.resource_manager``.

Unlike the originals they enforce their limit: see :mod:`memwarden.guards.budget.memory_guard`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

from memwarden.compat.memory_manager import MemoryMonitor
from memwarden.errors import DoesNotFit, NotAdmitted, SettingsError
from memwarden.guards.budget.guard_monitor import guard_context
from memwarden.guards.budget.memory_guard import Guard
from memwarden.guards.budget.memory_guard import memory_guard as native_guard
from memwarden.guards.budget.operation import Operation
from memwarden.guards.budget.operation import memory_constrained_operation as native_operation
from memwarden.guards.budget.reclaim import force_garbage_collection
from memwarden.model.units import MIB

_P = ParamSpec("_P")
_R = TypeVar("_R")


class GuardMonitor(MemoryMonitor):
    """A monitor with the guard of a block."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        #: Budget of the block: ``used``, ``peak`` and ``left`` in bytes.
        self.guard = guard

    def check(self) -> None:
        """Raise a ``MemoryError`` where the block is over its budget and freeing memory is not enough."""
        self.guard.check()


@contextmanager
def memory_guard(
    max_memory_mb: float | None = None, monitor: MemoryMonitor | None = None, cleanup_on_exit: bool = True
) -> Iterator[MemoryMonitor]:
    """Give a block a budget, by default 80 % of the available memory; yield ``monitor``, or a new one with ``check()``.

    The growth of the block and its child processes counts. It is checked at ``check()`` and at the end: over the
    budget memory is freed, and a ``MemoryError`` is raised where that is not enough. ``cleanup_on_exit`` collects
    garbage before the last check.
    """
    guard = native_guard(None if max_memory_mb is None else _bytes(max_memory_mb), "memory_guard")
    with guard:
        try:
            yield GuardMonitor(guard) if monitor is None else monitor
        finally:
            if cleanup_on_exit:
                force_garbage_collection()


def memory_optimized(max_memory_mb: float | None = None) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function: guard each call by :func:`memory_guard`. Not for coroutines."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with memory_guard(max_memory_mb):
                return function(*args, **kwargs)

        return guarded

    return decorate


@contextmanager
def memory_constrained_operation(max_memory_mb: float, operation_name: str = "") -> Iterator[Operation]:
    """Reserve memory for an operation; raise a ``MemoryError`` before it starts where that is not available.

    Afterwards the actual peak is learned under the operation's name, and logged where it was more.
    """
    size = _bytes(max_memory_mb)
    with ExitStack() as stack:
        try:
            operation = stack.enter_context(native_operation(size, operation_name))
        except DoesNotFit:
            raise
        except NotAdmitted as error:  # programs for the original catch MemoryError only
            nearest = guard_context().headroom().nearest
            left, source = (0, "") if nearest is None else (max(0, nearest.headroom), nearest.limit.source)
            raise DoesNotFit(str(error), asked=size, budget=left, source=source) from error
        yield operation


def _bytes(mb: float) -> int:
    if not 0 < mb < 1 << 40:
        raise SettingsError(f"{mb!r} MB: a number above zero")
    return max(1, round(mb * MIB))
