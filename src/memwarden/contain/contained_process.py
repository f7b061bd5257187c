"""A contained command: started under a ceiling, watched by a guard thread, stopped gracefully, with a report.

The guard thread starts the command (the death signal is tied to the thread that starts it), waits for its exit and
for the ceiling, and stops the tree: it reads the evidence while the tree is stopped, sends SIGTERM to every member,
and kills what still runs after the grace or takes more than the parting reserve. It never needs the caller's thread.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

from memwarden.contain.capabilities import Capability, obtain
from memwarden.contain.ceiling import Ceiling
from memwarden.contain.contained_tree import ContainedTree
from memwarden.contain.kernel import send
from memwarden.contain.launcher import Launched, launch, resolve
from memwarden.contain.oom_events import OomEvents
from memwarden.errors import ActionFailed, CeilingUnavailable, LaunchError, SettingsError
from memwarden.model.exits import Evidence, ExitReason, ExitReport
from memwarden.model.facts import ProcessKey, ProcessMemory
from memwarden.model.limits import Limit
from memwarden.model.units import KIB, MIB, parse_duration, parse_size
from memwarden.process.signals import known

GRACE_SECONDS = 5.0
#: Exited orphans are reaped this often.
_REAP_SECONDS = 0.05
#: A process needs some pages for its stack and page tables before its first instruction.
LEAST_LIMIT = 64 * KIB
#: Members that exit within this time after the command do not count as survivors.
_SETTLE_SECONDS = 0.1
#: Signals by which a program ends that was refused memory; the others come from outside.
_CRASHES = known("SIGABRT", "SIGBUS", "SIGILL", "SIGSEGV", "SIGTRAP")

_P = ParamSpec("_P")


class ContainedProcess:
    """A command whose whole tree is kept within ``limit``, with the methods of :class:`subprocess.Popen`.

    ``limit``: bytes or ``"512MiB"``; None only watches for the exit. ``ceiling`` is ``"auto"`` (the best that the
    machine grants) or one kind by name; ``cgroup`` a control group to create ours in. ``adopt``: this process is init
    or a subreaper and reaps orphans; only for a process that is entirely ours. ``terminate_orphans``: also stop what
    outlives the command. ``on_exit`` is called after the exit, in the guard thread, with the report (None: :meth:`wait`
    raises). ``blocked``: signals that the command starts with blocked. ``stdin``, ``stdout`` and
    ``stderr`` are descriptors. Raises :class:`~memwarden.errors.SettingsError`,
    :class:`~memwarden.errors.LaunchError`, :class:`~memwarden.errors.CeilingUnavailable`.

    ``terminate`` and ``kill`` act on the whole tree, ``send_signal`` on the command's own process. Leaving the
    ``with`` block terminates a tree that still runs.

    ::

        with popen(["make", "-j8"], limit="2GiB") as process:
            process.wait()
        print(process.report.reason, process.report.peak)
    """

    _failure: BaseException | None = None

    def __init__(
        self,
        args: Sequence[str],
        *,
        limit: int | str | Limit | None = None,
        ceiling: str = "auto",
        cgroup: str | None = None,
        grace: float | str = GRACE_SECONDS,
        adopt: bool = False,
        terminate_orphans: bool = False,
        on_exit: Callable[[ExitReport | None], None] | None = None,
        blocked: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise CeilingUnavailable(
                f"popen: needs Linux, this is {sys.platform}; `memwarden.watch()` and `Warden` work here"
            )
        if isinstance(args, str):  # a sequence of letters
            raise SettingsError(f"command {args!r}: must be a list of words, such as ['make', '-j8']")
        self._grace = parse_duration(grace)
        if isinstance(limit, int | str):
            limit = Limit(parse_size(limit), "asked")
        if limit is not None and limit.bytes < LEAST_LIMIT:
            raise SettingsError(
                f"limit of {limit.bytes} bytes: no process can start with less than {LEAST_LIMIT // KIB} KiB; write it "
                "with its unit, such as 512MiB"
            )
        resolve(args, env, cwd)  # before a group is made for a command that cannot be started
        self.args, self.limit = tuple(args), limit
        #: Better ceilings that could not be had, with the reasons.
        self.refused: list[Capability] = []
        self._ceiling: Ceiling | None = None
        if limit is not None:
            adopter = os.getpid() if adopt else None
            self._ceiling, self.refused = obtain(limit.bytes, ceiling, cgroup=cgroup, adopter=adopter)
        joins = () if self._ceiling is None else self._ceiling.joins
        self._launch = functools.partial(
            launch, args, joins=joins, blocked=blocked, env=env, cwd=cwd, pass_fds=pass_fds,
            stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip
        self._adopt, self._terminate_orphans, self._on_exit = adopt, terminate_orphans, on_exit
        self._stop_requested = threading.Event()
        self._first: int | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._started = threading.Event()
        self._done = threading.Event()
        self._launched: Launched | None = None
        self._tree: ContainedTree | None = None
        self._report: ExitReport | None = None
        self._thread = threading.Thread(target=self._guard, name="memwarden-guard", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self.wait()  # raises it

    @property
    def key(self) -> ProcessKey:
        """Pid and start time of the command's own process."""
        assert self._launched is not None
        return self._launched.key

    @property
    def pid(self) -> int:
        return self.key.pid

    @property
    def ceiling(self) -> str | None:
        """Kind of the ceiling: ``"cgroup2"``, ``"cgroup1"``, ``"polling"``; None without a limit."""
        return None if self._ceiling is None else self._ceiling.kind

    @property
    def if_killed(self) -> str:
        """Protection of the tree after this process is killed, as a sentence."""
        return "" if self._ceiling is None else self._ceiling.if_killed

    @property
    def helpers(self) -> Sequence[int]:
        """Pids of memwarden's own helper processes beside the tree."""
        return () if self._ceiling is None else self._ceiling.helpers

    @property
    def report(self) -> ExitReport | None:
        """Reason of the exit, peak and evidence; None while the command runs."""
        return self._report if self._done.is_set() else None

    @property
    def returncode(self) -> int | None:
        """Exit code, negative signal number, or None while the command runs."""
        return None if self.report is None else self.report.returncode

    def poll(self) -> int | None:
        """Return :attr:`returncode` without waiting. Raises an error of the guard thread, as :meth:`wait` does."""
        return self.wait() if self._done.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit; return the exit code, or the negative signal number.

        Raises :class:`subprocess.TimeoutExpired` after ``timeout`` seconds; the command runs on.
        """
        if not self._done.wait(timeout):
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self._report is not None
        return self._report.returncode

    def send_signal(self, number: int) -> None:
        """Signal the command's own process; do nothing if it has exited."""
        with contextlib.suppress(ActionFailed):
            send(self.key, number)

    def terminate(self, first: int | None = None, patience: float = 0.0) -> None:
        """Send SIGTERM to the whole tree, and SIGKILL after the grace. Does not wait.

        With ``first``, a signal, the command gets that before, and has ``patience`` seconds to exit. A further call
        without it ends that time.
        """
        if self._tree is not None:
            self._tree.patience = patience
        if not self._stop_requested.is_set():
            self._first = first
        self._stop_requested.set()
        with contextlib.suppress(OSError):  # the guard thread has ended
            os.write(self._wake_write, b"x")

    def kill(self) -> None:
        """Send SIGKILL to the whole tree, also within the grace of :meth:`terminate`. Does not wait."""
        self._grace = 0.0
        if self._tree is not None:
            self._tree.grace = 0.0
        self.terminate()

    def __enter__(self) -> ContainedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done.is_set():
            self.terminate()
        self.wait()

    # --- the guard thread -----------------------------------------------------------------------------

    def _guard(self) -> None:
        ceiling = self._ceiling
        try:
            oom_events = OomEvents()
            start = time.monotonic()
            self._launched = launched = self._launch()
            self._tree = tree = ContainedTree(launched, ceiling, adopt=self._adopt, grace=self._grace)
            if ceiling is not None:
                ceiling.attach(self.key)
            evidence = self._watch(launched, tree)
            self._report = self._explain(launched, tree, evidence, oom_events, time.monotonic() - start)
        except Exception as error:  # noqa: BLE001 - wait() raises it
            self._failure = error
            if self._tree is not None and not isinstance(
                error, LaunchError
            ):  # our own fault: no tree without its limit
                self._tree.kill()
        finally:
            if self._launched is not None:
                self._launched.close()
            if self._tree is not None:
                self._tree.close()
            if ceiling is not None:
                ceiling.close()
            os.close(self._wake_read)
            writing, self._wake_write = self._wake_write, -1  # terminate() must not write to a reused number
            os.close(writing)
            self._done.set()
            self._started.set()
            if self._on_exit is not None:
                self._on_exit(self._report)  # last: the callback may call poll() and must see the exit

    def _watch(self, launched: Launched, tree: ContainedTree) -> Evidence | None:
        """Wait until the command has exited or was stopped; return the evidence if it reached its limit."""
        ceiling = self._ceiling
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        pipe = launched.pipe
        poller.register(pipe, select.POLLIN)
        pidfd = self._pidfd()
        if pidfd >= 0:
            poller.register(pidfd, select.POLLIN)
        for fd, events in ceiling.watched() if ceiling is not None else ():
            poller.register(fd, events)
        reaped = 0.0
        try:
            while True:
                timeout = ceiling.pace() if ceiling is not None else 1.0
                if pidfd < 0:
                    timeout = min(timeout, 0.02)  # Linux before 5.3
                ready = [fd for fd, _ in poller.poll(timeout * 1000)]
                if pipe in ready:
                    poller.unregister(pipe)
                    launched.check()
                    self._started.set()
                if pidfd in ready or pidfd < 0:
                    if launched.process.poll() is not None:
                        return None
                elif time.monotonic() - reaped > _REAP_SECONDS:  # polling wakes a thousand times a second
                    tree.reap()
                    reaped = time.monotonic()
                if ceiling is not None and ceiling.reached():
                    evidence = tree.evidence(ceiling)
                    tree.terminate(f"reached its limit with {evidence.used / MIB:.1f} MiB ({evidence.counted_by})")
                    return evidence
                if self._stop_requested.is_set():
                    tree.terminate("was stopped on request", self._first)
                    return None
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def _pidfd(self) -> int:
        try:
            return os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            return -1

    def _explain(
        self, launched: Launched, tree: ContainedTree, evidence: Evidence | None, oom_events: OomEvents, seconds: float
    ) -> ExitReport:
        ceiling = self._ceiling
        survivors = self._survivors(tree)
        status = launched.process.wait()
        kills = ceiling.kernel_kills() if ceiling is not None else 0
        peak, counted_by = ceiling.peak() if ceiling is not None else (0, "")
        # A process that dies for want of kernel memory while it starts is killed without an event.
        above = ceiling is not None and ceiling.killed_from_above()
        starved = status == -signal.SIGKILL and self.limit is not None and peak >= self.limit.bytes and not above
        oom_location = ""
        unreclaimable = 0
        if ceiling is not None and evidence is None and not kills and not starved:
            unreclaimable = ceiling.unreclaimable_at_limit()
        failed = unreclaimable > 0 and (status > 0 or -status in _CRASHES) and not self._stop_requested.is_set()
        if evidence is not None or kills or starved or failed:
            reason = ExitReason.LIMIT
            if kills and evidence is not None and not evidence.processes:
                tree.steps.append("the kernel killed at the ceiling")
            oom_location = "ceiling" if kills else ""
        elif status == -signal.SIGKILL and not self._stop_requested.is_set() and (place := oom_events.seen(above)):
            reason, oom_location = ExitReason.KERNEL_OOM, place
        else:
            reason = ExitReason.EXITED if status >= 0 else ExitReason.SIGNALED
        return ExitReport(
            reason=reason,
            exit_code=status if status >= 0 else None,
            signal=-status if status < 0 else None,
            seconds=seconds,
            ceiling=self.ceiling,
            limit=self.limit,
            peak=peak or None,
            peak_counted_by=counted_by,
            evidence=evidence,
            oom_location=oom_location,
            unreclaimable=unreclaimable,
            steps=tuple(tree.steps),
            survivors=survivors,
        )

    def _survivors(self, tree: ContainedTree) -> tuple[ProcessMemory, ...]:
        """Return the members that outlive the command, after terminating them if that was asked for."""
        until = time.monotonic() + _SETTLE_SECONDS
        while (members := tree.members()) and time.monotonic() < until:
            tree.reap()
            time.sleep(0.005)
        if members and self._terminate_orphans:
            tree.terminate("outlived the command")
        return tree.measured()


def _function(kind: Callable[_P, ContainedProcess]) -> Callable[_P, ContainedProcess]:
    def popen(*args: _P.args, **options: _P.kwargs) -> ContainedProcess:
        return kind(*args, **options)

    return functools.update_wrapper(popen, kind, assigned=("__doc__",), updated=())


#: Starts a command: :class:`ContainedProcess` by the name that users of ``subprocess`` expect.
popen = _function(ContainedProcess)
