"""Run a function in a child process under a limit of the kernel, which it cannot exceed.

The child is a fork where that is safe: where the process has no other thread, which may hold a lock that would stay
locked for ever. Then any function can be run. Else it is a fresh interpreter, which imports the main program as
``multiprocessing`` does, finds the function by its name, and loads the arguments by pickle.

In the child ``RLIMIT_DATA`` refuses what goes past the limit, so that a MemoryError with its traceback results. A
ceiling (a control group where one is granted, else polling) surrounds the child and whatever it starts. The result
comes back by pickle in a temporary file.
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
from memwarden.guards.limit.limit_monitor import monitor
from memwarden.guards.limit.limit_scope import LimitScope
from memwarden.guards.limit.proc_files import read_memory
from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB, size_text
from memwarden.process.death_signal import die_with_parent
from memwarden.readers.factory import rss_function
from memwarden.readers.linux.cgroup import locate

#: Distance of the ceiling above the limit: the kernel's own memory for a process counts in a group.
RESERVE = 16 * MIB
#: Further distance for a fork, at most: it copies pages that it shares with its parent when it changes them.
COPIES = 256 * MIB
#: Size of a fresh interpreter with its imports, at most; polling counts that.
_INTERPRETER = 256 * MIB
_KILL_SECONDS = 10.0


#: What the child writes into its pipe: the result exists, and it is complete in the file.
_COMPUTED, _WRITTEN = b"c", b"w"


class ChildSpec(NamedTuple):
    """Instructions for the child."""

    name: str
    limit: int
    absolute: bool
    #: Descriptors for the result and for the pipe.
    result: int
    pipe: int
    #: ``cgroup.procs`` files to enter before the function runs, and the one to return to afterwards.
    joins: tuple[str, ...]
    home: str


class ChildResult(NamedTuple):
    """The child's answer. ``kind``: ``"value"``, ``"error"``, ``"limit"`` (bytes used), or ``"failed"`` with a message;
    ``trace`` is a traceback as text."""

    kind: str
    value: Any
    trace: str = ""


def isolated(function: Callable[..., Any], limit: int, absolute: bool) -> Callable[..., Any]:
    """Return a function that runs ``function`` in a child process under ``limit`` bytes."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SettingsError("memory_limit(isolate=True): a generator cannot run in another process; return a list")
    if sys.platform != "linux":
        raise CeilingUnavailable("memory_limit(isolate=True): needs Linux for now")
    name = f"{getattr(function, '__qualname__', repr(function))}()"

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
        self._oom_events = OomEvents()
        forks = monitor.single_threaded()
        # First, because it may fail.
        call = None if forks else _pickle_call(function, args, options, name)
        copies = min(read_memory()[0], COPIES) if forks else 0
        self._ceiling = _ceiling(limit + RESERVE + copies, fresh=not forks)
        self._result = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait()
        self._pipe, pipe = os.pipe2(os.O_CLOEXEC)
        joins = tuple(self._ceiling.joins)
        spec = ChildSpec(name, limit, absolute, self._result.fileno(), pipe, joins, _home() if joins else "")
        try:
            if call is None:
                self._process: Any = _fork(spec, function, args, options, self._pipe)
            else:
                self._process = _start(spec, call)
            self._key: ProcessKey = key_of(self._process.pid)
        except BaseException:
            os.close(self._pipe)
            self._result.close()
            self._ceiling.close()
            raise
        finally:
            os.close(pipe)

    def kill(self) -> None:
        """Kill it; :meth:`wait` then returns soon."""
        with suppress(ActionFailed):
            send(self._key, signal.SIGKILL)

    def wait(self) -> Any:
        """Return its result. Raises its exception, :class:`LimitExceeded` or :class:`IsolationFailed`."""
        used: int | None = None
        result: ChildResult | None = None
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        try:
            self._ceiling.attach(self._key)
            used = self._watch()
            if used is None:
                result = self._load()
            kills, at_limit = self._ceiling.kernel_kills(), self._ceiling.unreclaimable_at_limit()
            if result is None and used is None and (kills or at_limit):
                used = at_limit or self._ceiling.peak()[0]
        finally:
            self._close()
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)  # polling has raised it
        if used is not None:
            raise self._exceeded(used, "reached the kernel's ceiling around it and its children")
        if result is None:
            raise self._crashed()
        if result.kind == "value":
            return result.value
        if result.kind == "limit":
            error: BaseException = self._exceeded(result.value, "an allocation was refused")
        elif result.kind == "failed":
            error = IsolationFailed(f"{self._name}: {result.value}")
        else:
            error = result.value
            if at_limit:  # a system call failed for want of memory, and the function made this of it
                error = self._exceeded(at_limit, f"the kernel refused memory, and it raised {error!r}")
                error.__cause__ = result.value
        if result.trace:
            error.add_note(f"In its child process:\n{result.trace}")
        raise error

    def _watch(self) -> int | None:
        """Wait until it has a result or ends (None), or reaches its ceiling: return what was in use then."""
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        for fd, events in self._ceiling.watched():
            poller.register(fd, events)
        while True:
            ready = [fd for fd, _ in poller.poll(self._ceiling.pace() * 1000)]
            if self._pipe in ready or self._process.poll() is not None:
                return None
            if self._ceiling.reached():
                return self._ceiling.used()[0]

    def _load(self) -> ChildResult | None:
        """Return its result when that is complete; None when it ended before."""
        while (state := os.read(self._pipe, 1)) == _COMPUTED:
            pass
        if state != _WRITTEN:
            return None
        self._result.seek(0)
        try:
            return ChildResult(*pickle.load(self._result))
        except Exception as error:  # noqa: BLE001 - any class may raise when its object is made
            return ChildResult("failed", f"its result cannot be unpickled here ({type(error).__name__}: {error})")

    def _close(self) -> None:
        """Kill what is left of it, and close everything."""
        until = time.monotonic() + _KILL_SECONDS
        self.kill_all()
        while (self._process.poll() is None or self._ceiling.members()) and time.monotonic() < until:
            self.kill_all()
            time.sleep(0.001)
        os.close(self._pipe)
        self._result.close()
        self._ceiling.close()

    def kill_all(self) -> None:
        """Kill it and its children."""
        self.kill()
        with suppress(ReadError, OSError):
            if self._ceiling.members():
                self._ceiling.kill()

    def _exceeded(self, used: int, how: str) -> LimitExceeded:
        return LimitExceeded(
            f"exceeded the {size_text(self._limit)} limit of {self._name} in its child process: {how}"
            f" ({size_text(max(0, used))} taken); raise limit= or give it less work at a time",
            limit=self._limit,
            used=max(0, used),
        )

    def _crashed(self) -> IsolationFailed:
        code = self._process.poll()
        if code is None or code >= 0:
            return IsolationFailed(
                f"{self._name}: its child process exited with code {code} and no result; remove os._exit from it",
                code=code,
            )
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        above = self._oom_events.seen()
        if code == -signal.SIGKILL and above:
            why = f"the kernel had too little memory ({above}), though it was within its limit"
        else:
            why = "a crash in C code (some libraries abort when an allocation is refused), or another process sent it"
        return IsolationFailed(f"{self._name}: its child process was killed by {name}: {why}", signal=-code)


