"""Reservations of memory that all processes of a host or container share.

Each process judges for itself, under the table's lock, whether it is its turn (:mod:`memwarden.admission.ledger.fairness`) and
whether there is room (:mod:`memwarden.admission.ledger.accounting`). Who has to wait sleeps on a named pipe without any lock.
Whoever returns something rings those whose turn it then is; and because a holder may be killed, memory may come back
without a word, and a bell may be lost, who waits also looks by itself: the first in the line every 0.5 to 0.8 s, and
at once when a holder ends that it can see.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from typing import Any

from memwarden.admission.ledger.accounting import Account, compute
from memwarden.admission.ledger.fairness import MOST_PRIORITY, PATIENCE_SECONDS, Request, admitted
from memwarden.admission.ledger.headroom import Headroom, SystemHeadroom
from memwarden.admission.ledger.reservation_file import (
    HELD,
    LABEL_BYTES,
    WAITING,
    Entry,
    LockBusy,
    Own,
    Record,
    ReservationFile,
    reservation_file_at,
)
from memwarden.errors import DoesNotFit, NotAdmitted, ReadError, SettingsError
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Constraint, Limit
from memwarden.model.serialize import iso
from memwarden.model.units import parse_size, size_text
from memwarden.protocols import Clock, IdentityProbe

#: How often the first in the line looks by itself: so often where it sees the ends of all holders, and so often where
#: it does not. The second looks half as often, and so on, down to a quarter. (A look costs 0.3 to 0.6 ms then, since
#: nothing of it is in the processor's caches.)
LOOK_SECONDS, BLIND_LOOK_SECONDS, _MOST_RARELY = 0.8, 0.5, 4
#: So many of the first in the line also watch for the end of holders, and for no more than so many holders.
_WATCHERS, _WATCHED = 3, 64
#: A look of somebody who waits does not insist on the lock.
_LOOK_PATIENCE = 0.05

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Reservation:
    """Bytes that are this process's to take, until they are returned: by :meth:`release`, or by leaving ``with``.

    One that nobody refers to any more is returned, too, and so is that of a process that ends. A child made by
    ``fork`` has none: what it does with an inherited one changes nothing.
    """

    def __init__(self, ledger: Ledger, own: Own) -> None:
        self._ledger, self._own = ledger, own

    @property
    def bytes(self) -> int:
        """How much is reserved; 0 when it was returned."""
        return self._own.record.bytes if self._ledger._table.holds(self._own) else 0

    @property
    def label(self) -> str:
        """What it is for, as it was said."""
        return self._own.record.label

    @property
    def used(self) -> int | None:
        """What the process that it is for took since it was made; None where that cannot be measured."""
        return self._ledger._used(self._own.record)

    def shrink(self, size: int | str) -> None:
        """Return so many bytes of it: the task has reached its most, and that was less.

        Raises :class:`SettingsError` where it has not got as many.
        """
        count = parse_size(size)
        self._need()
        if count > self._own.record.bytes:
            raise SettingsError(f"shrink by {size_text(count)}: only {size_text(self.bytes)} are reserved")
        self._ledger._table.change(self._own, bytes=self._own.record.bytes - count)
        self._ledger._wake()

    def grow(self, size: int | str, *, in_turn: bool = False) -> bool:
        """Reserve so many bytes more, before all who wait; False when there is no room now.

        It never waits: two who both held memory and waited for more would wait for ever. ``in_turn`` is for new work
        within an old reservation: then those who wait come first.
        """
        count = parse_size(size)
        self._need()
        return self._ledger._grow(self._own, count, in_turn)

    def assign(self, pid: int) -> None:
        """The memory is for another process: a worker, a command. What that takes from now on is counted.

        Else what this process takes is. Raises :class:`ReadError` where there is no such process.
        """
        self._need()
        ledger = self._ledger
        worker = ledger._probe.key_of(pid)
        ledger._table.change(self._own, worker=worker, baseline=ledger._baseline(worker))

    def tell(self, used: int) -> None:
        """What the process that it is for took, with what it started: for who looks at a whole tree anyway, since this
        ledger itself measures one process. Counted until it is told anew, in this process."""
        self._ledger._told[self._own.record.worker] = used

    def release(self) -> None:
        """Return it; once is enough, and more does no harm. It never waits, and never fails."""
        table = self._ledger._table
        if table.holds(self._own):
            self._ledger._told.pop(self._own.record.worker, None)
            table.drop(self._own)
            self._ledger._wake()

    def _need(self) -> None:
        if not self._ledger._table.holds(self._own):
            raise NotAdmitted(
                f"reservation {self.label!r}: it was returned, or belongs to the process that this one was forked"
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
    """A place in the line, for somebody who cannot wait in a call: :meth:`look` when ``fileno()`` is readable, and
    every half second beside (memory may come back without a word).
    """

    def __init__(self, ledger: Ledger, own: Own) -> None:
        self._ledger, self._own = ledger, own
        self._bell = ledger._table.hang_bell(own.record.ticket) if own.record.state == WAITING else -1
        self._left = False

    def fileno(self) -> int:
        """What becomes readable when it may be this one's turn; -1 where it is already."""
        return self._bell

    def look(self) -> Reservation | None:
        """The reservation, when it is this one's turn. Raises :class:`DoesNotFit` as :meth:`Ledger.reserve` does."""
        if self._bell >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)
        if self._own.record.state == WAITING:
            try:
                if self._ledger._look(self._own)[0] >= 0:
                    return None
            except LockBusy:
                return None
        self._take_bell_down()
        self._left = True
        return Reservation(self._ledger, self._own)

    def leave(self) -> None:
        """Give the place up; nothing where the reservation was taken."""
        self._take_bell_down()
        if not self._left:
            self._left = True
            self._ledger._table.drop(self._own)
            self._ledger._wake()

    def _take_bell_down(self) -> None:
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
            self._ledger._table.remove_bell(self._own.record.ticket)


