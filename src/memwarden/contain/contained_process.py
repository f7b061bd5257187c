"""A contained command: started under a ceiling, watched by a thread of its own, ended gently, explained.

The guard's thread starts the command (so that the death signal is tied to it), waits for its end and for
the ceiling, and carries out an ending: the evidence is read while the tree stands still, everybody is
asked to end (SIGTERM), and who is still there after the grace, or takes more than the parting reserve, is
killed. Nothing of this needs the caller's thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

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

GRACE_SECONDS = 5.0
#: Orphans that have ended wait no longer than this to be reaped.
_COLLECT_SECONDS = 0.05
#: A process needs some pages for its stack and page tables before its first instruction.
LEAST_LIMIT = 64 * KIB
#: How long members may take to follow the command into its end before they count as left behind.
_SETTLE_SECONDS = 0.1


class ContainedProcess:
    """A command that runs. Made by :func:`hold`."""

    def __init__(
        self,
        command: Sequence[str],
        limit: Limit | None,
        ceiling: Ceiling | None,
        refused: list[Capability],
        grace: float,
        adopt: bool,
        end_orphans: bool,
        on_ending: Callable[[ExitReport], None] | None,
        launching: Callable[[Sequence[str]], Launched],
    ) -> None:
        self.command = tuple(command)
        self.limit = limit
        self.refused = refused
        self._ceiling, self._grace, self._adopt, self._end_orphans = ceiling, grace, adopt, end_orphans
        self._on_ending, self._launching = on_ending, launching
        self._asked_to_end = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._begun = threading.Event()
        self._done = threading.Event()
        self._launched: Launched | None = None
        self._failure: BaseException | None = None
        self._ending: ExitReport | None = None
        self._thread = threading.Thread(target=self._guard, name="memwarden-guard", daemon=True)

    # --- the caller's side --------------------------------------------------------------------------

    def _start(self) -> ContainedProcess:
        self._thread.start()
        self._begun.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    @property
    def key(self) -> ProcessKey:
        """The command's own process."""
        assert self._launched is not None
        return self._launched.key

    @property
    def pid(self) -> int:
        return self.key.pid

    @property
    def kind(self) -> str | None:
        """How the limit is held: ``"cgroup2"``, ``"cgroup1"``, ``"polling"``; None without a limit."""
        return None if self._ceiling is None else self._ceiling.kind

    @property
    def afterwards(self) -> str:
        """What protects the tree when this process is killed, in words."""
        return "" if self._ceiling is None else self._ceiling.afterwards

    @property
    def helpers(self) -> Sequence[int]:
        """Processes of ours beside the tree."""
        return () if self._ceiling is None else self._ceiling.helpers

    def send(self, number: int) -> None:
        """Send the command's own process a signal; nothing happens when it has ended."""
        with contextlib.suppress(ActionFailed):
            send(self.key, number)

    def end(self) -> None:
        """Ask the whole tree to end: SIGTERM, the grace, SIGKILL. Returns at once; :meth:`wait` for the end."""
        self._asked_to_end.set()
        self._wake()

    def wait(self, timeout: float | None = None) -> ExitReport | None:
        """What the command came to; None when ``timeout`` seconds pass first."""
        if not self._done.wait(timeout):
            return None
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._ending

    def __enter__(self) -> ContainedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done.is_set():
            self.end()
        self.wait()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    # --- the guard's thread ---------------------------------------------------------------------------

    def _guard(self) -> None:
        ceiling = self._ceiling
        tree: ContainedTree | None = None
        try:
            witness = OomEvents()
            begun = time.monotonic()
            self._launched = launched = self._launching(ceiling.joins if ceiling is not None else ())
            tree = ContainedTree(launched, ceiling, adopt=self._adopt, grace=self._grace)
            if ceiling is not None:
                ceiling.attach(self.key)
            evidence = self._wait_and_hold(launched, tree)
            self._ending = self._explain(launched, tree, evidence, witness, time.monotonic() - begun)
        except LaunchError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - a fault of ours is raised in wait(), and no tree is left unheld
            self._failure = error
            if tree is not None:
                tree.kill()
        finally:
            if self._launched is not None:
                self._launched.close()
            if tree is not None:
                tree.close()
            if ceiling is not None:
                ceiling.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._done.set()
            self._begun.set()
            if self._ending is not None and self._on_ending is not None:
                self._on_ending(self._ending)  # only now: who is woken asks wait(0), and must find it done

    def _wait_and_hold(self, launched: Launched, tree: ContainedTree) -> Evidence | None:
        """Wait until the command has ended, by itself or by us; returns the evidence in the latter case."""
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
        collected = 0.0
        try:
            while True:
                pace = ceiling.pace() if ceiling is not None else 1.0
                if pidfd < 0:
                    pace = min(pace, 0.02)  # Linux before 5.3
                told = [fd for fd, _ in poller.poll(pace * 1000)]
                if pipe in told and launched.became_command():
                    poller.unregister(pipe)
                    self._begun.set()
                if pidfd in told or pidfd < 0:
                    if launched.poll() is not None:
                        return None
                elif time.monotonic() - collected > _COLLECT_SECONDS:  # not on each of a thousand looks a second
                    tree.collect()
                    collected = time.monotonic()
                if ceiling is not None and ceiling.reached():
                    evidence = tree.evidence(ceiling)
                    tree.end(f"reached its limit with {evidence.used / MIB:.1f} MiB ({evidence.counted_by})")
                    return evidence
                if self._asked_to_end.is_set():
                    tree.end("was asked to end")
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
        self, launched: Launched, tree: ContainedTree, evidence: Evidence | None, witness: OomEvents, seconds: float
    ) -> ExitReport:
        ceiling = self._ceiling
        left = self._left_behind(tree)
        status = launched.process.wait()
        kills = ceiling.kernel_kills() if ceiling is not None else 0
        peak, counted_by = ceiling.peak() if ceiling is not None else (0, "")
        # A process that dies for want of kernel memory, while it is being started, is killed without an event.
        above = ceiling is not None and ceiling.killed_from_above()
        starved = status == -signal.SIGKILL and self.limit is not None and peak >= self.limit.bytes and not above
        oom_where = ""
        if evidence is not None or kills or starved:
            kind = ExitReason.LIMIT
            if kills and evidence is not None and not evidence.processes:
                tree.steps.append("the kernel killed at the ceiling")
            oom_where = "ceiling" if kills else ""
        elif status == -signal.SIGKILL and not self._asked_to_end.is_set() and (where := witness.seen(above)):
            kind, oom_where = ExitReason.KERNEL_OOM, where
        else:
            kind = ExitReason.EXIT if status >= 0 else ExitReason.SIGNAL
        return ExitReport(
            kind=kind,
            code=status if status >= 0 else None,
            signal=-status if status < 0 else None,
            seconds=seconds,
            ceiling=self.kind,
            limit=self.limit,
            peak=peak or None,
            peak_counted_by=counted_by,
            evidence=evidence,
            oom_where=oom_where,
            steps=tuple(tree.steps),
            left=left,
        )

    def _left_behind(self, tree: ContainedTree) -> tuple[ProcessMemory, ...]:
        """Members that outlive the command. Those of a container's init are ended with it, others are told of."""
        until = time.monotonic() + _SETTLE_SECONDS
        while (stays := tree.members()) and time.monotonic() < until:
            tree.collect()
            time.sleep(0.005)
        if stays and self._end_orphans:
            tree.end("outlived the command")
        return tree.measured()


