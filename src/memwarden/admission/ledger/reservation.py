"""A reservation, and one that is pending."""

from __future__ import annotations

import contextlib
import time

from memwarden.admission.ledger.accounting import Account
from memwarden.admission.ledger.admission import Admission
from memwarden.admission.ledger.record import WAITING, OwnRecord
from memwarden.admission.ledger.reservation_file import LockBusy
from memwarden.errors import NotAdmitted, SettingsError
from memwarden.model.units import parse_size, size_text

#: Seconds between two readings of the file by the first request in the queue (10 µs), and between two checks of an
#: unchanged one: memory comes back without a change when a holder is killed. The second request does both half as
#: often, and so on, down to a quarter. (A check costs 0.3 to 0.6 ms.)
POLL_SECONDS, CHECK_SECONDS, _MAX_FACTOR = 0.1, 0.8, 4


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
            self._admission.file.remove(self._own)

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
    """A queued request, for callers that cannot block: call :meth:`poll` some times a second."""

    def __init__(self, admission: Admission, own: OwnRecord, account: Account) -> None:
        self._admission, self._own, self._account = admission, own, account
        self._position, self._done = 0, False
        self._checked, self._due = b"", 0.0

    def poll(self) -> Reservation | None:
        """Return the reservation if it is admitted. Raises :class:`DoesNotFit` as :meth:`Ledger.reserve` does.

        It takes some 10 µs while the ledger's file does not change and no check is due.
        """
        if self._own.record.state == WAITING:
            now, content = self._admission.clock.monotonic(), self._admission.file.content()
            if content == self._checked and now < self._due:
                return None
            try:
                self._position, self._account = self._admission.check(self._own)
            except LockBusy:
                return None
            if self._position >= 0:
                self._checked, self._due = content, now + CHECK_SECONDS * min(self._position + 1, _MAX_FACTOR)
                return None
        reservation = Reservation(self._admission, self._own)  # first: it releases itself after an interrupt
        self._done = True
        return reservation

    def wait(self, until: float | None) -> Reservation:
        """Return the reservation when it is admitted; ``until`` is a moment of the ledger's monotonic clock.

        Raises what :meth:`poll` does, and :class:`NotAdmitted`; on any error the request is withdrawn.
        """
        try:
            while (reservation := self.poll()) is None:
                seconds = POLL_SECONDS * min(self._position + 1, _MAX_FACTOR)
                if until is not None:
                    now = self._admission.clock.monotonic()
                    if now >= until:
                        raise self._admission.too_late(self._own.record, self._account)
                    seconds = min(seconds, until - now)
                time.sleep(seconds)
        except BaseException:  # an interrupt, too: the record would stay
            self.cancel()
            raise
        return reservation

    def cancel(self) -> None:
        """Withdraw the request; nothing if it was admitted."""
        if not self._done:
            self._done = True
            self._admission.file.remove(self._own)
