"""A job: what was taken for one piece of work, and goes when that ends, and nothing of anybody else's.

Whatever is *held* has a way to be let go. Things are let go of in the reverse order, each once, and one that fails
does not keep the others. Which job is meant where none is named, is a matter of where the code runs: within
``with job(…):`` and in the asyncio tasks begun there, it is that one; elsewhere each thread, and each asyncio task,
has one of its own, so that two that know nothing of each other never clean up each other's things.

A generator that pauses in a job's block leaves it current for its caller (as all that is bound to a context): there,
use ``job.run`` for what belongs to it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from memwarden.model.log import warn
from memwarden.process.exit_hooks import arm, call_at_exit
from memwarden.process.fork_hooks import GUARDS, at_fork, reset_after_fork

P = ParamSpec("P")
T = TypeVar("T")


class Handle:
    """Something that a job holds. ``letting_go`` lets it go; ``soon`` asks it to, without waiting."""

    __slots__ = ("kind", "letting_go", "name", "owner", "soon", "what")

    def __init__(
        self,
        owner: ResourceScope,
        kind: str,
        name: str,
        what: object,
        letting_go: Callable[[], object],
        soon: Callable[[], object] | None,
    ) -> None:
        self.owner, self.kind, self.name, self.what = owner, kind, name, what
        self.letting_go, self.soon = letting_go, soon

    def let_go(self) -> None:
        """Let it go now; nothing happens when that was done, or in a child after fork. Raises what the thing raises."""
        if self.owner.forget(self):
            self.letting_go()


class ResourceScope:
    """What belongs together. ``with job:`` makes it the current one, and cleans it up at the (outermost) end.

    Any thread may use it. A child after fork has an empty one: what its parent holds is not the child's.
    """

    def __init__(self, name: str = "job") -> None:
        self.name = name
        self._begin()
        reset_after_fork(self)

        self._entered: list[None] = []  # as often as it was
        self._running: list[None] = []

    def _begin(self) -> None:
        self._held: dict[Handle, None] = {}  # its operations are atomic; the order is that of holding

    def after_fork(self) -> None:
        """In a child. What is held is kept from dying here: a file that closes would write what its parent will."""
        _inherited.append(self._held)
        self._begin()

    # --- holding ------------------------------------------------------------------------------------

    def hold(
        self,
        what: T,
        letting_go: Callable[[], object],
        *,
        kind: str = "closable",
        name: str = "",
        soon: Callable[[], object] | None = None,
    ) -> Handle:
        """Hold something until it is let go of, or this job is cleaned up."""
        held = Handle(self, kind, name or type(what).__name__, what, letting_go, soon)
        self._held[held] = None
        _busy[self] = None
        arm()
        return held

    def forget(self, held: Handle) -> bool:
        """Hold it no more, without letting it go; whether it was held."""
        mine = self._held.pop(held, held) is None  # in one step: two who try do not both get it
        if not self._held:
            _busy.pop(self, None)
            if self._held:  # somebody held something in between
                _busy[self] = None
        return mine

    @property
    def counts(self) -> dict[str, int]:
        """How many things it holds, by kind."""
        return dict(Counter(held.kind for held in list(self._held)))

    # --- letting go ---------------------------------------------------------------------------------

    def let_go(self) -> tuple[dict[str, int], list[tuple[str, Exception]]]:
        """Let go of everything; returns how many things by kind, and what went wrong: the thing's name, and the error.

        May be called again, at any time, by a thing that is being let go of, too. An interrupt is raised when
        everything has been let go of.
        """
        done: Counter[str] = Counter()
        wrong: list[tuple[str, Exception]] = []
        interrupt: BaseException | None = None
        for held in list(self._held):
            if held.soon is not None:
                with contextlib.suppress(Exception):  # it is let go of below, and that tells
                    held.soon()
        while self._held:
            try:
                held = next(reversed(self._held))
            except (StopIteration, RuntimeError):  # another thread is at it, too
                continue
            if not self.forget(held):
                continue
            try:
                held.letting_go()
                done[held.kind] += 1
            except Exception as error:  # noqa: BLE001 - the others are to be let go of all the same
                wrong.append((held.name, error))
            except BaseException as error:  # noqa: BLE001 - raised below
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt
        return dict(done), wrong

    # --- being the current one ------------------------------------------------------------------------

    def __enter__(self) -> ResourceScope:
        self._entered.append(None)
        _stack.set((*_stack.get(), self))
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._step_out()
        self._entered.pop()
        if self._entered:
            return
        _, wrong = self.let_go()
        for name, trouble in wrong:
            if trouble is not wrong[0][1] or error is not None:
                warn("job %s: %s could not be let go of: %r", self.name, name, trouble)
        if wrong and error is None:
            raise wrong[0][1]

    def _step_out(self) -> None:
        # Not by a token: a generator may be closed in another context, or after one that was begun in its block.
        stack = list(_stack.get())
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is self:
                del stack[place]
                _stack.set(tuple(stack))
                return

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function as a part of this job, in whatever thread: ``pool.submit(job.run, function, argument)``."""
        self._running.append(None)
        _stack.set((*_stack.get(), self))
        try:
            return function(*args, **kwargs)
        finally:
            self._step_out()
            self._running.pop()

    @property
    def under_way(self) -> bool:
        """Whether somebody is in its block, or in :meth:`run`."""
        return bool(self._entered or self._running)


#: The jobs around, the innermost last.
_stack: ContextVar[tuple[ResourceScope, ...]] = ContextVar("memwarden_jobs", default=())
#: Jobs that hold something: they live until it is let go of, at the latest at the end of the program.
_busy: dict[ResourceScope, None] = {}
#: What parents held when we were forked.
_inherited: list[dict[Handle, None]] = []


class _Mine(threading.local):
    job: ResourceScope | None = None


_mine = _Mine()
_tasks: WeakKeyDictionary[Any, ResourceScope] = WeakKeyDictionary()


def current_scope() -> ResourceScope:
    """The job of the innermost ``with job(…):`` around; outside of any, this asyncio task's own, or this thread's."""
    for job in reversed(_stack.get()):
        if job.under_way:  # its block may have been left in another context, which ours does not know
            return job
    task = _task()
    if task is not None:
        own = _tasks.get(task)
        if own is None:
            own = _tasks[task] = ResourceScope("task")
        return own
    if _mine.job is None:
        _mine.job = ResourceScope(f"thread {threading.current_thread().name}")
    return _mine.job


def _task() -> Any:
    asyncio = sys.modules.get("asyncio")  # nobody runs a task who has not imported it
    if asyncio is None:
        return None
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


def held_counts() -> dict[str, int]:
    """How many things all jobs of this process hold, by kind."""
    counts: Counter[str] = Counter()
    for each in list(_busy):
        counts.update(each.counts)
    return dict(counts)


@contextlib.contextmanager
def holding(held: Handle, what: T) -> Iterator[T]:
    """Yield something that is held, and let it go. What the block raises is not hidden by what that raises."""
    try:
        yield what
    except BaseException:
        try:
            held.let_go()
        except Exception as error:  # noqa: BLE001 - the block's own is raised
            warn("job %s: %s could not be let go of: %r", held.owner.name, held.name, error)
        raise
    held.let_go()


def _end() -> None:
    for each in list(_busy):
        _, wrong = each.let_go()
        for name, error in wrong:
            warn("job %s: %s could not be let go of at the end: %r", each.name, name, error)


call_at_exit(_end, order=1)


def _child() -> None:
    _busy.clear()


at_fork(GUARDS, child=_child)  # after the scopes themselves, which must exist until then
