"""The file that the processes of a ledger share: records of fixed size, each written by its owner alone.

The file has a header (a magic word and the boot that it belongs to), then records of 128 bytes with a checksum. Rules:

* A record is written and removed by its owner. Another process removes it only when the owner is dead. So releasing a
  reservation is one write, and needs no lock.
* Judging requests and adding records happens under a lock on one byte far behind the file's end. No process waits for
  memory while it holds that lock.
* Each process that uses the file holds a lock on another such byte, its member number, for as long as it lives. These
  are POSIX record locks: the kernel drops them when the process ends, whatever ends it and whatever its pid namespace,
  after its memory is free; children do not inherit them. They are also dropped when the process closes any descriptor
  of the file. So a process opens the file once, and a *held* record is removed only if its owner is dead by identity,
  too (pid and start time), as far as that can be seen from here.
* A waiting process reads the file some times a second, and judges its request again when the file has changed.
* A damaged file is deleted and replaced by a new one, with a warning. Each process adds its records to the new file
  when it next uses the ledger, as it does when a user deletes the file (ADR 0020).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator

from memwarden.admission.ledger.locked_file import MAX_LOCKS, LockedFile
from memwarden.admission.ledger.record import FREE, FREE_RECORD, RECORD_BYTES, WAITING, Entry, OwnRecord, Record, unpack
from memwarden.errors import ReadError, RecordError
from memwarden.model.facts import ProcessKey
from memwarden.model.log import warn
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.process.namespaces import namespace
from memwarden.protocols import IdentityProbe
from memwarden.readers.linux.files import read_once

_MAGIC = b"memwarden ledger 1\n"
HEADER_BYTES = 128
#: Records that a new file has space for; the space doubles when it is full.
_SLOTS, _MAX_SLOTS = 63, 65535
#: Seconds that the lock is waited for. It is held for about 0.1 ms; a stopped process may keep it.
LOCK_SECONDS = 5.0
#: Seconds that a dead owner's record may stay where its memory is not needed.
SWEEP_SECONDS = 1.0
#: Pauses before a record that another process may just be writing is read again, seconds.
_REREAD_DELAYS = (0.0, 1e-4, 1e-3)


class LockBusy(RecordError):
    """The lock could not be had in time."""


class _Unusable(Exception):
    """The file has to be replaced; ``reason`` is empty if it is only one of an earlier boot."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def boot() -> str:
    """Return the identifier of this boot of the machine; empty where the system has none."""
    with contextlib.suppress(ReadError):
        return read_once("boot_id", "/proc/sys/kernel/random/boot_id", 64).decode("ascii", "replace").strip()
    return ""


