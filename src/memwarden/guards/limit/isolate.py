"""A function in a child process of its own, under a limit of the kernel: what must not be passed is not passed.

The child is a fork where that is safe: where the process has no other thread, which may hold a lock that would stay
locked for ever. Anything can be run then. Else it is a fresh interpreter, to which the function is sent by its name and
the arguments by pickle, and which imports the main program as ``multiprocessing`` does.

In the child ``RLIMIT_DATA`` refuses what goes beyond the limit, so that a MemoryError with its traceback comes of it. A
ceiling (a control group, where one is granted, else polling) stands around the child and whatever it starts.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import pickle
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, NoReturn

from memwarden.contain.capabilities import obtain
from memwarden.contain.ceiling import Ceiling
from memwarden.contain.kernel import key_of, send
from memwarden.contain.launcher import launch
from memwarden.contain.oom_events import OomEvents
from memwarden.errors import ActionFailed, CeilingUnavailable, IsolationFailed, LimitExceeded, ReadError, SettingsError
from memwarden.guards.limit.chunked_pickle import Incoming, NotSent, Outgoing
from memwarden.guards.limit.limit_monitor import lookout
from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB, size_text
from memwarden.process.death_signal import die_with_parent
from memwarden.readers.factory import rss_function
from memwarden.readers.linux.cgroup import locate

#: The ceiling stands so far above the limit: the kernel's own memory for a process counts in a group.
RESERVE = 16 * MIB
#: And so much further at most: a forked child copies pages that it shares with its parent when it changes them.
COPIES = 256 * MIB
#: A fresh interpreter with what it imports may be as large, for polling, which counts that.
_INTERPRETER = 256 * MIB
_KILL_SECONDS = 10.0


class Task(NamedTuple):
    """What the child is to do, and how it is held."""

    name: str
    limit: int
    absolute: bool
    #: ``cgroup.procs`` files to enter before the function runs, and to go back to afterwards.
    joins: tuple[str, ...]
    home: str


class Outcome(NamedTuple):
    """What the child tells. ``kind``: ``"result"``, ``"error"``, ``"limit"``, or ``"lost"`` for an error that cannot be
    sent; ``trace`` is a traceback as text."""

    kind: str
    value: Any
    trace: str = ""


def isolated(function: Callable[..., Any], limit: int, absolute: bool) -> Callable[..., Any]:
    """``function``, run in a child process under ``limit`` bytes."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SettingsError("memory_limit(isolate=True): a generator cannot run elsewhere; have it return a list")
    if sys.platform != "linux":
        raise CeilingUnavailable("memory_limit(isolate=True): needs Linux for now")
    name = getattr(function, "__qualname__", repr(function))

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **options: Any) -> Any:
            import asyncio

            child = Child(function, args, options, name, limit, absolute)
            try:
                return await asyncio.to_thread(child.wait)
            except asyncio.CancelledError:
                child.kill()
                raise

        return awaited

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        return Child(function, args, options, name, limit, absolute).wait()

    return run


