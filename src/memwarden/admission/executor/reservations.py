"""An executor's reservations in the ledger, and its request in the ledger's queue."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memwarden.errors import MemwardenError, NotAdmitted, ReadError
from memwarden.model.log import debug
from memwarden.model.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memwarden.admission.ledger.ledger import Ledger
    from memwarden.admission.ledger.reservation import PendingReservation, Reservation
    from memwarden.admission.pool.task import WorkItem
    from memwarden.admission.pool.worker_handle import WorkerHandle

#: Share of the budget that is not given out where only sampling holds the workers: growth between two samples.
MARGIN_SHARE = 0.03
#: Seconds between two checks of a request in the queue.
CHECK_SECONDS = 0.03
#: A worker that finishes a task returns memory when others wait; that is read this often (20 µs a time).
CONTENDED_SECONDS = 0.02
_PAGE = 4096


class ReservationClient:
    """Reservations for the workers of one executor. Used by its manager thread alone."""

    def __init__(self, ledger: Ledger, label: str, *, enforced: bool) -> None:
        self._ledger, self._label = ledger, label
        self._margin_share = 0.0 if enforced else MARGIN_SHARE
        #: Bytes that all workers together may use now, and one without others.
        self.budget = self.alone = 0
        #: Bytes reserved by others.
        self._others = 0
        self._pending: PendingReservation | None = None
        self._checked_at = self._contended_at = 0.0
        self._contended = False
        self._granted: Reservation | None = None

    @property
    def margin(self) -> int:
        """Bytes of the budget that are not given out."""
        return int(self.alone * self._margin_share)

    def contended(self, now: float) -> bool:
        """Return whether a request waits in the ledger, of this program or another; read at most every 20 ms."""
        if now - self._contended_at >= CONTENDED_SECONDS:
            self._contended_at, self._contended = now, self._ledger.contended
        return self._contended

    @property
    def granted(self) -> bool:
        """True when the request of the first pending task was granted."""
        return self._granted is not None

    def refresh(self, held: int) -> None:
        """Read the budget from the ledger, where our workers hold ``held`` bytes."""
        try:
            account = self._ledger.account()
        except MemwardenError as error:
            debug("executor: %s", error)
            return
        margin = int(account.capacity * self._margin_share)
        self._others = account.committed - held
        self.budget = max(0, account.free + held - margin)
        self.alone = max(0, account.capacity - margin)

    def lease(self, handle: WorkerHandle, size: int, *, in_turn: bool = True) -> bool:
        """Set a worker's reservation to ``size`` bytes; False where there is no free memory for it."""
        size = max(size, _PAGE)
        own = handle.reservation
        try:
            if own is None:
                handle.reservation = self._ledger.try_reserve(size, label=self._label)
                self.assign(handle)
                return handle.reservation is not None
            if size > own.bytes:
                return own.grow(size - own.bytes, in_turn=in_turn)
            if size < own.bytes:
                own.shrink(own.bytes - size)
        except (NotAdmitted, ReadError):
            return False
        except MemwardenError as error:  # the ledger's file: locked for long, full, gone
            debug("executor: %s", error)
            return False
        return True

    def assign(self, handle: WorkerHandle) -> None:
        """Count a worker's memory against its reservation, as soon as the worker is ready."""
        if handle.reservation is not None and handle.key is not None:
            with contextlib.suppress(MemwardenError):
                handle.reservation.assign(handle.key.pid)

    def kept(self, handle: WorkerHandle) -> int:
        """Return the bytes that stay reserved for an idle worker."""
        return max(_PAGE, handle.used)

    def shrink_idle(self, handles: Iterable[WorkerHandle]) -> None:
        """Shrink the reservations of those workers that are idle to what they use."""
        for handle in handles:
            own, kept = handle.reservation, self.kept(handle)
            if own is not None and handle.idle and own.bytes > kept + MIB:
                with contextlib.suppress(MemwardenError):
                    own.shrink(own.bytes - kept)

    # --- the request in the queue -----------------------------------------------------------------------

    def enqueue(self, item: WorkItem, now: float) -> None:
        """Request memory for the first pending task, where others hold it."""
        if self._pending is not None or self._granted is not None or item.exclusive or not item.reserve:
            return
        if self._others < MIB and not self._ledger.contended:
            return
        try:
            self._pending = self._ledger.enqueue(item.reserve, label=self._label)
        except MemwardenError as error:
            debug("executor: no request could be queued: %s", error)
            return
        self._checked_at = now

    def check(self, now: float) -> None:
        """Check whether the request is granted."""
        if self._pending is None or now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            self._granted = self._pending.poll()
        except MemwardenError as error:
            debug("executor: %s", error)
            self.withdraw()
            return
        if self._granted is not None:
            self._pending = None

    def transfer(self, handle: WorkerHandle) -> None:
        """Give the granted reservation to a worker."""
        handle.release()
        handle.reservation, self._granted = self._granted, None
        self.assign(handle)

    def withdraw(self) -> None:
        """Withdraw the request and release what was granted."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        if self._granted is not None:
            self._granted.release()
            self._granted = None
