"""A worker as the executor sees it: its connection, its memory, its lease, and what it works at."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from memwarden.admission.executor.scheduler import PendingTask, RunningTask
from memwarden.admission.pool.child_memory import ChildMemory
from memwarden.admission.pool.shared_memory import SharedMemory
from memwarden.errors import ActionFailed, ReadError
from memwarden.model.facts import ProcessKey
from memwarden.process.signals import KILL, send
from memwarden.readers.linux.tree import TreeReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from memwarden.admission.ledger.ledger import Reservation
    from memwarden.admission.pool.connection import WorkerConnection
    from memwarden.protocols import IdentityProbe


class Task:
    """A call, its future, and what it costs."""

    __slots__ = ("args", "function", "future", "job", "kwargs", "running")

    def __init__(
        self,
        job: PendingTask,
        future: Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.job, self.future = job, future
        self.function, self.args, self.kwargs = function, args, kwargs
        #: Whether its future was told that it runs, after which it cannot be cancelled.
        self.running = False

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.job.name} ({self.job.kind.name})"


class WorkerHandle:
    """One worker process and what belongs to it."""

    def __init__(self, line: WorkerConnection) -> None:
        self.line = line
        #: Known when the worker is ready.
        self.key: ProcessKey | None = None
        self.pidfd = -1
        self._tree: TreeReader | None = None
        self._shmem: SharedMemory | None = None
        self._heirs = ChildMemory()
        #: The worker and those whom it started, at the last look.
        self._present: tuple[ProcessKey, ...] = ()
        #: Anonymous bytes when it was ready.
        self._base = 0
        self.reservation: Reservation | None = None
        #: What it works at, and what it will do next.
        self.tasks: deque[Task] = deque()
        self.run: RunningTask | None = None
        #: Bytes beyond its base, now; and resident bytes that others may share, the most in this task.
        self.used = self.other = 0
        #: What it kept after its first task.
        self.kept: int | None = None
        self.done = 0
        #: It takes no more tasks.
        self.leaving = False
        #: Why it was ended by us.
        self.ended_for = ""

    @property
    def ready(self) -> bool:
        """Whether the process is there."""
        return self.key is not None

    @property
    def dying(self) -> bool:
        """Whether it was ended, and is not gone yet."""
        return bool(self.ended_for)

    @property
    def lease(self) -> int:
        """Bytes that are reserved for it."""
        return self.run.lease if self.run is not None else self.reserved

    @property
    def reserved(self) -> int:
        """Bytes in the ledger."""
        return self.reservation.bytes if self.reservation is not None else 0

    @property
    def held(self) -> int:
        """Bytes that nobody else can have."""
        return max(self.reserved, self.used)

    def meet(self, pid: int, anonymous: int, other: int, probe: IdentityProbe) -> None:
        """The worker is ready. Raises :class:`ReadError` where it has ended again."""
        self.key = probe.key_of(pid)
        self._base = anonymous
        self._tree, self._shmem = TreeReader(pid), SharedMemory(pid, other)
        with contextlib.suppress(OSError, AttributeError):
            self.pidfd = os.pidfd_open(pid)

    def look(self) -> int:
        """Bytes that it and what it started hold beyond its base."""
        if self._tree is None or self._shmem is None:
            return self.used
        try:
            tree, _ = self._tree.sample()
        except ReadError:
            return self.used  # it has just ended
        self._present = tree.keys
        other = sum(tree.shared)
        self.other = max(self.other, other)
        at = tree.keys.index(self.key) if self.key in tree.keys else -1
        own = tree.rss[at] - tree.shared[at] - self._base if at >= 0 else 0
        self.used = max(0, own) + self._heirs.bytes(tree) + self._shmem.bytes(other)
        if self.reservation is not None:
            self.reservation.tell(self.used)
        return self.used

    def held_by_kernel(self) -> bool:
        """Whether the worker, or one that it started, waits in the kernel for memory of its group (as far as their main
        threads show)."""
        return any(map(_waits_for_memory, self._present))

    def peak(self, mark: int, other: int) -> int:
        """The most that the task had: of the looks, and of what the worker's own high-water mark says."""
        seen = self.run.peak if self.run is not None else 0
        return max(seen, mark - max(self.other, other) - self._base) if mark else max(seen, self.used)

    def take_back(self, now: float, probe: IdentityProbe) -> list[Task]:
        """What was sent to it and has not begun; now it never will, here.

        On a busy machine, or where it was stopped between two tasks, that may be the one it was thought to work at.
        """
        numbers = set(self.line.take_back())
        back = [task for task in self.tasks if task.job.number in numbers]
        for task in back:
            self.tasks.remove(task)
        run = self.run
        if run is not None and not (self.tasks and self.tasks[0].job is run.job):
            self.run = RunningTask(self.tasks[0].job, run.lease, now) if self.tasks else None
            if run.paused:
                self.go(probe)
        return back

    def signal(self, number: int, probe: IdentityProbe) -> None:
        """Signal the worker and what it started; those who have ended are left out.

        Who is stopped cannot start anybody, so the search ends.
        """
        done: set[ProcessKey] = set()
        for _ in range(8):
            fresh = [key for key in self._members(probe, number == KILL) if key not in done]
            if not fresh:
                break
            for key in fresh:
                done.add(key)
                with contextlib.suppress(ActionFailed):
                    send(key, number, probe)

    def _members(self, probe: IdentityProbe, whole: bool) -> list[ProcessKey]:
        """The worker and what it started; the ``whole`` of its session, too: there those are who lost their parents."""
        if self.key is None or self._tree is None:
            return []
        members = [self.key]
        with contextlib.suppress(ReadError):
            members += self._tree.members()
            if whole:
                members += probe.session(self.key)
        return members

    def stop(self, probe: IdentityProbe) -> None:
        """Let it stand still."""
        self.signal(signal.SIGSTOP, probe)

    def go(self, probe: IdentityProbe) -> None:
        """Let it run on."""
        self.signal(signal.SIGCONT, probe)

    def kill(self, probe: IdentityProbe, why: str) -> None:
        """End it now, with what it started."""
        self.ended_for = self.ended_for or why
        self.leaving = True
        self.signal(KILL, probe)

    def close(self) -> None:
        """Give everything back."""
        self.line.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self._tree is not None:
            self._tree.close()
        self.release()

    def release(self) -> None:
        """Nothing is reserved for it any more."""
        if self.reservation is not None:
            self.reservation.release()
            self.reservation = None


def _waits_for_memory(key: ProcessKey) -> bool:
    try:
        with open(f"/proc/{key.pid}/wchan", "rb", buffering=0) as file:
            return file.read(64).startswith(b"mem_cgroup")
    except OSError:
        return False