class _Forked:
    """A forked child, with the interface of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, a negative signal number, or None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # other code in this program has reaped it
                pid, status = self.pid, 0
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _ceiling(limit: int, *, fresh: bool) -> Ceiling:
    """Return the best ceiling granted. A group counts what is allocated in it; polling counts all memory of a child."""
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


def _fork(spec: ChildSpec, function: Callable[..., Any], args: Any, options: Any, parent_pipe: int) -> _Forked:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # or the child would write it, too
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return _Forked(pid)
    try:
        os.close(parent_pipe)
        gc.freeze()  # a collection changes each object that it visits, and so copies the parent's memory
        die_with_parent(parent)
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)  # a signal to the child must not wake the parent's event loop
        _run(spec, lambda: (function, args, options))
    finally:
        os._exit(70)


def _start(spec: ChildSpec, call: BinaryIO) -> Any:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from memwarden.guards.limit.isolate import run_fresh;"
        f" run_fresh({call.fileno()}, {tuple(spec)!r})"
    )
    with call:
        launched = launch([sys.executable, "-c", code], pass_fds=(call.fileno(), spec.result, spec.pipe))
    launched.close()  # the pipe shows whether it ran
    return launched.process


def _pickle_call(function: Callable[..., Any], args: Any, options: Any, name: str) -> BinaryIO:
    """Return a file with the setup of the interpreter and the call. Raises :class:`IsolationFailed`."""
    from multiprocessing import spawn

    why = "this process has other threads, so a fresh interpreter must run it"
    location = _locate(function)
    if location is None:
        raise IsolationFailed(
            f"{name}: {why}, which finds only functions with a name at the top of a module; move it there, or call it"
            " before threads are started"
        )
    call = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
    try:
        setup = spawn.get_preparation_data(name)
        setup.pop("authkey", None)  # which only multiprocessing may send
        pickle.dump(setup, call)
        pickle.dump((location, args, dict(options)), call)
    except Exception as error:
        call.close()
        raise IsolationFailed(f"{name}: {why}, and its arguments cannot be pickled ({error})") from error
    call.flush()
    call.seek(0)
    return call


def _locate(function: Callable[..., Any]) -> tuple[str, str, int] | None:
    """Return module, name and number of decorators to unwrap under which a function is found; None when it is not."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    try:
        found = _resolve(module or "", name or "", 0)
        depth = 0
        while found is not function:
            found, depth = found.__wrapped__, depth + 1
    except (AttributeError, KeyError):
        return None
    return str(module), str(name), depth