class Ledger:
    """Reservations against a budget that all processes of this user share in a host or container.

    ``budget`` is bytes, ``"4GiB"`` or a share of the effective limit (``"80%"``); where several processes give
    different ones, the smallest counts as long as its giver takes part. Without one the effective headroom counts: the
    least, along the own path of memory groups and for the machine, of the limit minus what is used and cannot be
    reclaimed. It counts beside a given budget, too, and is read anew each time.

    Those who give the same ``name`` share one ledger; ``path`` names its file itself, for containers that share a
    folder. A claim that has waited for ``patience`` seconds is passed by smaller ones no more.
    """

    def __init__(
        self,
        budget: int | str | None = None,
        name: str = "default",
        path: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        clock: Clock | None = None,
        probe: IdentityProbe | None = None,
        surroundings: Headroom | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"ledger name {name!r}: up to 64 letters, digits, dots, hyphens and underscores")
        #: A share of the effective limit, or bytes.
        self._share = budget if isinstance(budget, str) and "%" in budget else None
        self._fixed: int | None = None
        if self._share is not None:
            parse_size(self._share, of=1 << 50)
        elif budget is not None:
            self._fixed = parse_size(budget)
        if not 0 <= patience < math.inf:
            raise SettingsError(f"patience {patience!r}: a number of seconds, 0 or more")
        if probe is None:
            from memwarden.readers.factory import identity_probe

            probe = identity_probe()
        if clock is None:
            from memwarden.engine.clock import SystemClock

            clock = SystemClock()
        if path is None:
            from memwarden.admission.ledger.paths import ledger_path

            path = ledger_path(name)
        self.name, self.path = name, path
        self._patience, self._clock, self._probe = patience, clock, probe
        self._table: ReservationFile = reservation_file_at(path, probe)
        self._surroundings = SystemHeadroom(probe) if surroundings is None else surroundings
        self._begin()
        from memwarden.process.fork_hooks import reset_after_fork

        reset_after_fork(self)

    def _begin(self) -> None:
        self._measuring = threading.Lock()
        #: What processes took, where somebody said it.
        self._told: dict[ProcessKey, int] = {}

    def after_fork(self) -> None:
        """In a child: nothing is reserved, and no lock is held."""
        self._begin()
        self._table.after_fork()
        self._surroundings.after_fork()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # perhaps it was never whole, or the interpreter is ending
            self._table.leave()

    # --- asking ---------------------------------------------------------------------------------------

    def reserve(
        self, size: int | str, *, timeout: float | None = None, label: str = "", priority: int = 0
    ) -> Reservation:
        """Reserve so many bytes; waits until they are there, ``timeout`` seconds at most.

        A step of ``priority`` counts as having waited 10 s. Raises :class:`DoesNotFit` at once for what can never
        be had, and later for what would not fit alone and has waited for the ledger's patience;
        :class:`NotAdmitted` when the time is over; :class:`RecordError` where the ledger's file cannot be used.
        """
        if timeout is not None and not 0 <= timeout < math.inf:
            raise SettingsError(f"timeout {timeout!r}: a number of seconds, 0 or more, or None")
        until = None if timeout is None else self._clock.monotonic() + timeout
        wanted = self._wanted(size, label, priority)
        own, account = self._ask(wanted, wait=timeout != 0)
        if own is None:
            raise self._too_late(wanted, account, 0.0)
        if own.record.state == WAITING:
            self._wait(own, until, account)
        return Reservation(self, own)

    def try_reserve(self, size: int | str, *, label: str = "", priority: int = 0) -> Reservation | None:
        """Reserve so many bytes if they are there now and nobody's turn is before; else None.

        Raises :class:`DoesNotFit` for what can never be had.
        """
        own, _ = self._ask(self._wanted(size, label, priority), wait=False)
        return None if own is None else Reservation(self, own)

    def queue(self, size: int | str, *, label: str = "", priority: int = 0) -> PendingReservation:
        """Take a place in the line without waiting. Raises what :meth:`reserve` does, but for the time."""
        own, _ = self._ask(self._wanted(size, label, priority), wait=True)
        assert own is not None  # who may wait is put in any case
        return PendingReservation(self, own)

    def _wanted(self, size: int | str, label: str, priority: int) -> Record:
        if type(priority) is not int or abs(priority) > MOST_PRIORITY:
            raise SettingsError(f"priority {priority!r}: a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}")
        table = self._table
        label = label.encode("utf-8", "replace")[:LABEL_BYTES].decode("utf-8", "ignore")
        clock, who = self._clock, table.key
        return Record(
            WAITING, priority, 0, 0, parse_size(size), 0, 0, clock.monotonic(), clock.wall(), who, who, 0, label
        )

    def _ask(self, wanted: Record, *, wait: bool) -> tuple[Own | None, Account]:
        """A record that is in, or waits (None: it may not), and the account that it was judged by."""
        made: list[Own] = []
        try:
            return self._judge(wanted, wait, made)
        except BaseException:  # an interrupt after it was put: nobody else would ever return it
            for own in made:
                self._table.drop(own)
            raise

    def _judge(self, wanted: Record, wait: bool, made: list[Own]) -> tuple[Own | None, Account]:
        table = self._table
        with table.alone():
            entries = table.read()
            ticket = max([time.monotonic_ns(), *(entry.record.ticket + 1 for entry in entries)])
            wanted = wanted._replace(ticket=ticket, since=self._clock.monotonic(), owner=table.key, worker=table.key)
            mine = _claim(wanted)
            # A quick look may also find that somebody would not fit alone who does: that one would be passed.
            quickly = all(entry.record.state == HELD for entry in entries)
            for thorough in (False, True) if quickly else (True,):
                if thorough:
                    entries = table.sweep(entries)
                account, smallest = self._reckon(entries, quick=not thorough)
                if thorough:
                    self._refuse_hopeless(wanted, smallest)
                wanted = wanted._replace(budget=self._given(smallest) or 0)
                if mine in self._admitted(entries, account, mine):
                    made.append(table.put(wanted._replace(**self._taken(wanted)), entries))
                    return made[0], account
            if wait:
                made.append(table.put(wanted, entries))
            return (made[0] if made else None), account

    def _wait(self, own: Own, until: float | None, account: Account) -> None:
        table, ticket = self._table, own.record.ticket
        line = _Line(self._probe, table)
        place, seconds = 0, LOOK_SECONDS
        try:
            line.bell = table.hang_bell(ticket)
            while True:
                with contextlib.suppress(LockBusy):
                    place, account, holders = self._look(own)
                    if place < 0:
                        return
                    sees_all = line.watch(holders if place < _WATCHERS else [])
                    seconds = LOOK_SECONDS if sees_all else BLIND_LOOK_SECONDS
                    seconds *= min(place + 1, _MOST_RARELY)
                if until is not None:
                    now = self._clock.monotonic()
                    if now >= until:
                        raise self._too_late(own.record, account, now - own.record.since)
                    line.sleep(min(seconds, until - now))
                else:
                    line.sleep(seconds)
        except BaseException:  # an interrupt, too: the place in the line would be nobody's
            table.remove_bell(ticket)  # first: a bell without a record would stay for ever
            table.drop(own)
            raise
        finally:
            line.close()
            table.remove_bell(ticket)
            self._wake()

    def _look(self, own: Own) -> tuple[int, Account, list[Record]]:
        """One look of somebody who waits: its place in the line (-1: it is in), and who holds something."""
        table = self._table
        with table.alone(_LOOK_PATIENCE):
            entries = table.sweep(table.read())
            record, mine = own.record, _claim(own.record)
            line = sorted(_claims(entries), key=lambda each: each.rank)
            place = line.index(mine) if mine in line else 0
            holders = [entry.record for entry in entries if entry.record.state == HELD]
            account, smallest = self._reckon(entries, blind=True)
            if account.room < record.bytes and self._clock.monotonic() - record.since < self._patience:
                return place, account, holders  # the budget alone says no: the dearer half of a look is not needed
            account, smallest = self._reckon(entries)
            if mine in self._admitted(entries, account):
                table.rewrite(own, **self._taken(record))
                return -1, account, []
            now = self._clock.monotonic()
            self._refuse_hopeless(record, smallest)
            if record.bytes > account.alone and now - record.since >= self._patience:
                raise DoesNotFit(
                    f"{_what(record)}: would not fit even alone, and waited {now - record.since:.0f} s for others to"
                    f" leave; {_left(account)}. Ask for less, or end what else uses memory",
                    asked=record.bytes,
                    budget=account.alone,
                    source=account.source,
                )
            return place, account, holders

    def _grow(self, own: Own, count: int, in_turn: bool) -> bool:
        table, now = self._table, self._clock.monotonic()
        with table.alone():
            entries = table.read()
            larger = own.record._replace(bytes=own.record.bytes + count)
            for thorough in (False, True):
                if thorough:
                    entries = table.sweep(entries)
                if in_turn and any(each.record.state == WAITING for each in entries):
                    account, _ = self._reckon(entries, quick=not thorough)
                    more = Request(max(each.record.ticket for each in entries) + 1, count, now)
                    fits = more in self._admitted(entries, account, more)
                else:
                    changed = [Entry(each.slot, larger) if each.slot == own.slot else each for each in entries]
                    fits = self._reckon(changed, quick=not thorough)[0].room >= 0
                if fits:
                    table.rewrite(own, bytes=larger.bytes)
                    return True
        return False

    def _wake(self) -> None:
        """Ring those whose turn it is now. Without the lock: who is rung looks again for itself."""
        table = self._table
        if not table.anybody_waits():
            return
        entries = table.glance()
        turn = sorted(_claims(entries), key=lambda each: each.rank)[:_WATCHERS]
        if self._measuring.acquire(blocking=False):  # this may be a finalizer inside a measurement
            try:
                with contextlib.suppress(NotAdmitted, SettingsError):  # nothing is known of the memory just now
                    turn = self._admitted(entries, self._account(entries)[0])
            finally:
                self._measuring.release()
        for claim in turn:
            table.ring(claim.ticket)

    # --- judging --------------------------------------------------------------------------------------

    def _admitted(self, entries: list[Entry], account: Account, *more: Request) -> list[Request]:
        now = self._clock.monotonic()
        return admitted([*_claims(entries), *more], account.room, account.alone, now, self._patience)

    def _reckon(
        self, entries: list[Entry], *, quick: bool = False, blind: bool = False
    ) -> tuple[Account, Constraint | None]:
        with self._measuring:
            return self._account(entries, quick, blind)

    def _account(
        self, entries: list[Entry], quick: bool = False, blind: bool = False
    ) -> tuple[Account, Constraint | None]:
        """The sums, and the lowest limit. A quick look may find less headroom than there is, never more: it can admit,
        and cannot refuse. A blind one knows the budgets alone: it cannot admit."""
        nearest, smallest = (None, None) if blind else self._surroundings.look(quick)
        held = [entry.record for entry in entries if entry.record.state == HELD]
        budget = None
        if not (blind and self._share) and (given := self._given(smallest)) is not None:
            budget = Limit(given, "the given budget")
        for _, record in entries:
            if record.budget and (budget is None or record.budget < budget.bytes):
                budget = Limit(record.budget, f"the budget given by process {record.owner.pid}")
        if budget is None and nearest is None and not blind:
            raise NotAdmitted("nothing is known of this machine's memory; give the ledger a budget")
        account = compute(held, budget, nearest, self._held)
        self._surroundings.forget_all_but({self._table.key, *(record.worker for record in held)})
        return account, smallest

    def _held(self, record: Record) -> int | None:
        if (told := self._told.get(record.worker)) is not None:
            return record.baseline + told
        return self._surroundings.held(record.worker) if record.pidns == self._table.pidns else None

    def _used(self, record: Record) -> int | None:
        with self._measuring:
            now = self._held(record)
        return None if now is None else max(0, now - record.baseline)

    def _baseline(self, worker: ProcessKey) -> int:
        with self._measuring:
            return self._surroundings.held(worker) or 0

    def _given(self, smallest: Constraint | None) -> int | None:
        if self._share is None:
            return self._fixed
        return parse_size(self._share, of=None if smallest is None else smallest.limit.bytes)

    def _taken(self, record: Record) -> dict[str, Any]:
        """What changes in the record of who is let in now."""
        baseline = self._baseline(record.worker)
        return {"state": HELD, "baseline": baseline, "since": self._clock.monotonic(), "wall": self._clock.wall()}

    def _refuse_hopeless(self, record: Record, smallest: Constraint | None) -> None:
        limits = [] if smallest is None else [smallest.limit]
        if (given := self._given(smallest)) is not None:
            limits.append(Limit(given, "the given budget"))
        if not limits:
            return
        least = min(limits, key=lambda each: each.bytes)
        if record.bytes > least.bytes:
            raise DoesNotFit(
                f"{_what(record)}: can never fit, {least.source} has {size_text(least.bytes)}; ask for less, split"
                " the work, or raise that limit",
                asked=record.bytes,
                budget=least.bytes,
                source=least.source,
            )

    def _too_late(self, record: Record, account: Account, waited: float) -> NotAdmitted:
        return NotAdmitted(
            f"{_what(record)}: not admitted within {waited:.1f} s; {_left(account)}. Wait longer, or ask for less"
        )

    # --- showing --------------------------------------------------------------------------------------

    def account(self) -> Account:
        """The sums as they are now: what is committed, used, and left. Raises :class:`RecordError`."""
        table = self._table
        with table.alone():
            entries = table.sweep(table.read())
            return self._reckon(entries)[0]

    @property
    def contended(self) -> bool:
        """Whether somebody waits for room (a glance without the lock, some microseconds)."""
        return self._table.anybody_waits()

    def state(self) -> dict[str, Any]:
        """Who holds what, who waits, and what is left and why, as a dict that JSON can hold."""
        table = self._table
        with table.alone():
            entries = table.sweep(table.read())
            account, _ = self._reckon(entries)
        now = self._clock.monotonic()
        budget, nearest = account.budget, account.nearest

        def shown(record: Record) -> dict[str, Any]:
            row: dict[str, Any] = {
                "pid": record.owner.pid,
                "label": record.label,
                "priority": record.priority,
                "reserved_bytes": record.bytes,
            }
            if record.state == HELD:
                row["used_bytes"] = self._used(record)
                if record.worker != record.owner:
                    row["worker_pid"] = record.worker.pid
            return {**row, "since": iso(record.wall), "age_seconds": round(max(0.0, now - record.since), 3)}

        waiting = sorted((entry.record for entry in entries if entry.record.state == WAITING), key=_rank)
        return {
            "schema": 1,
            "type": "ledger",
            "name": self.name,
            "path": self.path,
            "budget_bytes": None if budget is None else budget.bytes,
            "budget_source": None if budget is None else budget.source,
            "headroom_bytes": None if nearest is None else nearest.headroom,
            "headroom_source": None if nearest is None else nearest.limit.source,
            "reserved_bytes": account.reserved,
            "used_bytes": account.used,
            "committed_bytes": account.committed,
            "room_bytes": max(0, account.room),
            "room_source": account.source,
            "holders": [shown(entry.record) for entry in entries if entry.record.state == HELD],
            "waiters": [shown(record) for record in waiting],
            "troubles": list(table.troubles),
        }


