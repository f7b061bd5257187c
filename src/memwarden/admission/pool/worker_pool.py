"""The workers of an executor: hired, met, sent home, and buried."""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memwarden.admission.pool.connection import WorkerConnection
from memwarden.admission.pool.worker_handle import WorkerHandle
from memwarden.errors import MemwardenError, ReadError
from memwarden.model.units import MIB
from memwarden.process.signals import KILL

if TYPE_CHECKING:
    from memwarden.admission.pool.connection import Answer
    from memwarden.admission.pool.fork_server import Spawner
    from memwarden.protocols import IdentityProbe

#: Workers that were sent home have so many seconds to go, all together.
LEAVE_SECONDS = 10.0


class WorkerPool:
    """All seats, each with its descriptors in the supervisor's poll. Used by that thread alone."""

    def __init__(self, nursery: Spawner, poll: select.poll, probe: IdentityProbe) -> None:
        self._nursery, self._poll, self._probe = nursery, poll, probe
        self._seats: dict[int, WorkerHandle] = {}  # by the line's descriptor
        self._ends: dict[int, WorkerHandle] = {}  # by the process's descriptor
        self._closed: set[int] = set()  # descriptors of those who were buried since the last poll

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[WorkerHandle]:
        return iter(list(self._seats.values()))

    @property
    def idle(self) -> list[WorkerHandle]:
        """Those who wait for a task."""
        return [seat for seat in self._seats.values() if not seat.tasks and seat.ready and not seat.leaving]

    @property
    def spare(self) -> WorkerHandle | None:
        """One who is not ready yet and has no task: it was begun for one whose memory somebody else got meanwhile."""
        return next((seat for seat in self if not seat.ready and not seat.tasks and not seat.leaving), None)

    @property
    def watched(self) -> list[WorkerHandle]:
        """Those who work, and whose memory can be looked at."""
        return [seat for seat in self._seats.values() if seat.run is not None and seat.ready and not seat.dying]

    @property
    def staying(self) -> int:
        """How many will take another task."""
        return sum(not seat.leaving for seat in self._seats.values())

    @property
    def working(self) -> bool:
        """Whether anybody has a task."""
        return any(seat.tasks for seat in self._seats.values())

    @property
    def dying(self) -> bool:
        """Whether somebody was ended and is not gone yet."""
        return any(seat.dying for seat in self._seats.values())

    @property
    def used(self) -> int:
        """Bytes that all of them hold."""
        return sum(seat.used for seat in self._seats.values())

    @property
    def held(self) -> int:
        """Bytes that nobody else can have."""
        return sum(seat.held for seat in self._seats.values())

    @property
    def lends(self) -> bool:
        """Whether somebody has reserved what it does not use."""
        return any(seat.reserved > seat.used + MIB for seat in self._seats.values())

    def polled(self) -> None:
        """From here on descriptors are those of a new poll."""
        self._closed.clear()

    def speaker(self, fd: int) -> WorkerHandle | None:
        """Whose line this descriptor was when it was polled."""
        return None if fd in self._closed else self._seats.get(fd)

    def ended(self, fd: int) -> WorkerHandle | None:
        """Whose process this descriptor was when it was polled."""
        return None if fd in self._closed else self._ends.get(fd)

    def hire(self) -> WorkerHandle:
        """Begin a worker; it is ready when it says so. Raises OSError."""
        line, ends = WorkerConnection.open()
        try:
            self._nursery.start(ends)
        except BaseException:
            line.close()
            raise
        finally:
            ends.close()
        seat = WorkerHandle(line)
        fd = line.fileno()
        self._seats[fd] = seat
        self._poll.register(fd, select.POLLIN)
        return seat

    def meet(self, seat: WorkerHandle, said: Answer) -> bool:
        """It is ready; False where it has ended again (its line will say so)."""
        try:
            seat.meet(said.number, said.anonymous, said.other, self._probe)
        except ReadError:
            return False
        if seat.pidfd >= 0:
            self._ends[seat.pidfd] = seat
            self._poll.register(seat.pidfd, select.POLLIN)
        return True

    def send(self, seat: WorkerHandle, number: int, payload: bytes) -> None:
        """A task for it: as much of it as goes now."""
        seat.line.send(number, payload)
        if seat.line.full:
            self._poll.modify(seat.line.fileno(), select.POLLIN | select.POLLOUT)

    def flush(self, seat: WorkerHandle) -> None:
        """More of it goes now."""
        seat.line.flush()
        if not seat.line.full:
            self._poll.modify(seat.line.fileno(), select.POLLIN)

    def retire(self, seat: WorkerHandle) -> None:
        """Send an idle one home."""
        seat.leaving = True
        seat.line.send(0)
        seat.release()

    def bury(self, seat: WorkerHandle) -> tuple[bool, int | None]:
        """It has ended, and so is what it had started. Whether it was still here, and its exit code, where known."""
        fd = seat.line.fileno()
        if self._seats.pop(fd, None) is None:
            return False, None
        self._poll.unregister(fd)
        if seat.pidfd >= 0 and self._ends.pop(seat.pidfd, None) is not None:
            self._poll.unregister(seat.pidfd)
        self._closed.update((fd, seat.pidfd))  # another worker may get these numbers before they are asked for
        seat.signal(KILL, self._probe)
        code = self._nursery.bury(seat.key.pid) if seat.key is not None else None
        seat.close()
        return True, code

    def forget(self) -> None:
        """In a child after fork: close its copies of the lines, so that the workers notice when the parent ends."""
        for seat in self:
            seat.line.close()

    def close(self, *, at_once: bool) -> None:
        """Send all home, or end them ``at_once``; wait until they are gone."""
        for seat in self:
            with contextlib.suppress(OSError, MemwardenError):
                if at_once or seat.tasks:
                    seat.kill(self._probe, "the executor ends")
                elif not seat.leaving:
                    self.retire(seat)
        until = time.monotonic() + LEAVE_SECONDS
        for seat in self:
            self._await_end(seat, until)
        self._nursery.close()

    def _await_end(self, seat: WorkerHandle, until: float) -> None:
        """Wait for a worker that was sent home; one that has not gone by then is ended, and so is what it started."""
        poll = select.poll()
        poll.register(seat.line.fileno(), select.POLLIN)
        if seat.pidfd >= 0:  # its connection may be open in a child of its own, or closed before its end
            poll.register(seat.pidfd, select.POLLIN)
        gone = False
        while not gone and (left := until - time.monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(math.ceil(left * 1000))]
            seat.line.read()
            gone = seat.pidfd in ready if seat.pidfd >= 0 else seat.line.ended
            if seat.line.ended and seat.pidfd >= 0 and not gone:
                poll = select.poll()
                poll.register(seat.pidfd, select.POLLIN)
        if seat.key is not None:
            seat.kill(self._probe, "it did not end")
            self._nursery.bury(seat.key.pid)
        seat.close()
