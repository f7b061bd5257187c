"""A limit on the memory that a function or a block takes: :func:`memory_limit`."""

from __future__ import annotations

import _thread
import contextlib
import dis
import errno
import functools
import inspect
import sys
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import Any, TypeVar, cast

from memwarden.errors import CeilingUnavailable, LimitExceeded, SettingsError
from memwarden.guards.limit.interrupt import Absorbed, Interrupted, absorber, asked
from memwarden.guards.limit.limit_monitor import lookout
from memwarden.guards.limit.limited_region import LEEWAY, LimitedRegion
from memwarden.model.units import parse_size, size_text

_F = TypeVar("_F", bound=Callable[..., Any])

_WAY_OUT = "give it less work at a time or a higher limit"


class _Leaving:
    """``__exit__``, so that no interruption comes between the block and its end.

    An interruption that is still to come is raised at the begin of the next function, before its first instruction: a
    plain ``__exit__`` would not run. A generator that goes on behind a ``yield from`` is the one piece of Python code
    at whose begin nobody looks for an exception; so a ``with`` statement gets, in C code, a call of that: ``min`` asks
    its key function, the generator, about each argument. Who asks the class (``contextlib.ExitStack``) gets the plain
    function.
    """

    def __init__(self, plain: Callable[..., None]) -> None:
        self._plain = plain

    def __get__(self, limit: MemoryLimit | None, owner: type) -> Callable[..., None]:
        if limit is None:
            return self._plain
        thread = _thread.get_ident()
        coming = limit._coming[thread] = _Coming()  # the statement that asks for this enters next
        leaving = _leaving(limit, coming, thread)
        next(leaving)
        return functools.partial(min, None, key=leaving.send)


class _Coming:
    """A block that a ``with`` statement begins."""

    held: LimitScope | None = None
    room: Callable[[], object] = int


def _leaving(limit: MemoryLimit, coming: _Coming, thread: int) -> Generator[int | None, Any, None]:
    """Leave a block, sent the four arguments of ``min``, the lowest of which is the first."""
    raise_other = absorber(thread)
    yield from iter((None,))
    if thread in asked:
        try:
            raise_other()
        except Absorbed:
            pass
    held = coming.held
    try:
        coming.room()
        yield 0
        error = yield 1
        if held is not None:
            limit._forget(held)
            held.leave(error)
        yield 2
        yield 3
    finally:
        if held is not None:
            held._block.open = False  # a signal handler may have raised right here