def _resolve(module: str, name: str, depth: int) -> Any:
    found: Any = functools.reduce(getattr, name.split("."), sys.modules[module])
    for _ in range(depth):
        found = found.__wrapped__
    return found


def run_fresh(call_fd: int, spec: tuple[Any, ...]) -> None:
    """Run a call in a fresh interpreter."""
    from importlib import import_module
    from multiprocessing import spawn

    def load() -> tuple[Callable[..., Any], Any, Any]:
        with open(call_fd, "rb") as call:
            spawn.prepare(pickle.load(call))
            location, args, options = pickle.load(call)
        import_module(location[0])
        return _resolve(*location), args, options

    _run(ChildSpec(*spec), load)


def _run(spec: ChildSpec, load: Callable[[], tuple[Callable[..., Any], Any, Any]]) -> NoReturn:
    """Run the call under its limit, write the result, and exit."""
    try:
        try:
            function, args, options = load()
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            why = f"it cannot be loaded there ({type(error).__name__}: {error})"
            result = ChildResult("failed", why, _trace(error))
        else:
            for procs in spec.joins:
                _enter(procs)
            scope = LimitScope(spec.name, spec.limit, absolute=spec.absolute, leeway=0)
            result = _call(scope, function, args, options)
            del function, args, options  # the result may be all that is left of them
            with suppress(OSError):
                if spec.home:
                    _enter(spec.home)  # the memory for writing the result is not its own
        os.write(spec.pipe, _COMPUTED)
        with open(spec.result, "wb", closefd=False) as file:
            try:
                pickle.dump(tuple(result), file, protocol=5)
                file.flush()
            except Exception as error:  # noqa: BLE001 - any class may raise when it is pickled
                file.seek(0)
                file.truncate()
                why = f"its result cannot be pickled ({type(error).__name__}: {error}); return plain data"
                pickle.dump(tuple(ChildResult("failed", why)), file)
        os.write(spec.pipe, _WRITTEN)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
    finally:
        os._exit(0)


def _call(scope: LimitScope, function: Callable[..., Any], args: Any, options: Any) -> ChildResult:
    try:
        value = scope.run(function, args, options)
        if inspect.iscoroutine(value):
            import asyncio

            value = scope.run(asyncio.run, (value,), {})
        return ChildResult("value", value)
    except LimitExceeded as error:
        return ChildResult("limit", error.used, _trace(error)) if scope.exceeded else _error_result(error)
    except BaseException as error:  # noqa: BLE001 - raised in the caller
        return _error_result(error)


def _error_result(error: BaseException) -> ChildResult:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - any class may raise
        return ChildResult("failed", f"its {type(error).__name__} cannot be pickled: {error}", _trace(error))
    return ChildResult("error", error, _trace(error))


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _enter(procs: str) -> None:
    fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)
