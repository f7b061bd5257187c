"""Wrapping of functions of every kind that keeps their kind.

A plain function and a coroutine are measured from their call to their end; a generator while its own code runs, and
not while it is suspended between two items.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from types import BuiltinFunctionType, WrapperDescriptorType
from typing import Any

from memwarden.errors import SettingsError
from memwarden.guards.measure.measurement import Measurement

#: Flags of a code object, as in :mod:`inspect`, which is not imported here for its cost.
_KINDS = {0x200: "async generator", 0x80: "coroutine", 0x20: "generator"}
_BUILT_IN = BuiltinFunctionType | WrapperDescriptorType


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial | classmethod | staticmethod):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    return function


def name_of(function: Any) -> str:
    """Return ``module.qualified_name`` of any callable."""
    function = _unwrapped(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else name


def function_kind(function: Any) -> str:
    """Return ``"async generator"``, ``"generator"``, ``"coroutine"`` or ``"function"``."""
    function = _unwrapped(function)
    if not hasattr(function, "__code__") and not isinstance(function, _BUILT_IN) and callable(function):
        function = type(function).__call__  # a callable object is of the kind of its __call__
    if hasattr(function, "_is_coroutine_mark"):  # inspect.markcoroutinefunction, Python 3.12
        return "coroutine"
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return next((kind for flag, kind in _KINDS.items() if flags & flag), "function")


def wrap(function: Any, around: Callable[[], Any], on: Callable[[], bool] = lambda: True) -> Any:
    """Return ``function`` with ``around()`` around each call for which ``on()`` is true; of the same kind.

    ``around()`` returns a :class:`Measurement` for generators, any context manager for functions and coroutines.
    A class method or static method stays one. Raises :class:`SettingsError` for an object that cannot be wrapped.
    """
    if isinstance(function, classmethod | staticmethod):
        return type(function)(wrap(function.__func__, around, on))
    if isinstance(function, type):
        raise SettingsError(f"{function.__qualname__} is a class: decorate its methods, for example __init__")
    if not callable(function):
        raise SettingsError(f"{function!r} cannot be called: decorate a function (below @property, not above it)")
    kind = function_kind(function)

    if kind == "coroutine":

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            if not on():
                return await function(*args, **kwargs)
            with around():
                return await function(*args, **kwargs)

        return coroutine

    if kind == "generator":

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from _steps(function(*args, **kwargs), around() if on() else _UNMEASURED))

        return generator

    if kind == "async generator":

        @functools.wraps(function)
        async def async_generator(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            call = around() if on() else _UNMEASURED
            method, value, error = made.asend, None, ""
            try:
                while True:
                    call.resume()
                    try:
                        item = await method(value)
                    except StopAsyncIteration:
                        return
                    except GeneratorExit:
                        raise
                    except BaseException as raised:
                        error = type(raised).__name__
                        raise
                    finally:
                        call.suspend()
                        value = None
                    try:
                        value = yield item
                        method = made.asend
                    except BaseException as thrown:  # noqa: BLE001 - passed on into the generator
                        method, value = made.athrow, thrown
            finally:
                call.end(error)

        return async_generator

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        if not on():
            return function(*args, **kwargs)
        with around():
            return function(*args, **kwargs)

    return plain


def _steps(made: Generator[Any, Any, Any], call: Measurement | _Unmeasured) -> Generator[Any, Any, Any]:
    """Run a generator step by step; ``send``, ``throw`` and ``close`` are passed on to it."""
    method: Callable[[Any], Any] = made.send
    value: Any = None
    error = ""
    try:
        while True:
            call.resume()
            try:
                item = method(value)
            except StopIteration as stop:
                return stop.value
            except GeneratorExit:  # closed by the caller
                raise
            except BaseException as raised:
                error = type(raised).__name__
                raise
            finally:
                call.suspend()
                value = None  # else an exception that was thrown in would refer to itself
            try:
                value = yield item
                method = made.send
            except BaseException as thrown:  # noqa: BLE001 - passed on into the generator
                method, value = made.throw, thrown
    finally:
        call.end(error)


class _Unmeasured:
    """Takes the place of a measurement where measuring is off."""

    def resume(self) -> None: ...

    def suspend(self) -> None: ...

    def end(self, error: str = "") -> None: ...


_UNMEASURED = _Unmeasured()
