"""A reservation, and one that is pending."""

from __future__ import annotations

import contextlib
import math
import os
import select

from memwarden.admission.ledger import fifo
from memwarden.admission.ledger.accounting import Account
from memwarden.admission.ledger.admission import Admission
from memwarden.admission.ledger.record import WAITING, OwnRecord
from memwarden.admission.ledger.reservation_file import LockBusy
from memwarden.errors import NotAdmitted, SettingsError
from memwarden.model.units import parse_size, size_text

#: Seconds between two checks of the first request in the queue: memory comes back without a wake-up when a holder is
#: killed. The second checks half as often, and so on, down to a quarter. (A check costs 0.3 to 0.6 ms.)
CHECK_SECONDS, _MAX_FACTOR = 0.8, 4


class Reservation:
    """Bytes that this process may take until it releases them: by :meth:`release`, or at the end of ``with``.

    A reservation without references is released, too, and so are those of a process that ends. A child made by
    ``fork`` has none: an inherited one does nothing there.
    """

    def __init__(self, admission: Admission, own: OwnRecord) -> None:
        self._admission, self._own = admission, own

    @property
    def bytes(self) -> int:
        """Return the reserved bytes; 0 after the release."""
        return self._own.record.bytes if self._admission.file.owns(self._own) else 0

    @property
    def label(self) -> str:
        """Return the label that it was made with."""
        return self._own.record.label

    @property
    def used(self) -> int | None:
        """Return what its process took since it was made; None where that cannot be measured."""
        return self._admission.accounts.used(self._own.record)

    def shrink(self, size: int | str) -> None:
        """Release so many bytes of it: the task has passed its peak, and that was less.

        Raises :class:`SettingsError` if it has fewer.
        """
        count = parse_size(size)
        self._need()
        if count > self._own.record.bytes:
            raise SettingsError(f"shrink by {size_text(count)}: only {size_text(self.bytes)} are reserved")
        self._admission.file.update(self._own, bytes=self._own.record.bytes - count)
        self._admission.wake_next()

    def grow(self, size: int | str, *, in_turn: bool = False) -> bool:
        """Reserve so many bytes more, before all waiting requests; False when they are not free now.

        It never waits: two holders that waited for more would wait for ever. ``in_turn`` is for new work within an
        old reservation: then waiting requests come first.
        """
        count = parse_size(size)
        self._need()
        return self._admission.grow(self._own, count, in_turn)

    def assign(self, pid: int) -> None:
        """Count the memory of another process, a worker or a command, from now on, instead of this process's.

        Raises :class:`ReadError` where there is no such process.
        """
        self._need()
        self._admission.assign(self._own, pid)

    def report_usage(self, used: int) -> None:
        """Set what its process took, with all that it started. For callers that measure a whole tree anyway: the
        ledger itself measures one process. It counts in this process until it is set again."""
        self._admission.accounts.reported[self._own.record.worker] = used

    def release(self) -> None:
        """Release it; a second call does nothing. It never waits, and never fails."""
        if self._admission.file.owns(self._own):
            self._admission.accounts.reported.pop(self._own.record.worker, None)
            self._admission.release(self._own)

    def _need(self) -> None:
        if not self._admission.file.owns(self._own):
            raise NotAdmitted(
                f"reservation {self.label!r}: it was released, or belongs to the process that this one was forked"
                " from; reserve anew"
            )

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # perhaps the interpreter is ending
            self.release()

    def __repr__(self) -> str:
        return f"<Reservation {self.label!r} of {size_text(self.bytes)}>"


class PendingReservation:
    """A queued request, for callers that cannot block: :meth:`poll` when ``fileno()`` is readable, and every half
    second, too (memory may be freed without a wake-up).
    """

    def __init__(self, admission: Admission, own: OwnRecord, account: Account) -> None:
        self._admission, self._own, self._account = admission, own, account
        self._pipe, self._position, self._done = -1, 0, False
        if own.record.state == WAITING:
            try:
                self._pipe = admission.file.create_fifo(own.record.ticket)
            except BaseException:  # an interrupt, too: the record would stay
                self.cancel()
                raise

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the request may be admitted; -1 if it is already."""
        return self._pipe

    def poll(self) -> Reservation | None:
        """Return the reservation if it is admitted. Raises :class:`DoesNotFit` as :meth:`Ledger.reserve` does."""
        if self._pipe >= 0:
            fifo.drain(self._pipe)
        if self._own.record.state == WAITING:
            try:
                self._position, self._account = self._admission.check(self._own)
            except LockBusy:
                return None
            if self._position >= 0:
                return None
            self._admission.wake_next()
        reservation = Reservation(self._admission, self._own)  # first: it releases itself after an interrupt
        self._close_pipe()
        self._done = True
        return reservation

    def wait(self, until: float | None) -> Reservation:
        """Return the reservation when it is admitted; ``until`` is a moment of the ledger's monotonic clock.

        Raises what :meth:`poll` does, and :class:`NotAdmitted`; on any error the request is withdrawn.
        """
        try:
            while (reservation := self.poll()) is None:
                seconds = CHECK_SECONDS * min(self._position + 1, _MAX_FACTOR)
                if until is not None:
                    now = self._admission.clock.monotonic()
                    if now >= until:
                        raise self._admission.too_late(self._own.record, self._account)
                    seconds = min(seconds, until - now)
                waker = select.poll()
                waker.register(self._pipe, select.POLLIN)
                waker.poll(math.ceil(seconds * 1000))
        except BaseException:  # an interrupt, too: the record would stay
            self.cancel()
            raise
        return reservation

    def cancel(self) -> None:
        """Withdraw the request; nothing if it was admitted."""
        self._close_pipe()  # first: a pipe without a record would stay for ever
        if not self._done:
            self._done = True
            self._admission.release(self._own)

    def _close_pipe(self) -> None:
        if not self._done:
            fifo.remove_fifo(self._admission.file.path, self._own.record.ticket)
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