class Child:
    """A call that runs in a process of its own."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        name: str,
        limit: int,
        absolute: bool,
    ) -> None:
        self._name, self._limit = name, limit
        self._witness = OomEvents()
        forks = lookout.alone()
        # Before anything is made that would have to be given back.
        parcel = None if forks else _packed(function, args, options, name)
        copies = min(lookout.used(), COPIES) if forks else 0
        self._ceiling = _ceiling(limit + RESERVE + copies, fresh=not forks)
        task = Task(name, limit, absolute, tuple(self._ceiling.joins), _home() if self._ceiling.joins else "")
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            if parcel is None:
                self._process: Any = _fork(task, function, args, options, reading, writing)
            else:
                self._process = _start(task, parcel, writing)
            self._key: ProcessKey = key_of(self._process.pid)
        except BaseException:
            os.close(reading)
            self._ceiling.close()
            raise
        finally:
            os.close(writing)
        self._reading = reading

    def kill(self) -> None:
        """End it now; :meth:`wait` then comes to its end."""
        with suppress(ActionFailed):
            send(self._key, signal.SIGKILL)

    def wait(self) -> Any:
        """Its result. Raises its exception, :class:`LimitExceeded` or :class:`IsolationFailed`."""
        used: int | None = None
        told: Outcome | None = None
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        try:
            self._ceiling.attach(self._key)
            used = self._watch()
            if used is None:
                told = self._hear()
            kills, peak = self._ceiling.kernel_kills(), self._ceiling.peak()[0]
            if told is None and used is None and kills:
                used = peak
        finally:
            self._end()
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)  # polling has looked with a higher one
        if used is not None:
            raise self._exceeded(used, "the kernel's ceiling around it and what it started was reached")
        if told is None:
            raise self._broken()
        if told.kind == "result":
            return told.value
        if told.kind == "limit":
            error: BaseException = self._exceeded(told.value, "it asked for more than was left, which was refused")
        elif told.kind == "lost":
            error = IsolationFailed(f"{self._name}: {told.value}")
        else:
            error = told.value
        if told.trace:
            error.add_note(f"In the process of its own that it ran in:\n{told.trace}")
        raise error

    def _watch(self) -> int | None:
        """Until it tells something or ends (None), or is at its ceiling: what was in use then."""
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        for fd, events in self._ceiling.watched():
            poller.register(fd, events)
        while True:
            told = [fd for fd, _ in poller.poll(self._ceiling.pace() * 1000)]
            if self._reading in told:
                return None
            if self._process.poll() is not None:
                return None
            if self._ceiling.reached():
                return self._ceiling.used()[0]

    def _hear(self) -> Outcome | None:
        """What it tells; None when it has ended without a word, or in the middle of one."""
        incoming = Incoming(self._reading)
        try:
            return Outcome(*pickle.load(incoming))
        except NotSent as error:
            return Outcome("lost", f"its result cannot be brought back ({error}); return plain data")
        except EOFError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever a class does to make its object again
            return Outcome("lost", f"what it gave cannot be made again here ({type(error).__name__}: {error})")
        finally:
            incoming.close()

    def _end(self) -> None:
        """Nobody is left, nothing stays open."""
        until = time.monotonic() + _KILL_SECONDS
        self.kill_all()
        while (self._process.poll() is None or self._ceiling.members()) and time.monotonic() < until:
            self.kill_all()
            time.sleep(0.001)
        os.close(self._reading)
        self._ceiling.close()

    def kill_all(self) -> None:
        """End it and what it has started."""
        self.kill()
        with suppress(ReadError, OSError):
            if self._ceiling.members():
                self._ceiling.kill()

    def _exceeded(self, used: int, how: str) -> LimitExceeded:
        return LimitExceeded(
            f"{self._name}, in a process of its own, had a limit of {size_text(self._limit)} of memory: {how} (it had"
            f" taken {size_text(max(0, used))}); give it less work at a time or a higher limit",
            limit=self._limit,
            used=max(0, used),
        )

    def _broken(self) -> IsolationFailed:
        code = self._process.poll()
        if code is None or code >= 0:
            words = f"ended with exit code {code} and gave no result"
            return IsolationFailed(f"{self._name}: its process {words}; does it call os._exit?", code=code)
        words = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        above = self._witness.seen()
        if code == -signal.SIGKILL and above:
            why = f"the kernel had too little memory ({above}), though it was within its limit"
        else:
            why = "a crash in C code (some libraries abort when memory is refused), or somebody else's signal"
        return IsolationFailed(f"{self._name}: its process was ended by {words}: {why}", signal=-code)


class _Forked:
    """A forked child, waited for as ``subprocess`` does it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, a negative signal number, or None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody in this program waits for every child
                pid, status = self.pid, 0
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _ceiling(limit: int, *, fresh: bool) -> Ceiling:
    """The best that is granted. A group counts what a member takes in it; polling counts all that there is."""
    for kind in ("cgroup2", "cgroup1"):
        try:
            return obtain(limit, kind)[0]
        except CeilingUnavailable:
            continue
    resident = rss_function()
    assert resident is not None
    return obtain(limit + resident() + (_INTERPRETER if fresh else 0), "polling")[0]


def _home() -> str:
    try:
        return f"{locate().directory}/cgroup.procs"
    except ReadError:
        return ""


def _fork(task: Task, function: Callable[..., Any], args: Any, options: Any, reading: int, writing: int) -> _Forked:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # or the child would write it, too
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return _Forked(pid)
    try:
        os.close(reading)
        gc.freeze()  # a collection changes each object that it looks at, and with that copies the parent's memory
        die_with_parent(parent)
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)  # a signal to the child is no news for the parent's event loop
        _work(task, lambda: (function, args, options), writing)
    finally:
        os._exit(70)


