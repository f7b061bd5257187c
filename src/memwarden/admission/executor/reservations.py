"""What an executor has of the ledger: how much it might use, what it holds, and its place in the ledger's line."""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING

from memwarden.errors import MemwardenError, NotAdmitted, ReadError
from memwarden.model.log import debug
from memwarden.model.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memwarden.admission.executor.scheduler import PendingTask
    from memwarden.admission.ledger.ledger import Ledger, PendingReservation, Reservation
    from memwarden.admission.pool.worker_handle import WorkerHandle

#: Where only looking holds the workers, so much of the budget is not given out: what may be taken between two looks.
MARGIN_SHARE = 0.03
#: A place in the ledger's line is asked for so often, if its bell does not ring.
PLACE_SECONDS = 0.5
_PAGE = 4096


class ReservationClient:
    """Leases for the workers of one executor. Used by its supervising thread alone."""

    def __init__(self, ledger: Ledger, label: str, poll: select.poll, *, held_by_kernel: bool) -> None:
        self._ledger, self._label, self._poll = ledger, label, poll
        self._share = 0.0 if held_by_kernel else MARGIN_SHARE
        #: Bytes that all workers together might use now, and one alone if nobody else took part.
        self.whole = self.alone = 0
        #: What others have in the ledger.
        self._strangers = 0
        self._place: PendingReservation | None = None
        self._looked = 0.0
        self._granted: Reservation | None = None

    @property
    def margin(self) -> int:
        """What is kept back of the budget."""
        return int(self.alone * self._share)

    @property
    def contended(self) -> bool:
        """Whether somebody waits for memory, in this program or another."""
        return self._ledger.contended

    @property
    def granted(self) -> bool:
        """Whether the first who waits has got its turn."""
        return self._granted is not None

    def take_stock(self, held: int) -> None:
        """What the ledger says that there is now, beside the bytes that our workers have ``held``."""
        try:
            account = self._ledger.account()
        except MemwardenError as error:
            debug("executor: %s", error)
            return
        margin = int(account.alone * self._share)
        self._strangers = account.committed - held
        self.whole = max(0, account.room + held - margin)
        self.alone = max(0, account.alone - margin)

    def room(self, held: int) -> int:
        """Bytes that nobody holds, where our workers have so many."""
        return self.whole - held

    def lease(self, seat: WorkerHandle, size: int, *, in_turn: bool = True) -> bool:
        """Have so many bytes reserved for a worker; False where there is no room now."""
        size = max(size, _PAGE)
        try:
            own = seat.reservation
            if own is None:
                own = self._ledger.try_reserve(size, label=self._label)
                if own is None:
                    return False
                seat.reservation = own
                self.assign(seat)
            elif size > own.bytes:
                return own.grow(size - own.bytes, in_turn=in_turn)
            elif size < own.bytes:
                own.shrink(own.bytes - size)
        except (NotAdmitted, ReadError):
            return False
        except MemwardenError as error:  # the ledger's file: locked for long, full, gone
            debug("executor: %s", error)
            return False
        return True

    def assign(self, seat: WorkerHandle) -> None:
        """What the worker takes is counted, as soon as it is there."""
        if seat.reservation is not None and seat.key is not None:
            with contextlib.suppress(MemwardenError):
                seat.reservation.assign(seat.key.pid)

    def keeps(self, seat: WorkerHandle) -> int:
        """Bytes that stay reserved for an idle worker."""
        return max(_PAGE, seat.used)

    def give_back(self, seat: WorkerHandle) -> None:
        """An idle worker keeps reserved what it holds, and no more."""
        keep = self.keeps(seat)
        if seat.reservation is not None and seat.reserved > keep + MIB:
            with contextlib.suppress(MemwardenError):
                seat.reservation.shrink(seat.reserved - keep)

    def give_back_idle(self, seats: Iterable[WorkerHandle]) -> None:
        """The same for those of these workers that are idle."""
        for seat in seats:
            if not seat.tasks and seat.ready:
                self.give_back(seat)

    # --- the line -------------------------------------------------------------------------------------

    def stand_in_line(self, job: PendingTask, now: float) -> None:
        """Others have memory that the first who waits here needs: it waits among theirs, too."""
        if self._place is not None or self._granted is not None or job.alone or not job.reserve:
            return
        if self._strangers < MIB and not self._ledger.contended:
            return
        try:
            self._place = self._ledger.queue(job.reserve, label=self._label)
        except MemwardenError as error:
            debug("executor: no place in the line: %s", error)
            return
        self._looked = now
        if self._place.fileno() >= 0:
            self._poll.register(self._place.fileno(), select.POLLIN)

    def rang(self, fd: int) -> bool:
        """Whether this is the bell of our place."""
        if self._place is None or self._place.fileno() != fd:
            return False
        self._looked = 0.0
        return True

    def ask(self, now: float) -> None:
        """Is it our turn?"""
        if self._place is None or now - self._looked < PLACE_SECONDS:
            return
        self._looked = now
        fd = self._place.fileno()
        try:
            self._granted = self._place.look()
        except MemwardenError as error:
            debug("executor: %s", error)
            self.leave_line()
            return
        if self._granted is not None:
            self._place = None
            if fd >= 0:
                self._poll.unregister(fd)

    def hand_over(self, seat: WorkerHandle) -> None:
        """What was granted is for this worker."""
        seat.release()
        seat.reservation, self._granted = self._granted, None
        self.assign(seat)

    def leave_line(self) -> None:
        """Nobody waits any more, or another one does."""
        if self._place is not None:
            if self._place.fileno() >= 0:
                self._poll.unregister(self._place.fileno())
            self._place.leave()
            self._place = None
        if self._granted is not None:
            self._granted.release()
            self._granted = None