class _Line:
    """What one who waits sleeps on: its bell, and the ends of those who hold something."""

    def __init__(self, probe: IdentityProbe, table: ReservationFile) -> None:
        self._probe, self._table = probe, table
        self.bell = -1
        self._ends: dict[ProcessKey, int] = {}

    def watch(self, holders: list[Record]) -> bool:
        """Wake up at the end of these, as far as they can be seen from here; whether all can."""
        if not hasattr(os, "pidfd_open"):
            return False
        wanted = {record.owner for record in holders[:_WATCHED] if record.pidns == self._table.pidns}
        for key in set(self._ends) - wanted:
            self._forget(key)
        for key in wanted - set(self._ends) - {self._table.key}:
            try:
                fd = os.pidfd_open(key.pid)
            except OSError:
                continue
            self._ends[key] = fd
            with contextlib.suppress(ReadError):
                if self._probe.key_of(key.pid) == key:
                    continue
            self._forget(key)
        seen = {*self._ends, self._table.key}
        return all(record.owner in seen and record.pidns == self._table.pidns for record in holders)

    def sleep(self, seconds: float) -> None:
        """Until the bell rings, a holder ends, or so long."""
        import select

        poll = select.poll()
        poll.register(self.bell, select.POLLIN)
        for fd in self._ends.values():
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(math.ceil(seconds * 1000))}
        if self.bell in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.bell, 4096)
        for key, fd in self._ends.items():
            if fd in ready:  # it stays ready for ever
                os.close(fd)
                self._ends[key] = -1

    def _forget(self, key: ProcessKey) -> None:
        fd = self._ends.pop(key)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        for key in list(self._ends):
            self._forget(key)
        if self.bell >= 0:
            os.close(self.bell)