def popen(
    command: Sequence[str],
    *,
    limit: int | str | Limit | None = None,
    ceiling: str = "auto",
    cgroup: str | None = None,
    grace: float | str = GRACE_SECONDS,
    adopt: bool = False,
    end_orphans: bool = False,
    on_ending: Callable[[ExitReport], None] | None = None,
    blocked: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> ContainedProcess:
    """Start ``command`` and hold its whole tree to ``limit`` (bytes or ``"512MiB"``; None: only watch its end).

    ``ceiling`` is ``"auto"`` (the best that the machine grants) or one kind by name; ``cgroup`` a group to
    make ours in. ``adopt``: this process is init or a subreaper, and collects orphans; only for a process
    that is ours. ``end_orphans``: what outlives the command is ended, too. Raises
    :class:`~memwarden.errors.SettingsError`, :class:`~memwarden.errors.LaunchError`,
    :class:`~memwarden.errors.CeilingUnavailable`.

    ::

        with hold(["make", "-j8"], limit="2GiB") as command:
            ending = command.wait()
        print(ending.kind, ending.peak)
    """
    if sys.platform != "linux":
        raise CeilingUnavailable("hold: needs Linux for now; `memwarden.watch()` and `Warden` work here")
    if isinstance(command, str):  # its letters would be the words
        raise SettingsError(f"command {command!r}: must be a list of words, such as ['make', '-j8']")
    seconds = parse_duration(grace)
    if isinstance(limit, int | str):
        limit = Limit(parse_size(limit), "asked")
    if limit is not None and limit.bytes < LEAST_LIMIT:
        raise SettingsError(
            f"limit of {limit.bytes} bytes: no process can start with less than {LEAST_LIMIT // KIB} KiB; write it "
            "with its unit, such as 512MiB"
        )
    resolve(command, env, cwd)  # what cannot be started shall not cost a group
    held: Ceiling | None = None
    refused: list[Capability] = []
    if limit is not None:
        adopter = os.getpid() if adopt else None
        held, refused = obtain(limit.bytes, ceiling, cgroup=cgroup, adopter=adopter)

    def launching(joins: Sequence[str]) -> Launched:
        return launch(
            command,
            joins=joins,
            blocked=blocked,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    return ContainedProcess(command, limit, held, refused, seconds, adopt, end_orphans, on_ending, launching)._start()
