"""Functions of every kind with something around each call, and still of their kind.

A plain function and a coroutine are open from their call to their end. A generator is open while its own code runs,
and not while its consumer works: between two steps it is suspended.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from types import BuiltinFunctionType, TracebackType, WrapperDescriptorType
from typing import Any, Protocol

from memwarden.errors import SettingsError

#: Flags of a function's code, as :mod:`inspect` has them, whose import costs more than all of this room's.
_KINDS = {0x200: "async generator", 0x80: "coroutine", 0x20: "generator"}
_BUILT_IN = BuiltinFunctionType | WrapperDescriptorType


class Around(Protocol):
    """What stands around one call."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def resume(self) -> None:
        """A generator begins, or goes on."""
        ...

    def suspend(self) -> None:
        """It has yielded, or is over."""
        ...

    def end(self, error: str = "") -> None:
        """It is over; ``error`` is the type of the exception that ended it."""
        ...


def name_of(function: Any) -> str:
    """``module.qualified_name``, of whatever can be called."""
    while isinstance(function, functools.partial | classmethod | staticmethod):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else name


def kind_of(function: Any) -> str:
    """``"async generator"``, ``"generator"``, ``"coroutine"`` or ``"function"``."""
    while isinstance(function, functools.partial | classmethod | staticmethod):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    if not hasattr(function, "__code__") and not isinstance(function, _BUILT_IN) and callable(function):
        function = type(function).__call__  # an object that can be called is what its __call__ is
    if hasattr(function, "_is_coroutine_mark"):  # inspect.markcoroutinefunction, Python 3.12
        return "coroutine"
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return next((kind for flag, kind in _KINDS.items() if flags & flag), "function")


def wrap(function: Any, around: Callable[[], Any], on: Callable[[], bool]) -> Any:
    """``function`` with ``around()`` around each call for which ``on()`` is true; of the same kind.

    For generators ``around()`` gives an :class:`Around`; for functions and coroutines a context manager will do.

    A class method or static method stays one. Raises :class:`SettingsError` for what cannot be wrapped.
    """
    if isinstance(function, classmethod | staticmethod):
        return type(function)(wrap(function.__func__, around, on))
    if isinstance(function, type):
        raise SettingsError(f"{function.__qualname__} is a class: decorate its methods, __init__ for one")
    if not callable(function):
        raise SettingsError(f"{function!r} cannot be called: decorate a function (below @property, not above it)")
    kind = kind_of(function)

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
            return (yield from _steps(function(*args, **kwargs), around() if on() else _NOTHING))

        return generator

    if kind == "async generator":

        @functools.wraps(function)
        async def async_generator(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            call = around() if on() else _NOTHING
            method, value, error = made.asend, None, ""
            try:
                while True:
                    call.resume()
                    try:
                        item = await method(value)
                    except StopAsyncIteration:
                        return
                    except BaseException as raised:
                        error = type(raised).__name__
                        raise
                    finally:
                        call.suspend()
                        value = None
                    try:
                        value = yield item
                        method = made.asend
                    except GeneratorExit:
                        call.resume()
                        try:
                            await made.aclose()
                        finally:
                            call.suspend()
                        raise
                    except BaseException as thrown:  # noqa: BLE001 - it goes on into the generator
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


def _steps(made: Generator[Any, Any, Any], call: Around) -> Generator[Any, Any, Any]:
    """A generator step by step: what comes in by ``send``, ``throw`` and ``close`` goes on to it."""
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
            except BaseException as raised:
                error = type(raised).__name__
                raise
            finally:
                call.suspend()
                value = None  # else an exception that was thrown in would hold itself
            try:
                value = yield item
                method = made.send
            except GeneratorExit:
                call.resume()
                try:
                    made.close()
                finally:
                    call.suspend()
                raise
            except BaseException as thrown:  # noqa: BLE001 - it goes on into the generator
                method, value = made.throw, thrown
    finally:
        call.end(error)


class _Nothing:
    """Around calls that are not measured."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def resume(self) -> None: ...

    def suspend(self) -> None: ...

    def end(self, error: str = "") -> None: ...


_NOTHING = _Nothing()
