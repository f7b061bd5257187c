"""Resource scopes: resources of one piece of work, released together when it ends.

Resources are released in reverse order, each once, and one that fails does not keep the others. The current scope is
that of the innermost ``with resource_scope(…):``, also in asyncio tasks that were created there. Outside of any, each
thread and each asyncio task has a scope of its own, so that independent work never releases each other's resources.

A generator that yields inside the block of a scope leaves it current for its caller, as with every context variable:
use :meth:`ResourceScope.run` there.
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
    """A resource of a scope."""

    __slots__ = ("_release", "kind", "name", "request", "resource", "scope")

    def __init__(
        self,
        scope: ResourceScope,
        kind: str,
        name: str,
        resource: object,
        release: Callable[[], object],
        request: Callable[[], object] | None,
    ) -> None:
        self.scope, self.kind, self.name, self.resource = scope, kind, name, resource
        self._release, self.request = release, request

    def release(self) -> bool:
        """Release the resource; return False where that was done already. Raises any error of the resource.

        Does nothing in a child after fork.
        """
        if not self.scope.remove(self):
            return False
        self._release()
        return True


class ResourceScope:
    """Resources of one piece of work. ``with scope:`` makes it current, and releases them at its outermost end.

    Thread-safe. In a child after fork it is empty: the resources are the parent's.
    """

    def __init__(self, name: str = "scope") -> None:
        self.name = name
        self._handles: dict[Handle, None] = {}  # single operations are atomic; in order of addition
        self._active: list[None] = []  # once for each block and each run() that uses it
        self._entered: list[None] = []
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Forget the resources in a child. They are kept alive: a file that is collected would flush its buffer."""
        _inherited.append(self._handles)
        self._handles = {}

    # --- adding -------------------------------------------------------------------------------------

    def add(
        self,
        resource: T,
        release: Callable[[], object],
        *,
        kind: str = "closable",
        name: str = "",
        request: Callable[[], object] | None = None,
    ) -> Handle:
        """Add a resource that ``release`` releases. ``request`` starts the release without waiting for it."""
        handle = Handle(self, kind, name or type(resource).__name__, resource, release, request)
        self._handles[handle] = None
        _busy[self] = None
        arm()
        return handle

    def remove(self, handle: Handle) -> bool:
        """Remove a resource without releasing it; return False where it was not here."""
        found = self._handles.pop(handle, handle) is None  # one operation: of two threads one gets it
        if not self._handles:
            _busy.pop(self, None)
            if self._handles:  # added by another thread in between
                _busy[self] = None
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Number of resources by kind."""
        return dict(Counter(handle.kind for handle in list(self._handles)))

    # --- releasing ----------------------------------------------------------------------------------

    def release(self) -> tuple[dict[str, int], list[tuple[str, Exception]]]:
        """Release all resources; return their number by kind, and the errors with the resource's name.

        May be called again, at any time, also by a resource that is being released. An interrupt is raised after
        everything has been released.
        """
        done: Counter[str] = Counter()
        errors: list[tuple[str, Exception]] = []
        interrupt: BaseException | None = None
        for handle in list(self._handles):  # all stop at the same time, not one after the other
            if handle.request is not None:
                with contextlib.suppress(Exception):  # its release reports it
                    handle.request()
        while self._handles:
            try:
                handle = next(reversed(self._handles))
            except (StopIteration, RuntimeError):  # another thread changed it
                continue
            try:
                done[handle.kind] += handle.release()
            except Exception as error:  # noqa: BLE001 - the others are released all the same
                errors.append((handle.name, error))
            except BaseException as error:  # noqa: BLE001 - raised below
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt
        return {kind: count for kind, count in done.items() if count}, errors

    # --- being current --------------------------------------------------------------------------------

    def __enter__(self) -> ResourceScope:
        self._entered.append(None)
        self._push()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._pop()
        self._entered.pop()
        if self._entered:
            return
        _, errors = self.release()
        for name, failure in errors:
            if failure is not errors[0][1] or error is not None:
                warn("scope %s: %s was not released: %r", self.name, name, failure)
        if errors and error is None:
            raise errors[0][1]

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with this scope current, in any thread: ``pool.submit(scope.run, function, argument)``."""
        self._push()
        try:
            return function(*args, **kwargs)
        finally:
            self._pop()

    def _push(self) -> None:
        self._active.append(None)
        _stack.set((*_stack.get(), self))

    def _pop(self) -> None:
        # Without a token: a generator may be closed in another context.
        self._active.pop()
        stack = list(_stack.get())
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is self:
                del stack[place]
                _stack.set(tuple(stack))
                return

    @property
    def active(self) -> bool:
        """True while a block of it, or :meth:`run`, is executing."""
        return bool(self._active)


#: The scopes around, the innermost last.
_stack: ContextVar[tuple[ResourceScope, ...]] = ContextVar("memwarden_scopes", default=())
#: Scopes with resources: they live until these are released, at the latest at exit.
_busy: dict[ResourceScope, None] = {}
#: Resources of parents, in children.
_inherited: list[dict[Handle, None]] = []


class _ThreadScope(threading.local):
    scope: ResourceScope | None = None


_thread = _ThreadScope()
_tasks: WeakKeyDictionary[Any, ResourceScope] = WeakKeyDictionary()


def current_scope() -> ResourceScope:
    """Return the innermost scope around; outside of any, that of this asyncio task, or of this thread."""
    for scope in reversed(_stack.get()):
        if scope.active:  # its block may have ended in another context
            return scope
    task = _task()
    if task is not None:
        own = _tasks.get(task)
        if own is None:
            own = _tasks[task] = ResourceScope("task")
        return own
    if _thread.scope is None:
        _thread.scope = ResourceScope(f"thread {threading.current_thread().name}")
    return _thread.scope


def _task() -> Any:
    asyncio = sys.modules.get("asyncio")  # not imported: there is no task
    if asyncio is None:
        return None
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


def open_counts() -> dict[str, int]:
    """Return the number of resources in all scopes of this process, by kind."""
    counts: Counter[str] = Counter()
    for scope in list(_busy):
        counts.update(scope.counts)
    return dict(counts)


@contextlib.contextmanager
def releasing(handle: Handle, resource: T) -> Iterator[T]:
    """Yield a resource and release it. An error of the release does not replace one of the block."""
    try:
        yield resource
    except BaseException:
        try:
            handle.release()
        except Exception as error:  # noqa: BLE001 - the block's own is raised
            warn("scope %s: %s was not released: %r", handle.scope.name, handle.name, error)
        raise
    handle.release()


def _exit() -> None:
    for scope in list(_busy):
        _, errors = scope.release()
        for name, error in errors:
            warn("scope %s: %s was not released at exit: %r", scope.name, name, error)


call_at_exit(_exit, order=1)
at_fork(GUARDS, child=_busy.clear)  # after the scopes' own hooks, which it keeps alive until then
