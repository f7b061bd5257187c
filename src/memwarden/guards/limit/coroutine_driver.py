"""Coroutines and generators under a limit: each of their steps is a block, and what they took is carried on.

What others do while one is suspended is so not held against it, and it is never interrupted then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from memwarden.guards.limit.limit_monitor import lookout

if TYPE_CHECKING:
    from memwarden.guards.limit.memory_limit import LimitScope


class _Ended(NamedTuple):
    """A generator has returned."""

    value: Any


def _step(go_on: Callable[[Any], Any], value: Any) -> Any:
    """One step; the end as a value, because an exception from a block stands for a failure."""
    try:
        return go_on(value)
    except StopIteration as ended:
        return _Ended(ended.value)


def _driven(held: LimitScope, stepped: Any) -> Generator[Any, Any, Any]:
    """Run something that has ``send``, ``throw`` and ``close``, a step at a time."""
    go_on, value = stepped.send, None
    lookout.keep()  # starting a thread for each step would cost more than most steps
    try:
        while True:
            given = held.run(_step, (go_on, value), {})
            if isinstance(given, _Ended):
                return given.value
            try:
                value = yield given
                go_on = stepped.send
            except GeneratorExit:
                stepped.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the step's to handle
                go_on, value = stepped.throw, error
    finally:
        lookout.let_go()


class _Awaited:
    """A coroutine, or what an asynchronous generator gives for its next item, driven step by step."""

    def __init__(self, held: LimitScope, stepped: Any) -> None:
        self._held, self._stepped = held, stepped

    def __await__(self) -> Generator[Any, Any, Any]:
        return _driven(self._held, self._stepped)


def generator(function: Any, begin: Callable[[], LimitScope]) -> Any:
    """A generator function under a limit."""

    @functools.wraps(function)
    def limited(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
        return (yield from _driven(begin(), function(*args, **options)))

    return limited


def coroutine(function: Any, begin: Callable[[], LimitScope]) -> Any:
    """A coroutine function under a limit."""

    @functools.wraps(function)
    async def limited(*args: Any, **options: Any) -> Any:
        return await _Awaited(begin(), function(*args, **options))

    return limited


def async_generator(function: Any, begin: Callable[[], LimitScope]) -> Any:
    """An asynchronous generator function under a limit."""

    @functools.wraps(function)
    async def limited(*args: Any, **options: Any) -> Any:
        held, items = begin(), function(*args, **options)
        next_item = items.asend(None)
        while True:
            try:
                item = await _Awaited(held, next_item)
            except StopAsyncIteration:
                return
            try:
                next_item = items.asend((yield item))
            except GeneratorExit:
                await items.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                next_item = items.athrow(error)

    return limited