class MemoryLimit:
    """What :func:`memory_limit` makes: a decorator, and a context manager that may be entered again and by several
    threads. Entered, it gives a :class:`Held`."""

    def __init__(self, limit: int, absolute: bool, isolate: bool, refuse: bool) -> None:
        self.limit, self.absolute, self.isolate, self.refuse = limit, absolute, isolate, refuse
        self._coming: dict[int, _Coming] = {}
        self._entered: list[LimitScope] = []

    # --- a block ------------------------------------------------------------------------------------------

    def __enter__(self) -> LimitScope:
        if self.isolate:
            raise SettingsError("memory_limit(isolate=True): a block cannot run elsewhere; put it into a function")
        caller = sys._getframe(1)
        frame = _holder(caller)
        code = frame.f_code
        held = LimitScope(f"the block at {code.co_filename}:{frame.f_lineno}", self)
        coming = self._coming.pop(_thread.get_ident(), None)
        try:
            room = held._enter(frame, lent=frame is not caller)
            held.frame = frame
            self._entered.append(held)
            if coming is not None:
                coming.held, coming.room = held, room
        except BaseException:  # a signal handler may raise anywhere
            lookout.leave(held._block)
            raise
        return held

    def _exit(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Leave the block that was entered here last, or else the last one (others may have entered since)."""
        here = _holder(sys._getframe(1))
        entered = [held for held in self._entered if held._block.open]
        held = next((held for held in reversed(entered) if held.frame is here), entered[-1])
        self._forget(held)
        held.leave(error)

    __exit__ = _Leaving(_exit)

    def _forget(self, held: LimitScope) -> None:
        held.frame = None
        with contextlib.suppress(ValueError):
            self._entered.remove(held)

    # --- a function ---------------------------------------------------------------------------------------

    def __call__(self, function: _F) -> _F:
        limited: Any = self._over(function)
        return cast("_F", limited)

    def _over(self, function: Callable[..., Any]) -> Any:
        if isinstance(function, type | staticmethod | classmethod) or not callable(function):
            raise SettingsError(f"memory_limit: {function!r} is no function; put it below @staticmethod and the like")
        if self.isolate:
            from memwarden.guards.limit.isolate import isolated

            return isolated(function, self.limit, self.absolute)
        name = getattr(function, "__qualname__", None) or repr(function)
        from memwarden.guards.limit import coroutine_driver

        if inspect.isasyncgenfunction(function):
            return coroutine_driver.async_generator(function, lambda: LimitScope(name, self))
        if inspect.iscoroutinefunction(function):
            return coroutine_driver.coroutine(function, lambda: LimitScope(name, self))
        if inspect.isgeneratorfunction(function):
            return coroutine_driver.generator(function, lambda: LimitScope(name, self))

        @functools.wraps(function)
        def limited(*args: Any, **options: Any) -> Any:
            return LimitScope(name, self).run(function, args, options)

        return limited


class LimitScope:
    """A block that is held to its limit. Sizes are bytes, growth since it was entered (absolute ones the process's)."""

    def __init__(self, name: str, limit: MemoryLimit, leeway: int = LEEWAY) -> None:
        self.name, self._leeway = name, leeway
        self._limit, self._block = limit, LimitedRegion(name, limit.limit, limit.absolute)
        self._carried = 0
        #: Where it was entered by a ``with`` statement.
        self.frame: FrameType | None = None
        #: Whether it was ended for its limit.
        self.exceeded = False

    @property
    def limit(self) -> int:
        """What it may take."""
        return self._block.limit

    @property
    def peak(self) -> int:
        """The most that was seen in use so far: looks are 1 to 20 ms apart."""
        return max(0, self._block.peak)

    def run(self, function: Callable[..., Any], args: Any, options: Any) -> Any:
        """Call a function under the limit. Raises :class:`LimitExceeded`, and what the function raises."""
        room = self._enter(sys._getframe())
        # An interruption that was still to come is raised as leaving begins; leaving may be repeated.
        try:
            result = function(*args, **options)
        except BaseException as error:
            room()
            try:
                self._leave(error)
            except Interrupted:
                self._leave(error)
            raise
        try:
            self._leave(None)
        except Interrupted as late:
            self._leave(late)
        return result

    def leave(self, error: BaseException | None) -> None:
        """End it, where it was entered by hand."""
        try:
            self._leave(error)
        except Interrupted:
            self._leave(error)

    def _enter(self, frame: FrameType, *, lent: bool = False) -> Callable[[], object]:
        if sys.platform != "linux":
            raise CeilingUnavailable("memory_limit: needs Linux for now; `memwarden.watch()` and `Warden` work here")
        block = self._block
        room = lookout.enter(
            block, frame, refuse=self._limit.refuse, carried=self._carried, leeway=self._leeway, lent=lent
        )
        if block.absolute and (used := block.taken(lookout.used())) > block.limit:
            lookout.leave(block)
            raise self._exceeded(used, "was past it before it began")
        return room

    def _leave(self, error: BaseException | None) -> None:
        """Raises :class:`LimitExceeded` when it went past its limit, and has not failed in its own way."""
        block = self._block
        self._carried = taken = lookout.leave(block)
        if block.refusing and _refused(error):
            raise self._exceeded(block.peak, "asked for more than was left, which was refused") from error
        if block.exceeded is not None and (error is None or _interrupted(error)):
            # In no variable: the error holds this frame, and a cycle would keep what the block took until a collection.
            if isinstance(error, Interrupted):
                raise self._exceeded(block.exceeded).with_traceback(error.__traceback__) from None
            raise self._exceeded(block.exceeded) from error
        if error is None and taken > block.limit:
            raise self._exceeded(taken)

    def _exceeded(self, used: int, how: str = "took more") -> LimitExceeded:
        block = self._block
        kind = "an absolute limit" if block.absolute else "a limit"
        counted = "the process held" if block.absolute else "it had taken"
        self.exceeded = True
        return LimitExceeded(
            f"{self.name} had {kind} of {size_text(block.limit)} of memory and {how}: {counted}"
            f" {size_text(max(0, used))}; {_WAY_OUT}",
            limit=block.limit,
            used=max(0, used),
        )


def memory_limit(
    limit: int | str, *, absolute: bool = False, isolate: bool = False, refuse: bool = True
) -> MemoryLimit:
    """Hold a function or a block to ``limit`` (bytes or ``"500MiB"``) of memory beyond what is in use at its entry.

    Past it, :class:`~memwarden.errors.LimitExceeded` (a MemoryError) comes out of it while it runs. What counts is the
    private memory of the process; shared and file-backed maps do not. ``absolute``: all of the process counts.
    ``refuse=False``: set no ``RLIMIT_DATA``, which programs that are started inside would inherit. ``isolate``: run
    the function in a child process under a limit of the kernel. Raises :class:`~memwarden.errors.SettingsError`.

    ::

        @memory_limit("500MiB")
        def build(path): ...

        with memory_limit("1GiB") as held:
            work()
        print(held.peak)
    """
    return MemoryLimit(parse_size(limit), absolute, isolate, refuse)


def _holder(frame: FrameType) -> FrameType:
    """The frame that a block stands in: contextlib's helpers enter on behalf of their callers."""
    while frame.f_back is not None:
        above = frame.f_back
        if frame.f_globals.get("__name__") == "contextlib":
            frame = above
        elif above.f_globals.get("__name__") == "contextlib" and above.f_code.co_name in ("__enter__", "__aenter__"):
            frame = above  # a generator behind @contextmanager stands for a block in its user's code
        else:
            break
    return frame


def _interrupted(error: BaseException) -> bool:
    """Whether it is the interruption, or what the block's code made of that."""
    seen = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        if isinstance(each, Interrupted):
            return True
        seen.add(id(each))
        each = each.__cause__ or each.__context__
    return False


def _refused(error: BaseException | None) -> bool:
    """Whether it tells of an allocation that failed, and was not raised by a ``raise`` statement."""
    if not isinstance(error, MemoryError) and not (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return False
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_lasti < 0:
        return False
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] not in ("RAISE_VARARGS", "RERAISE")