def _start(task: Task, parcel: BinaryIO, writing: int) -> Any:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from memwarden.guards.limit.isolate import fresh;"
        f" fresh({parcel.fileno()}, {writing}, {tuple(task)!r})"
    )
    with parcel:
        launched = launch([sys.executable, "-c", code], pass_fds=(parcel.fileno(), writing))
    launched.close()  # whether it has begun its result tells
    return launched.process


def _packed(function: Callable[..., Any], args: Any, options: Any, name: str) -> BinaryIO:
    """The call in a file: how to set up the interpreter, and then what to do. Raises :class:`IsolationFailed`."""
    from multiprocessing import spawn

    why = "this process has other threads, so a fresh interpreter must run it"
    named = _named(function)
    if named is None:
        raise IsolationFailed(
            f"{name}: {why}, and that cannot find a function without a name of its own at the top of a module; move it"
            " there, or call it before threads are started"
        )
    parcel = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
    try:
        setting_up = spawn.get_preparation_data(name)
        setting_up.pop("authkey", None)  # which only multiprocessing may send
        pickle.dump(setting_up, parcel)
        pickle.dump((*named, args, dict(options)), parcel)
    except Exception as error:
        parcel.close()
        raise IsolationFailed(f"{name}: {why}, and its arguments cannot be sent there ({error})") from error
    parcel.flush()
    parcel.seek(0)
    return parcel


def _named(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Module and name under which a function is found, itself or behind decorators."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or module not in sys.modules:
        return None
    try:
        _found(module, name, function)
    except (AttributeError, LookupError):
        return None
    return module, name


def _found(module: str, name: str, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    found: Any = functools.reduce(getattr, name.split("."), sys.modules[module])
    while function is not found:
        inner = getattr(found, "__wrapped__", None)
        if inner is None:
            if function is not None:
                raise LookupError(name)
            break
        found = inner
    made: Callable[..., Any] = found
    return made


def fresh(reading: int, writing: int, task: tuple[Any, ...]) -> None:
    """What a fresh interpreter runs."""
    from importlib import import_module
    from multiprocessing import spawn

    def call() -> tuple[Callable[..., Any], Any, Any]:
        with open(reading, "rb") as parcel:
            spawn.prepare(pickle.load(parcel))
            module, name, args, options = pickle.load(parcel)
        import_module(module)
        return _found(module, name), args, options

    _work(Task(*task), call, writing)


def _work(task: Task, call: Callable[[], tuple[Callable[..., Any], Any, Any]], writing: int) -> NoReturn:
    """The child's life: be held, run, tell, end."""
    from memwarden.guards.limit.memory_limit import LimitScope, MemoryLimit

    try:
        outcome = None
        try:
            function, args, options = call()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            outcome = Outcome("lost", f"it cannot be begun there ({type(error).__name__}: {error})", _trace(error))
        if outcome is None:
            for procs in task.joins:
                _enter(procs)
            held = LimitScope(task.name, MemoryLimit(task.limit, task.absolute, False, True), leeway=0)
            outcome = _outcome(held, function, args, options)
            del function, args, options  # the result may be all that is left of them
            with suppress(OSError):
                if task.home:
                    _enter(task.home)  # the result is not to be lost for what it takes to send it
        outgoing = Outgoing(writing)
        try:
            pickle.dump(tuple(outcome), outgoing, protocol=5)
            outgoing.finish()
        except Exception as error:  # noqa: BLE001 - whatever a class does when it is pickled
            outgoing.fail(f"{type(error).__name__}: {error}")
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
    finally:
        os._exit(0)


def _outcome(held: Any, function: Callable[..., Any], args: Any, options: Any) -> Outcome:
    try:
        value = held.run(function, args, options)
        if inspect.iscoroutine(value):
            import asyncio

            value = held.run(asyncio.run, (value,), {})
        return Outcome("result", value)
    except LimitExceeded as error:
        return Outcome("limit", error.used, _trace(error)) if held.exceeded else _told(error)
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        return _told(error)


def _told(error: BaseException) -> Outcome:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a class does
        return Outcome("lost", f"its {type(error).__name__} cannot be brought back: {error}", _trace(error))
    return Outcome("error", error, _trace(error))


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _enter(procs: str) -> None:
    fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)
