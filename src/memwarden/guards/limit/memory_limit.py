"""A limit on the memory that a function or a block takes: :func:`memory_limit`."""

from __future__ import annotations

import _thread
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, TypeVar, cast

from memwarden.errors import SettingsError
from memwarden.guards.limit import coroutine_driver
from memwarden.guards.limit.interrupt import Absorbed, Interrupted, absorber, interrupted_threads
from memwarden.guards.limit.limit_scope import LimitScope
from memwarden.model.units import parse_size

_F = TypeVar("_F", bound=Callable[..., Any])


class _ExitMethod:
    """``__exit__`` as a C call, so that no exception is raised between the block and its end.

    A pending interruption, or a Ctrl-C, is raised at the start of the next function: a plain ``__exit__`` would not
    run, and ``RLIMIT_DATA`` would stay lowered (ADR 0018). A generator resumed behind a ``yield from`` is the only
    Python code at the start of which CPython does not check for exceptions. So a ``with`` statement gets ``min``, which
    calls its key function, the generator's ``send``, on each argument. Code that asks the class
    (``contextlib.ExitStack``) gets the plain function.
    """

    def __init__(self, plain: Callable[..., None]) -> None:
        self._plain = plain

    def __get__(self, limit: MemoryLimit | None, owner: type) -> Callable[..., None]:
        if limit is None:
            return self._plain
        thread = _thread.get_ident()
        scope = limit._entering[thread] = limit._scope("")  # the statement that asks for this enters next
        steps = _exit_steps(limit, scope, thread)
        next(steps)
        return functools.partial(min, None, key=steps.send)


def _exit_steps(limit: MemoryLimit, scope: LimitScope, thread: int) -> Generator[int | None, Any, None]:
    """Leave a block, sent the four arguments of ``min``, of which the first is the lowest."""
    absorb = absorber(thread)
    yield from iter((None,))
    if thread in interrupted_threads:
        try:
            absorb()
        except (Absorbed, Interrupted):
            pass
    try:
        error: BaseException | None
        try:
            scope.free_reserve()
            yield 0
            error = yield 1
        except Interrupted as late:  # judged just before the thread got here
            error = late
        limit._take(scope, _block_frame(sys._getframe(1))).leave(error)
        yield 2
        yield 3
    finally:
        scope.region.open = False  # a signal handler may have raised here; no call, where it could raise again


class MemoryLimit:
    """The result of :func:`memory_limit`: a decorator, and a context manager that can be entered again and by several
    threads. Entering returns a :class:`LimitScope`."""

    def __init__(self, limit: int, absolute: bool, isolate: bool, refuse: bool) -> None:
        self.limit, self.absolute, self.isolate, self.refuse = limit, absolute, isolate, refuse
        self._entering: dict[int, LimitScope] = {}
        self._entered: list[LimitScope] = []

    def _scope(self, name: str) -> LimitScope:
        return LimitScope(name, self.limit, absolute=self.absolute, refuse=self.refuse)

    def __enter__(self) -> LimitScope:
        scope = self._entering.pop(_thread.get_ident(), None) or self._scope("")
        if self.isolate:
            raise SettingsError("memory_limit(isolate=True): a block cannot run in another process; make it a function")
        caller = sys._getframe(1)
        frame = _block_frame(caller)
        scope.name = f"the block at {frame.f_code.co_filename}:{frame.f_lineno}"
        try:
            scope.enter(frame, by_helper=frame is not caller)
            scope.frame = frame
            self._entered.append(scope)
        except BaseException:  # a signal handler may raise anywhere
            scope.region.open = False
            raise
        return scope

    def _exit(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Leave the block that this frame entered last."""
        self._take(None, _block_frame(sys._getframe(1))).leave(error)

    def _take(self, scope: LimitScope | None, frame: FrameType) -> LimitScope:
        """Remove and return the scope, or else the last one of this frame, or else the last one."""
        if scope not in self._entered:
            entered = [each for each in self._entered if each.region.open] or self._entered
            if not entered:
                raise SettingsError("memory_limit: __exit__ was called without __enter__")
            scope = next((each for each in reversed(entered) if each.frame is frame), entered[-1])
        assert scope is not None
        with contextlib.suppress(ValueError):  # a signal handler may do the same
            self._entered.remove(scope)
        scope.frame = None
        return scope

    __exit__ = _ExitMethod(_exit)

    def __call__(self, function: _F) -> _F:
        """Decorate a function, coroutine function or generator function."""
        if isinstance(function, type | staticmethod | classmethod) or not callable(function):
            raise SettingsError(f"memory_limit: {function!r} is no function; put it below @staticmethod and the like")
        limited: Any
        if self.isolate:
            from memwarden.guards.limit.isolate import isolated  # only now: it imports the package contain

            limited = isolated(function, self.limit, self.absolute)
            return cast("_F", limited)
        name = f"{getattr(function, '__qualname__', None) or repr(function)}()"

        if inspect.isasyncgenfunction(function):
            limited = coroutine_driver.async_generator(function, lambda: self._scope(name))
        elif inspect.iscoroutinefunction(function):
            limited = coroutine_driver.coroutine(function, lambda: self._scope(name))
        elif inspect.isgeneratorfunction(function):
            limited = coroutine_driver.generator(function, lambda: self._scope(name))
        else:

            @functools.wraps(function)
            def limited(*args: Any, **options: Any) -> Any:
                return self._scope(name).run(function, args, options)

        return cast("_F", limited)


def memory_limit(
    limit: int | str, *, absolute: bool = False, isolate: bool = False, refuse: bool = True
) -> MemoryLimit:
    """Limit a function or block to ``limit`` (bytes or ``"500MiB"``) of memory beyond what is in use at its entry.

    Past it, :class:`~memwarden.errors.LimitExceeded` (a MemoryError) is raised in it while it runs. The private memory
    of the process counts; shared and file-backed maps do not. ``absolute``: all private memory of the process counts.
    ``refuse=False``: set no ``RLIMIT_DATA``, which programs that are started inside would inherit. ``isolate``: run
    the function in a child process under a limit of the kernel. Raises :class:`~memwarden.errors.SettingsError`.

    ::

        @memory_limit("500MiB")
        def build(path): ...

        with memory_limit("1GiB") as scope:
            work()
        print(scope.peak)
    """
    return MemoryLimit(parse_size(limit), absolute, isolate, refuse)


def _block_frame(frame: FrameType) -> FrameType:
    """Return the frame of the block: helpers of contextlib enter on behalf of their callers."""
    while frame.f_back is not None:
        above = frame.f_back
        if frame.f_globals.get("__name__") == "contextlib":
            frame = above
        elif above.f_globals.get("__name__") == "contextlib" and above.f_code.co_name in ("__enter__", "__aenter__"):
            frame = above  # a generator behind @contextmanager: the block is in its user's code
        else:
            break
    return frame
