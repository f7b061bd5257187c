"""Waiting for a reservation.

A waiting process sleeps on its named pipe, without the lock; a release wakes those that fit then. A holder may be
killed, or a wake-up be lost: so it also checks by itself, the first in the queue every 0.5 to 0.8 s, and at once when
a holder ends that it can see.
"""

from __future__ import annotations

import contextlib
import math
import os
import select

from memwarden.admission.ledger import fifo
from memwarden.admission.ledger.accounting import Account
from memwarden.admission.ledger.admission import FIRST_WAITERS, Admission
from memwarden.admission.ledger.record import OwnRecord, Record
from memwarden.admission.ledger.reservation_file import LockBusy
from memwarden.model.facts import ProcessKey

#: Seconds between two checks of the first waiter: where it sees the ends of all holders, and where it does not. The
#: second checks half as often, and so on, down to a quarter. (A check costs 0.3 to 0.6 ms with cold processor caches.)
CHECK_SECONDS, BLIND_CHECK_SECONDS, _MAX_FACTOR = 0.8, 0.5, 4
#: Only so many holders are watched.
_MAX_WATCHED = 64


def wait(admission: Admission, own: OwnRecord, until: float | None, account: Account) -> None:
    """Wait until a record is admitted; on any error it is removed. ``until`` is a moment of the monotonic clock."""
    file, ticket, clock = admission.file, own.record.ticket, admission.clock
    position, seconds = 0, CHECK_SECONDS
    waiter = None
    try:
        waiter = _Waiter(admission, file.create_fifo(ticket))
        while True:
            with contextlib.suppress(LockBusy):
                position, account, held = admission.check(own)
                if position < 0:
                    return
                sees_all = waiter.watch(held if position < FIRST_WAITERS else [])
                seconds = CHECK_SECONDS if sees_all else BLIND_CHECK_SECONDS
                seconds *= min(position + 1, _MAX_FACTOR)
            if until is not None:
                now = clock.monotonic()
                if now >= until:
                    raise admission.too_late(own.record, account)
                waiter.sleep(min(seconds, until - now))
            else:
                waiter.sleep(seconds)
    except BaseException:  # an interrupt, too: the record would stay
        fifo.remove_fifo(file.path, ticket)  # first: a pipe without a record would stay for ever
        file.remove(own)
        raise
    finally:
        if waiter is not None:
            waiter.close()
        fifo.remove_fifo(file.path, ticket)
        admission.wake_next()


class _Waiter:
    """Sleeps on its pipe and on the ends of holders."""

    def __init__(self, admission: Admission, pipe: int) -> None:
        self._admission, self._pipe = admission, pipe
        self._pidfds: dict[ProcessKey, int] = {}

    def watch(self, held: list[Record]) -> bool:
        """Wake up at the ends of these records' owners; return whether all of them can be seen from here."""
        if not hasattr(os, "pidfd_open"):
            return False
        file = self._admission.file
        wanted = {record.owner for record in held[:_MAX_WATCHED] if record.pidns == file.pidns}
        for key in set(self._pidfds) - wanted:
            self._forget(key)
        for key in wanted - set(self._pidfds) - {file.key}:
            try:
                self._pidfds[key] = os.pidfd_open(key.pid)
            except OSError:
                continue
            if self._admission.key_of(key.pid) != key:
                self._forget(key)
        seen = {*self._pidfds, file.key}
        return all(record.owner in seen and record.pidns == file.pidns for record in held)

    def sleep(self, seconds: float) -> None:
        """Sleep so long, or until it is woken or a holder ends."""
        poll = select.poll()
        for fd in (self._pipe, *self._pidfds.values()):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(math.ceil(seconds * 1000))}
        if self._pipe in ready:
            fifo.drain(self._pipe)
        for key, fd in self._pidfds.items():
            if fd in ready:  # it stays ready for ever
                os.close(fd)
                self._pidfds[key] = -1

    def _forget(self, key: ProcessKey) -> None:
        fd = self._pidfds.pop(key)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        for key in list(self._pidfds):
            self._forget(key)
        os.close(self._pipe)
