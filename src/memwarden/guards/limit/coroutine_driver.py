"""Coroutines and generators under a limit: each step is a block, and its growth is carried to the next.

What others allocate while one is suspended is not charged to it, and it is never interrupted then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from memwarden.guards.limit.limit_monitor import monitor
from memwarden.guards.limit.limit_scope import LimitScope


class _Returned(NamedTuple):
    """The return value of a generator."""

    value: Any


def _step(resume: Callable[[Any], Any], value: Any) -> Any:
    """Run one step; return the end as a value, because an exception from a block stands for a failure."""
    try:
        return resume(value)
    except StopIteration as stop:
        return _Returned(stop.value)


def _drive(scope: LimitScope, steps: Any) -> Generator[Any, Any, Any]:
    """Run an object that has ``send``, ``throw`` and ``close``, one step at a time."""
    resume, value = steps.send, None
    monitor.keep()  # starting a thread for each step would cost more than most steps
    try:
        while True:
            result = scope.run(_step, (resume, value), {})
            if isinstance(result, _Returned):
                return result.value
            try:
                value = yield result
                resume = steps.send
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:  # noqa: BLE001 - the step handles it
                resume, value = steps.throw, error
    finally:
        monitor.release()


class _Awaitable:
    """A coroutine, or the next item of an asynchronous generator, driven step by step."""

    def __init__(self, scope: LimitScope, steps: Any) -> None:
        self._scope, self._steps = scope, steps

    def __await__(self) -> Generator[Any, Any, Any]:
        return _drive(self._scope, self._steps)


def generator(function: Any, new_scope: Callable[[], LimitScope]) -> Any:
    """Wrap a generator function."""

    @functools.wraps(function)
    def limited(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
        return (yield from _drive(new_scope(), function(*args, **options)))

    return limited


def coroutine(function: Any, new_scope: Callable[[], LimitScope]) -> Any:
    """Wrap a coroutine function."""

    @functools.wraps(function)
    async def limited(*args: Any, **options: Any) -> Any:
        return await _Awaitable(new_scope(), function(*args, **options))

    return limited


def async_generator(function: Any, new_scope: Callable[[], LimitScope]) -> Any:
    """Wrap an asynchronous generator function."""

    @functools.wraps(function)
    async def limited(*args: Any, **options: Any) -> Any:
        scope, items = new_scope(), function(*args, **options)
        next_item = items.asend(None)
        while True:
            try:
                item = await _Awaitable(scope, next_item)
            except StopAsyncIteration:
                return
            try:
                next_item = items.asend((yield item))
            except GeneratorExit:
                await items.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - the generator handles it
                next_item = items.athrow(error)

    return limited
