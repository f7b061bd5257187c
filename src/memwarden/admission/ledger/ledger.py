"""Reservations of memory that all processes of a host or container share."""

from __future__ import annotations

import math
import re
from typing import Any

from memwarden.admission.ledger.accounting import Account
from memwarden.admission.ledger.accounts import Accounts
from memwarden.admission.ledger.admission import Admission, as_request
from memwarden.admission.ledger.fairness import MAX_PRIORITY, PATIENCE_SECONDS
from memwarden.admission.ledger.headroom import Headroom, SystemHeadroom
from memwarden.admission.ledger.record import HELD, LABEL_BYTES, WAITING, Record
from memwarden.admission.ledger.reservation import PendingReservation, Reservation
from memwarden.admission.ledger.reservation_file import ReservationFile, reservation_file_at
from memwarden.errors import SettingsError
from memwarden.model.serialize import iso
from memwarden.model.units import parse_size
from memwarden.protocols import Clock, IdentityProbe

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Ledger:
    """Reservations against a budget that all processes of this user share in a host or container.

    ``budget`` is bytes, ``"4GiB"`` or a share of the effective limit (``"80%"``); where processes give different ones,
    the smallest counts while its process holds or waits for a reservation. The effective headroom counts beside a
    budget, or alone: the least, along the own path of memory groups and for the machine, of the limit minus used
    memory that cannot be reclaimed. It is read anew for each request.

    Ledgers of the same ``name`` are one; ``path`` names its file itself, for containers that share a folder. A request
    that has waited for ``patience`` seconds is not overtaken by smaller ones any more.
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
        headroom: Headroom | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"ledger name {name!r}: up to 64 letters, digits, dots, hyphens and underscores")
        if isinstance(budget, str) and "%" in budget:
            parse_size(budget, of=1 << 50)
        elif budget is not None:
            budget = parse_size(budget)
        if not 0 <= patience < math.inf:
            raise SettingsError(f"patience {patience!r}: a number of seconds, 0 or more")
        if probe is None:
            from memwarden.readers.factory import identity_probe

            probe = identity_probe()
        if clock is None:
            from memwarden.engine.clock import SystemClock

            clock = SystemClock()
        if path is None:
            from memwarden.admission.ledger.paths import ledger_path  # reads the mount table: not for a given path

            path = ledger_path(name)
        self.name, self.path = name, path
        self._clock = clock
        self._file: ReservationFile = reservation_file_at(self.path, probe)
        self._accounts = Accounts(self._file, SystemHeadroom(probe) if headroom is None else headroom, budget)
        self._admission = Admission(self._file, self._accounts, clock, probe, patience)

    def reserve(
        self, size: int | str, *, timeout: float | None = None, label: str = "", priority: int = 0
    ) -> Reservation:
        """Reserve so many bytes; wait until they are free, ``timeout`` seconds at most.

        A step of ``priority`` counts as 10 s of waiting. Raises :class:`DoesNotFit` at once for what can never
        fit, and after the ledger's patience for what would not fit without other reservations;
        :class:`NotAdmitted` when the time is over; :class:`RecordError` where the ledger's file cannot be used.
        """
        if timeout is not None and not 0 <= timeout < math.inf:
            raise SettingsError(f"timeout {timeout!r}: a number of seconds, 0 or more, or None")
        until = None if timeout is None else self._clock.monotonic() + timeout
        wanted = self._wanted(size, label, priority)
        own, account = self._admission.request(wanted, wait=timeout != 0)
        if own is None:
            raise self._admission.too_late(wanted, account)
        if own.record.state == WAITING:
            return PendingReservation(self._admission, own, account).wait(until)
        return Reservation(self._admission, own)

    def try_reserve(self, size: int | str, *, label: str = "", priority: int = 0) -> Reservation | None:
        """Reserve so many bytes if they are free and no other request comes first; else return None.

        Raises :class:`DoesNotFit` for what can never fit.
        """
        own, _ = self._admission.request(self._wanted(size, label, priority), wait=False)
        return None if own is None else Reservation(self._admission, own)

    def enqueue(self, size: int | str, *, label: str = "", priority: int = 0) -> PendingReservation:
        """Queue a request without waiting. Raises what :meth:`reserve` does, but for the timeout."""
        own, account = self._admission.request(self._wanted(size, label, priority), wait=True)
        assert own is not None  # a request that may wait is always recorded
        return PendingReservation(self._admission, own, account)

    def _wanted(self, size: int | str, label: str, priority: int) -> Record:
        if type(priority) is not int or abs(priority) > MAX_PRIORITY:
            raise SettingsError(f"priority {priority!r}: a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")
        label = label.encode("utf-8", "replace")[:LABEL_BYTES].decode("utf-8", "ignore")
        clock, key = self._clock, self._file.key
        return Record(
            WAITING, priority, 0, 0, parse_size(size), 0, 0, clock.monotonic(), clock.wall(), key, key, 0, label
        )

    def account(self) -> Account:
        """Return the sums: what is committed, used, and free. Raises :class:`RecordError`."""
        with self._file.locked() as entries:
            return self._accounts.account(self._file.sweep(entries))[0]

    @property
    def contended(self) -> bool:
        """Return whether a request waits (read without the lock, in some microseconds)."""
        return self._file.has_waiters()

    def state(self) -> dict[str, Any]:
        """Return reservations, waiting requests, and what is free and why, as a dict that JSON can hold."""
        with self._file.locked() as entries:
            entries = self._file.sweep(entries)
            account, _ = self._accounts.account(entries)
        budget, nearest = account.budget, account.nearest
        records = [entry.record for entry in entries]
        waiting = sorted(
            (each for each in records if each.state == WAITING), key=lambda record: as_request(record).rank
        )
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
            "free_bytes": max(0, account.free),
            "free_source": account.source,
            "holders": [self._row(each) for each in records if each.state == HELD],
            "waiters": [self._row(each) for each in waiting],
            "troubles": list(self._file.troubles),
        }

    def _row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = {
            "pid": record.owner.pid,
            "label": record.label,
            "priority": record.priority,
            "reserved_bytes": record.bytes,
        }
        if record.state == HELD:
            row["used_bytes"] = self._accounts.used(record)
            if record.worker != record.owner:
                row["worker_pid"] = record.worker.pid
        row["since"] = iso(record.wall)
        row["age_seconds"] = round(max(0.0, self._clock.monotonic() - record.since), 3)
        return row


_default: dict[str, Ledger] = {}


def admit(estimate: int | str, name: str = "", *, timeout: float | None = None, priority: int = 0) -> Reservation:
    """Wait until so many bytes are free here, and reserve them: ``with admit("2GiB", "load the index"):``.

    It uses this user's default ledger, which all programs share; ``name`` is a label. Raises what
    :meth:`Ledger.reserve` does.
    """
    ledger = _default.get("default")
    if ledger is None:
        ledger = _default.setdefault("default", Ledger())
    return ledger.reserve(estimate, timeout=timeout, label=name, priority=priority)