def _claim(record: Record) -> Request:
    return Request(record.ticket, record.bytes, record.since, record.priority)


def _rank(record: Record) -> tuple[float, int]:
    return _claim(record).rank


def _claims(entries: list[Entry]) -> list[Request]:
    return [_claim(entry.record) for entry in entries if entry.record.state == WAITING]


def _what(record: Record) -> str:
    return f"{record.label or 'a reservation'} of {size_text(record.bytes)}"


def _left(account: Account) -> str:
    text = f"{size_text(max(0, account.room))} left by {account.source}, {size_text(account.committed)} spoken for"
    if account.nearest is not None:
        text += f", {account.nearest.limit.source} has {size_text(account.nearest.headroom)} of headroom"
    return text


_default: dict[str, Ledger] = {}


def admit(estimate: int | str, name: str = "", *, timeout: float | None = None, priority: int = 0) -> Reservation:
    """Wait until so many bytes may be taken here, and hold them: ``with admit("2GiB", "load the index"):``.

    Uses this user's default ledger, so that all programs that ask get out of each other's way. ``name`` says what it
    is for. Raises what :meth:`Ledger.reserve` does.
    """
    ledger = _default.get("default")
    if ledger is None:
        ledger = _default.setdefault("default", Ledger())
    return ledger.reserve(estimate, timeout=timeout, label=name, priority=priority)
