"""A worker process as the executor sees it: its connection, memory, lease and task."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from memwarden.admission.pool.child_memory import ChildMemory
from memwarden.admission.pool.shared_memory import SharedMemory
from memwarden.errors import ActionFailed, ReadError
from memwarden.model.facts import ProcessKey
from memwarden.process.signals import KILL, send
from memwarden.readers.linux.tree import TreeReader

if TYPE_CHECKING:
    from memwarden.admission.ledger.reservation import Reservation
    from memwarden.admission.pool.connection import ResultItem, WorkerConnection
    from memwarden.admission.pool.task import RunningTask
    from memwarden.protocols import IdentityProbe

#: Rounds of a search for processes to signal: a stopped process starts no others, so the search ends.
_ROUNDS = 8


class WorkerHandle:
    """One worker process and the descriptors, memory and task that belong to it."""

    def __init__(self, connection: WorkerConnection, probe: IdentityProbe) -> None:
        self.connection, self._probe = connection, probe
        #: 0 until the worker is ready.
        self.pid = 0
        #: None until the worker is ready, and where it was gone when its message arrived.
        self.key: ProcessKey | None = None
        self.pidfd = -1
        self._tree: TreeReader | None = None
        self._shared: SharedMemory | None = None
        self._children = ChildMemory()
        #: The worker and its children in the last sample.
        self._members: tuple[ProcessKey, ...] = ()
        #: Anonymous bytes when the worker was ready.
        self._base = 0
        self.reservation: Reservation | None = None
        self.run: RunningTask | None = None
        #: Bytes beyond the base, now; and resident bytes of files and shared memory, the most during this task.
        self.used = self._other = 0
        #: Bytes that were in use after the first task.
        self.baseline: int | None = None
        self.tasks_done = 0
        #: The worker takes no more tasks.
        self.leaving = False
        #: Reason for which the executor killed the worker, and whether it was to free memory.
        self.killed_for, self.killed_for_memory = "", False

    @property
    def ready(self) -> bool:
        """True if the worker has reported that it is ready."""
        return self.pid != 0

    @property
    def idle(self) -> bool:
        """True if the worker can start a task at once."""
        return self.ready and self.run is None and not self.leaving

    @property
    def dying(self) -> bool:
        """True if the worker was killed and is not reaped yet."""
        return bool(self.killed_for)

    @property
    def main_thread_ended(self) -> bool:
        """True if the thread that runs the tasks had ended at the last sample: the worker can answer no more."""
        return self._tree is not None and self._tree.first_thread_ended

    @property
    def reserved(self) -> int:
        """Bytes reserved in the ledger."""
        return self.reservation.bytes if self.reservation is not None else 0

    @property
    def held(self) -> int:
        """Bytes that are not available to others."""
        return max(self.reserved, self.used)

    def on_ready(self, item: ResultItem) -> None:
        """Record pid and base of a worker that is ready. Raises :class:`ReadError` where it has ended since."""
        self.pid, self._base = item.number, item.anonymous
        with contextlib.suppress(OSError, AttributeError):  # gone; Linux before 5.3
            self.pidfd = os.pidfd_open(self.pid)
        self.key = self._probe.key_of(self.pid)
        self._tree, self._shared = TreeReader(self.pid), SharedMemory(self.pid, item.other)

    def sample(self) -> int:
        """Return the bytes that the worker and its children use beyond the base."""
        if self._tree is None or self._shared is None:
            return self.used
        try:
            tree, _ = self._tree.sample()
        except ReadError:  # it has just ended
            self.used = 0 if self.dying else self.used
            return self.used
        self._members = tree.keys
        other = sum(tree.shared)
        self._other = max(self._other, other)
        at = tree.keys.index(self.key) if self.key in tree.keys else -1
        own = tree.rss[at] - tree.shared[at] - self._base if at >= 0 else 0
        self.used = max(0, own) + self._children.bytes(tree) + self._shared.bytes(other)
        if self.reservation is not None:
            self.reservation.report_usage(self.used)
        return self.used

    def waits_in_kernel(self) -> bool:
        """Return whether the main thread of the worker or of a child waits for memory of its group."""
        return any(map(_waits_for_memory, self._members))

    def finish(self, item: ResultItem) -> int:
        """End the task and return its peak: the largest sample, or the worker's own resident high-water mark."""
        peak = self.run.peak if self.run is not None else 0
        mark = item.peak - max(self._other, item.other) - self._base if item.peak else self.used
        self._other = 0
        self.tasks_done += 1
        if self.run is not None and self.run.paused:
            self.resume()  # it had finished before it was stopped
        self.run = None
        return max(0, peak, mark)

    def signal(self, number: int) -> None:
        """Signal the worker and its children, as far as they still run."""
        done: set[ProcessKey] = set()
        for _ in range(_ROUNDS):
            fresh = [key for key in self._find_members(session=number == KILL) if key not in done]
            if not fresh:
                break
            for key in fresh:
                done.add(key)
                with contextlib.suppress(ActionFailed):
                    send(key, number, self._probe)

    def _find_members(self, *, session: bool) -> list[ProcessKey]:
        """Return the worker, its children, and with ``session`` the processes there that lost their parents."""
        if self.key is None or self._tree is None:
            return []
        members = [self.key]
        with contextlib.suppress(ReadError):
            members += self._tree.members()
            if session:
                members += self._probe.session(self.key)
        return members

    def pause(self) -> None:
        """Stop the worker and its children (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the worker and its children (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def kill(self, reason: str, *, for_memory: bool = False) -> None:
        """Kill the worker and its children."""
        if not self.killed_for:
            self.killed_for, self.killed_for_memory = reason, for_memory
        self.leaving = True
        self.signal(KILL)

    def stop(self) -> None:
        """Ask an idle worker to exit."""
        self.leaving = True
        self.connection.send(0)
        self.release()

    def release(self) -> None:
        """Release the worker's reservation."""
        if self.reservation is not None:
            self.reservation.release()
            self.reservation = None

    def close(self) -> None:
        """Close all descriptors and release the reservation."""
        self.connection.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self._tree is not None:
            self._tree.close()
        self.release()


def _waits_for_memory(key: ProcessKey) -> bool:
    try:
        with open(f"/proc/{key.pid}/wchan", "rb", buffering=0) as file:
            return file.read(64).startswith(b"mem_cgroup")
    except OSError:
        return False