class ReservationFile:
    """One process's access to the file; :func:`reservation_file_at` returns the one of this process."""

    def __init__(self, path: str, probe: IdentityProbe) -> None:
        self.path, self._probe = path, probe
        self._file = LockedFile(path)
        #: How many ledgers use this object.
        self.users = 0
        #: Damage that was found, the newest last.
        self.troubles: deque[str] = deque(maxlen=16)
        self._header = (_MAGIC + boot().encode()).ljust(HEADER_BYTES, b"\0")
        self._reset()
        reset_after_fork(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._member = 0
        #: By ticket.
        self._own: dict[int, OwnRecord] = {}
        self._key: ProcessKey | None = None
        self._sweep_due = 0.0
        self.pidns = namespace("pid")

    def after_fork(self) -> None:
        """Renew a child's copy: it holds nothing, and closing its descriptor does not touch the parent's locks."""
        if self._pid != os.getpid():
            global _registry
            _registry = threading.RLock()
            self._file.close()
            self._reset()

    @property
    def key(self) -> ProcessKey:
        """Return the identity of this process."""
        if self._key is None:
            try:
                self._key = self._probe.own()
            except ReadError:
                self._key = ProcessKey(os.getpid(), 0)
        return self._key

    def _is_current(self) -> bool:
        if self._pid != os.getpid():  # forked without Python's knowledge
            self.after_fork()
        return self._file.is_current()

    def _warn(self, message: str) -> None:
        self.troubles.append(message)
        warn("ledger %s: %s", self.path, message)

    def close(self) -> None:
        """Count one user less; the last one closes the file."""
        with _registry:
            self.users -= 1
            if self.users == 0:
                _files.pop(self.path, None)
                self._file.close()
                self._member = 0

    # --- locks ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, timeout: float = LOCK_SECONDS) -> Iterator[list[Entry]]:
        """Hold the lock, and return every record. Raises :class:`RecordError`.

        Once a second the records of dead owners are removed, too: else they would stay while there is enough memory.
        """
        until = time.monotonic() + timeout
        if self._pid != os.getpid():
            self.after_fork()
        mutex = self._mutex
        if not mutex.acquire(timeout=timeout):
            raise self._busy(timeout, "another thread of this process")
        try:
            entries = self._lock(until, timeout)
            yield self.sweep(entries) if time.monotonic() >= self._sweep_due else entries
        except OSError as error:
            raise self._file.error(error) from error
        finally:
            try:
                self._file.unlock(0)  # also where an interrupt came just after it was taken
            finally:
                mutex.release()

    def _lock(self, until: float, timeout: float) -> list[Entry]:
        delay = 5e-5
        while True:
            if not self._is_current():
                self._file.open(HEADER_BYTES + _SLOTS * RECORD_BYTES)
                self._member = 0
            if self._file.try_lock(0):
                if not self._file.is_current():  # it was deleted between opening and locking
                    continue
                try:
                    entries = self._read()
                except _Unusable as found:
                    if found.reason:
                        self._warn(
                            f"damaged ({found.reason}) and replaced by a new file; reservations of other processes"
                            " count again when these next use the ledger"
                        )
                    self._file.delete()
                else:
                    if not self._member:
                        self._join(entries)
                    return entries
            if time.monotonic() > until:
                raise self._busy(timeout, self._file.lock_owner(0))
            time.sleep(delay)
            delay = min(delay * 1.5, 2e-3)

    def _busy(self, timeout: float, owner: str) -> LockBusy:
        return LockBusy(
            f"ledger {self.path}: locked for {timeout:g} s by {owner}; let that go on, or end it", path=self.path
        )

    def _join(self, entries: list[Entry]) -> None:
        """Under the lock: take a member number, and add this process's records (the file may be a new one)."""
        taken = {entry.record.member for entry in entries}
        for number in range(1, MAX_LOCKS):
            if number not in taken and self._file.try_lock(number):
                self._member = number
                break
        else:
            raise RecordError(f"ledger {self.path}: {MAX_LOCKS} processes use it; no more can", path=self.path)
        known = {entry.record.ticket: entry for entry in entries}
        added = []
        for own in list(self._own.values()):
            own.assign(own.record._replace(member=self._member))
            if (former := known.get(own.record.ticket)) is not None:
                entries.remove(former)
                own.slot = former.slot
            else:
                own.slot = self._free_slot(entries)
                added.append(own.record.label or "unnamed")
            self._write(own.slot, own.data)
            entries.append(Entry(own.slot, own.record))
        if added:
            self._warn(f"added this process's reservations to a new file: {', '.join(added[:5])} ({len(added)} in all)")
        self._sweep_due = 0.0

    def is_dead(self, record: Record) -> bool:
        """Under the lock: return whether the owner has ended. For a waiting one the lock decides: it asks again."""
        if record.ticket in self._own:
            return False
        here = record.pidns == self.pidns
        if record.member == self._member or (here and record.owner == self.key):
            return True  # of a program that this process was before exec
        if not self._file.try_lock(record.member):
            return False
        self._file.unlock(record.member)
        if record.state == WAITING or not here or not record.pidns or not record.owner.start:
            return True
        return not self._probe.alive(record.owner)

    # --- records --------------------------------------------------------------------------------------

    def _read(self) -> list[Entry]:
        """Under the lock: return every record. Raises :class:`_Unusable` where the file has to be replaced."""
        data = self._file.read()
        if data[:HEADER_BYTES] != self._header:
            if data.strip(b"\0"):
                other_boot = data.startswith(_MAGIC) and not data[len(_MAGIC) : HEADER_BYTES].strip(b"\0-" + _HEX)
                raise _Unusable("" if other_boot else "its header is not a ledger's")
            self._file.allocate(self._file.length)  # a new file
            self._file.write_at(0, self._header)
            data = self._file.read()
        pieces = _pieces(data)
        entries = {}
        for slot, piece in pieces.items():
            record = unpack(piece) or self._reread(slot)
            if record is None:
                raise _Unusable(f"record {slot} has a wrong checksum")
            if record.state != FREE:
                entries[slot] = Entry(slot, record)
        for own in list(self._own.values()) if self._member else ():
            if pieces.get(own.slot) == own.data or own.record.ticket not in self._own:
                continue
            if own.slot not in entries or entries[own.slot].record.ticket != own.record.ticket:
                raise _Unusable(f"the record of {own.record.label or 'a reservation'} is missing")
            self._write(own.slot, own.data)  # an interrupt came before it was written
            entries[own.slot] = Entry(own.slot, own.record)
        return list(entries.values())

    def _reread(self, slot: int) -> Record | None:
        """Return a record that its owner may just be writing or removing; None where it stays damaged."""
        for delay in _REREAD_DELAYS:
            time.sleep(delay)
            data = self._file.read_at(HEADER_BYTES + slot * RECORD_BYTES, RECORD_BYTES)
            if data == FREE_RECORD:
                return _FREED
            if record := unpack(data):
                return record
        return None

    def content(self) -> bytes:
        """Return, without the lock, what the file holds; nothing if it is not open."""
        try:
            return self._file.read() if self._is_current() else b""
        except OSError:
            return b""

    def has_waiters(self) -> bool:
        """Return, without the lock, whether a request waits."""
        return WAITING in self.content()[HEADER_BYTES::RECORD_BYTES]

    def add(self, record: Record, entries: list[Entry]) -> OwnRecord:
        """Under the lock: write a new record in a free slot. Raises :class:`RecordError` (the disk is full)."""
        own = OwnRecord(
            self._free_slot(entries), record._replace(member=self._member, owner=self.key, pidns=self.pidns)
        )
        self._own[record.ticket] = own  # first: a record that was written and is not in here would stay
        try:
            self._write(own.slot, own.data)
        except BaseException:  # an interrupt, too: perhaps it was written
            self.remove(own)
            raise
        entries.append(Entry(own.slot, own.record))
        return own

    def owns(self, own: OwnRecord) -> bool:
        """Return whether this process still has this record."""
        return self._pid == os.getpid() and own.record.ticket in self._own

    def update(self, own: OwnRecord, **fields: object) -> None:
        """Change a record of this process. Raises :class:`RecordError`."""
        if not self._mutex.acquire(timeout=LOCK_SECONDS):
            raise self._busy(LOCK_SECONDS, "another thread of this process")
        try:
            self.update_locked(own, **fields)
        except OSError as error:
            raise self._file.error(error) from None
        finally:
            self._mutex.release()

    def update_locked(self, own: OwnRecord, **fields: object) -> None:
        """Under the lock: change a record of this process."""
        if own.record.ticket in self._own:
            own.assign(own.record._replace(**fields))  # type: ignore[arg-type]
            if self._is_current():
                self._write(own.slot, own.data)

    def remove(self, own: OwnRecord) -> None:
        """Remove a record of this process. Takes no lock, never waits, and may be called in a finalizer."""
        if self._pid == os.getpid() and self._own.pop(own.record.ticket, None) is not None and self._is_current():
            try:
                self._write(own.slot, FREE_RECORD)
            except OSError as error:
                self._warn(f"a reservation could not be released: {error.strerror}")

    def sweep(self, entries: list[Entry]) -> list[Entry]:
        """Under the lock: return the records of living owners; the others are removed."""
        self._sweep_due = time.monotonic() + SWEEP_SECONDS
        dead: dict[tuple[int, ProcessKey, int], bool] = {}
        alive = []
        for entry in entries:
            record = entry.record
            owner = record.member, record.owner, record.state
            if owner not in dead:
                dead[owner] = self.is_dead(record)
            if dead[owner]:
                self._write(entry.slot, FREE_RECORD)
            else:
                alive.append(entry)
        return alive

    def _free_slot(self, entries: list[Entry]) -> int:
        """Return a slot with space for it. Raises :class:`RecordError` when the disk or the file is full."""
        taken = {entry.slot for entry in entries}
        slot = next(slot for slot in range(_MAX_SLOTS) if slot not in taken)
        if slot + 1 >= _MAX_SLOTS:
            raise RecordError(f"ledger {self.path}: {slot} reservations are made; no more can be", path=self.path)
        if HEADER_BYTES + (slot + 1) * RECORD_BYTES > self._file.length:
            self._file.allocate(HEADER_BYTES + 2 * (slot + 1) * RECORD_BYTES)
        return slot

    def _write(self, slot: int, data: bytes) -> None:
        self._file.write_at(HEADER_BYTES + slot * RECORD_BYTES, data)


_HEX = b"0123456789abcdef"
#: A record that was removed while it was read.
_FREED = Record(FREE, 0, 0, 0, 0, 0, 0, 0.0, 0.0, ProcessKey(0, 0), ProcessKey(0, 0), 0, "")


def _pieces(data: bytes) -> dict[int, bytes]:
    """Return the slots that are not free."""
    found = {}
    for slot, state in enumerate(data[HEADER_BYTES::RECORD_BYTES]):
        if state != FREE:
            at = HEADER_BYTES + slot * RECORD_BYTES
            found[slot] = data[at : at + RECORD_BYTES]
    return found


#: One object per path in this process: closing a second descriptor would drop the locks.
_files: dict[str, ReservationFile] = {}
_registry = threading.RLock()  # a finalizer may run anywhere


def reservation_file_at(path: str, probe: IdentityProbe) -> ReservationFile:
    """Return this process's object for a file; give it back with :meth:`ReservationFile.close`."""
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    with _registry:
        while True:
            file = _files.setdefault(path, _files.get(path) or ReservationFile(path, probe))
            file.users += 1
            if _files.get(path) is file:  # else a finalizer has just closed it
                return file
