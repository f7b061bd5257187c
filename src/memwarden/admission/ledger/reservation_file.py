"""The file in which processes meet: records of fixed size, each written by its owner alone.

The file begins with a header (a magic word and the boot that it belongs to), then come records of 128 bytes with a
checksum; the first byte says free, held or waiting. Rules:

* A record is put and removed by its owner. Somebody else removes it only when the owner is dead. So returning a
  reservation is one write, and needs no lock.
* What must not be done by two at once (judging and putting a new record) is done under a lock on one byte far
  behind the file's end. It is never held while waiting.
* Each process that takes part holds a lock on another such byte, its number, for as long as it lives. These are POSIX
  record locks: the kernel drops them when the process ends, however it ends and whatever pid namespace it is in,
  after it has given back its memory; no child inherits them. They are dropped, too, when the process closes any
  descriptor of the file, so a process has this file open once; and a *held* record is given up only where its owner
  is dead by identity, too (pid and start time), as far as that can be seen from here.
* Who waits is woken through a named pipe beside the file. A lost wake-up costs a little time (see
  :mod:`memwarden.admission.ledger.ledger`), never more.
* A record that was damaged is removed, with a warning; its owner puts it back the next time it looks, as it does
  with all of its records when the file was removed or replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

from memwarden.errors import ReadError, RecordError
from memwarden.model.facts import ProcessKey
from memwarden.model.log import warn
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.process.namespaces import namespace
from memwarden.protocols import IdentityProbe
from memwarden.readers.linux.files import read_once

FREE, HELD, WAITING = range(3)

_MAGIC = b"memwarden ledger 1\n"
HEADER = 128
#: state, priority, member, ticket, bytes, budget, baseline, since, wall, pid, worker pid, start, worker start,
#: pid namespace, label; then the checksum.
_FIELDS = struct.Struct("<BxhIQQQQddIIQQQ36s")
_SUM = struct.Struct("<I")
SLOT = _FIELDS.size + _SUM.size
_NOTHING = bytes(SLOT)
LABEL_BYTES = 36
#: Records that a new file has room for; it doubles when they are taken.
_SLOTS, _MOST_SLOTS = 63, 65535

#: Where the bytes are that are locked: no file is as long.
_LOCKS = 1 << 40
_MOST_MEMBERS = 65535
#: How long the lock is waited for. It is held for about 0.1 ms; a stopped process may keep it.
LOCK_SECONDS = 5.0
#: How long a dead owner's record may stay where nobody needs the room.
SWEEP_SECONDS = 1.0


class Record(NamedTuple):
    """A reservation, or the wish for one."""

    state: int
    priority: int
    #: The number of the process that owns it, among those that take part.
    member: int
    ticket: int
    bytes: int
    #: The budget that its owner was given; 0: none.
    budget: int
    #: What its worker held before.
    baseline: int
    #: Monotonic, and wall clock.
    since: float
    wall: float
    owner: ProcessKey
    #: The process whose memory it is for.
    worker: ProcessKey
    #: The pid namespace in which these pids mean something; 0: unknown.
    pidns: int
    label: str


class Entry(NamedTuple):
    """A record and its place."""

    slot: int
    record: Record


class Own:
    """A record of this process, and where it stands now."""

    __slots__ = ("data", "record", "slot")

    def __init__(self, slot: int, record: Record) -> None:
        self.slot = slot
        self.become(record)

    def become(self, record: Record) -> None:
        """Another content."""
        self.record, self.data = record, pack(record)


class LockBusy(RecordError):
    """The lock could not be had in time."""


def pack(record: Record) -> bytes:
    """A record as it is written."""
    label = record.label.encode("utf-8", "replace")[:LABEL_BYTES]
    owner, worker = record.owner, record.worker
    data = _FIELDS.pack(*record[:9], owner.pid, worker.pid, owner.start, worker.start, record.pidns, label)
    return data + _SUM.pack(zlib.crc32(data))


@lru_cache(maxsize=4096)  # most are as they were at the last look, and those of others are many
def unpack(data: bytes) -> Record | None:
    """What was written; None for what is damaged."""
    if len(data) != SLOT or zlib.crc32(data[: _FIELDS.size]) != _SUM.unpack_from(data, _FIELDS.size)[0]:
        return None
    *first, pid, worker_pid, start, worker_start, pidns, label = _FIELDS.unpack_from(data)
    if first[0] not in (HELD, WAITING):
        return None
    text = label.rstrip(b"\0").decode("utf-8", "ignore")
    return Record._make((*first, ProcessKey(pid, start), ProcessKey(worker_pid, worker_start), pidns, text))


def boot() -> str:
    """Which boot of the machine this is; empty where nobody tells."""
    with contextlib.suppress(ReadError):
        return read_once("boot_id", "/proc/sys/kernel/random/boot_id", 64).decode("ascii", "replace").strip()
    return ""


def is_abandoned(path: str) -> bool:
    """Whether nobody takes part in this file. Not to be asked of one that this process has open itself."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _MOST_MEMBERS, _LOCKS)
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except (OSError, AttributeError):
        return False
    finally:
        os.close(fd)


class ReservationFile:
    """One process's access to the file; :func:`table_at` gives the one that the process has."""

    def __init__(self, path: str, probe: IdentityProbe) -> None:
        if fcntl is None:
            raise RecordError(f"ledger {path}: this system has no file locks, which a ledger needs", path=path)
        self.path, self._probe = path, probe
        #: How many ledgers use it.
        self.users = 0
        #: What was found wrong and repaired, the newest last.
        self.troubles: deque[str] = deque(maxlen=16)
        self._header = (_MAGIC + boot().encode()).ljust(HEADER, b"\0")
        self._begin()
        reset_after_fork(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._fd, self._id = -1, (0, 0)
        self._member = 0
        self._length = HEADER + _SLOTS * SLOT
        #: By ticket.
        self._own: dict[int, Own] = {}
        self._key: ProcessKey | None = None
        self._sweep_due = 0.0
        self._seen: dict[int, bytes] = {}
        self.pidns = namespace("pid")

    def after_fork(self) -> None:
        """In a child: it holds nothing, and closing a copy does not touch the parent's locks."""
        if self._pid != os.getpid():
            global _registry
            _registry = threading.RLock()
            self._leave()
            self._begin()

    @property
    def key(self) -> ProcessKey:
        """This process."""
        if self._key is None:
            try:
                self._key = self._probe.own()
            except ReadError:
                self._key = ProcessKey(os.getpid(), 0)
        return self._key

    # --- the file -------------------------------------------------------------------------------------

    def _links(self) -> int:
        """How many names the open file has; -1 where the descriptor is not ours (somebody closed it)."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                status = os.fstat(self._fd)
                if (status.st_dev, status.st_ino) == self._id:
                    return status.st_nlink
        return -1

    def _is_there(self) -> bool:
        """Whether the file is open, and still the one that others find."""
        if self._pid != os.getpid():  # forked without Python's knowledge
            self.after_fork()
        return self._links() > 0

    def _leave(self) -> None:
        if self._links() >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd, self._member = -1, 0

    def _open(self) -> None:
        """Open the file, making it where there is none. Raises :class:`RecordError`."""
        self._leave()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise RecordError(f"ledger {self.path}: is no regular file; name another one", path=self.path)
        self._fd, self._id = fd, (status.st_dev, status.st_ino)

    def _trouble(self, error: OSError) -> RecordError:
        ways = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.ENOLCK: "name a file on a file system that has locks",
            errno.ELOOP: "it is a link, and links are not followed: name the file itself",
            errno.EMFILE: "close some files",
        }
        way = ways.get(error.errno or 0, "make the file and its folder accessible, or name another file")
        return RecordError(f"ledger {self.path}: {error.strerror or error}; {way}", path=self.path)

    def _say(self, what: str) -> None:
        self.troubles.append(what)
        warn("ledger %s: %s", self.path, what)

    def leave(self) -> None:
        """One user less; the last one closes the file."""
        with _registry:
            self.users -= 1
            if self.users == 0:
                _tables.pop(self.path, None)
                self._leave()

    # --- locks ----------------------------------------------------------------------------------------

    def _try(self, place: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKS + place)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _unlock(self, place: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _LOCKS + place)

    @contextlib.contextmanager
    def alone(self, patience: float = LOCK_SECONDS) -> Iterator[None]:
        """With the lock: nobody else judges or puts meanwhile. Raises :class:`RecordError`."""
        until = time.monotonic() + patience
        if self._pid != os.getpid():
            self.after_fork()
        mutex = self._mutex
        if not mutex.acquire(timeout=patience):
            raise self._busy(patience, "another thread of this process")
        try:
            delay = 5e-5
            while True:
                if not self._is_there():
                    self._open()
                if self._try(0):
                    if self._is_there():  # it may have been removed between opening and locking
                        break
                    continue
                if time.monotonic() > until:
                    raise self._busy(patience, self._locker())
                time.sleep(delay)
                delay = min(delay * 1.5, 2e-3)
            if not self._member:
                self._join()
            yield
        except OSError as error:
            raise self._trouble(error) from error
        finally:
            try:
                if self._links() >= 0:
                    self._unlock(0)  # also where an interrupt came just after it was had
            finally:
                mutex.release()

    def _busy(self, patience: float, who: str) -> LockBusy:
        return LockBusy(
            f"ledger {self.path}: locked for {patience:g} s by {who}; let that go on, or end it", path=self.path
        )

    def _locker(self) -> str:
        if sys.platform == "linux":
            with contextlib.suppress(OSError, struct.error):
                layout = struct.Struct("@hhqqi")
                asked = layout.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKS, 1, 0) + bytes(8)
                kind, _, _, _, pid = layout.unpack_from(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
                if kind != fcntl.F_UNLCK and pid > 0:
                    return f"process {pid}, which may be stopped"
        return "another process"

    def _join(self) -> None:
        """Under the lock: make the file good, become a member, and put back what we hold."""
        taken = {record.member for record in self._scan().values()}
        for number in range(1, _MOST_MEMBERS):
            if number not in taken and self._try(number):
                self._member = number
                break
        else:
            raise RecordError(f"ledger {self.path}: {_MOST_MEMBERS} processes take part; no more can", path=self.path)
        for own in list(self._own.values()):
            own.become(own.record._replace(member=self._member))
        self._sweep_due = 0.0

    def is_dead(self, record: Record) -> bool:
        """Under the lock: whether the owner has ended. A waiter is believed by its lock alone: it asks again."""
        if record.ticket in self._own:
            return False
        here = record.pidns == self.pidns
        if record.member == self._member or (here and record.owner == self.key):
            return True  # of a program that this process was before it became this one
        if not self._try(record.member):
            return False
        self._unlock(record.member)
        if record.state == WAITING or not here or not record.pidns or not record.owner.start:
            return True
        return not self._probe.alive(record.owner)

    # --- records --------------------------------------------------------------------------------------

    def read(self) -> list[Entry]:
        """Under the lock: every record. What is damaged is repaired, and what is ours put back.

        Now and then the dead are swept out, too: else they would stay as long as there is room beside them.
        """
        found = [Entry(slot, record) for slot, record in self._scan().items()]
        for own in list(self._own.values()):
            if self._seen.get(own.slot) != own.data and own.record.ticket in self._own:
                self._put_back(own, found)
        if time.monotonic() >= self._sweep_due:
            found = self.sweep(found)
        return found

    def _scan(self) -> dict[int, Record]:
        """Under the lock: the records as they stand, damage repaired."""
        data = self._bytes()
        if data[:HEADER] != self._header:
            data = self._make_good(data)
        self._seen = {slot: _piece(data, slot) for slot, state in enumerate(data[HEADER::SLOT]) if state != FREE}
        found = {slot: unpack(piece) or self._record(slot, piece) for slot, piece in self._seen.items()}
        return {slot: record for slot, record in found.items() if record is not None}

    def glance(self) -> list[Entry]:
        """Without the lock: every record that can be read. Nothing is repaired; a file that is not open is empty."""
        if not self._is_there():
            return []
        try:
            data = self._bytes()
        except OSError:
            return []
        if data[:HEADER] != self._header:
            return []
        slots = [slot for slot, state in enumerate(data[HEADER::SLOT]) if state != FREE]
        return [Entry(slot, record) for slot in slots if (record := unpack(_piece(data, slot))) is not None]

    def anybody_waits(self) -> bool:
        """Without the lock, and cheaper than :meth:`glance`."""
        if not self._is_there():
            return False
        try:
            return WAITING in self._bytes()[HEADER::SLOT]
        except OSError:
            return False

    def put(self, record: Record, entries: list[Entry]) -> Own:
        """Under the lock: a new record, where none of these is. Raises :class:`RecordError` (the disk is full)."""
        taken = {entry.slot for entry in entries}
        slot = next(slot for slot in range(_MOST_SLOTS) if slot not in taken)
        if HEADER + (slot + 1) * SLOT > self._length or slot + 1 >= _MOST_SLOTS:
            if slot + 1 >= _MOST_SLOTS:
                raise RecordError(f"ledger {self.path}: {slot} reservations are made; no more can be", path=self.path)
            self._reserve(HEADER + 2 * (slot + 1) * SLOT)
        own = Own(slot, record._replace(member=self._member, owner=self.key, pidns=self.pidns))
        self._own[record.ticket] = own  # first: what was written and is nobody's would stay for our lifetime
        try:
            self._write(slot, own.data)
        except BaseException:  # an interrupt, too: perhaps it was written
            self.drop(own)
            raise
        entries.append(Entry(slot, own.record))
        return own

    def holds(self, own: Own) -> bool:
        """Whether this process still has this record."""
        return self._pid == os.getpid() and own.record.ticket in self._own

    def change(self, own: Own, **fields: object) -> None:
        """Another content for a record of ours. Raises :class:`RecordError`."""
        if not self._mutex.acquire(timeout=LOCK_SECONDS):
            raise self._busy(LOCK_SECONDS, "another thread of this process")
        try:
            self.rewrite(own, **fields)
        except OSError as error:
            raise self._trouble(error) from None
        finally:
            self._mutex.release()

    def rewrite(self, own: Own, **fields: object) -> None:
        """The same, for who has the lock."""
        if own.record.ticket in self._own:
            own.become(own.record._replace(**fields))  # type: ignore[arg-type]
            if self._is_there():
                self._write(own.slot, own.data)

    def drop(self, own: Own) -> None:
        """Remove a record of ours. Takes no lock, never waits, and may be called in a finalizer."""
        if self._pid == os.getpid() and self._own.pop(own.record.ticket, None) is not None and self._is_there():
            try:
                self._write(own.slot, _NOTHING)
            except OSError as error:
                self._say(f"a reservation could not be returned: {error.strerror}")

    def sweep(self, entries: list[Entry]) -> list[Entry]:
        """Under the lock: the records whose owners live; the others are removed, with their bells."""
        self._sweep_due = time.monotonic() + SWEEP_SECONDS
        dead: dict[tuple[int, ProcessKey, int], bool] = {}
        alive = []
        for entry in entries:
            record = entry.record
            whose = record.member, record.owner, record.state
            if whose not in dead:
                dead[whose] = self.is_dead(record)
            if dead[whose]:
                self._write(entry.slot, _NOTHING)
                self.remove_bell(record.ticket)
            else:
                alive.append(entry)
        return alive

    def _bytes(self) -> bytes:
        while True:
            data = os.pread(self._fd, self._length + 1, 0)
            if len(data) <= self._length:
                return data
            self._length = HEADER + 2 * (self._length - HEADER)

    def _record(self, slot: int, data: bytes) -> Record | None:
        for delay in (0.0, 1e-4, 1e-3):  # its owner may be removing it just now
            record = unpack(data)
            if record is not None:
                return record
            time.sleep(delay)
            data = os.pread(self._fd, SLOT, HEADER + slot * SLOT)
            if data[:1] in (b"", b"\0"):
                return None
        if record := unpack(data):
            return record
        self._write(slot, _NOTHING)
        self._say(f"record {slot} was damaged and is removed; its owner puts it back when it looks next")
        return None

    def _make_good(self, data: bytes) -> bytes:
        """Under the lock: a file that is new, of another boot, or damaged at its beginning."""
        other_boot = data.startswith(_MAGIC) and not data[len(_MAGIC) : HEADER].strip(b"\0-0123456789abcdef")
        if data.strip(b"\0") and not other_boot:
            self._say("its beginning was damaged and is written anew")
        if other_boot or not any(unpack(data[at : at + SLOT]) for at in range(HEADER, len(data), SLOT)):
            os.ftruncate(self._fd, 0)
            data = b""
        self._reserve(HEADER + max(_SLOTS, (len(data) - HEADER + SLOT - 1) // SLOT) * SLOT)
        os.pwrite(self._fd, self._header, 0)
        return self._bytes()

    def _reserve(self, length: int) -> None:
        """Have the space now: a full disk is noticed when something is asked for, not when it is returned."""
        try:
            os.posix_fallocate(self._fd, 0, length)
        except (AttributeError, OSError) as error:  # macOS, or a file system that cannot
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            size = os.fstat(self._fd).st_size
            os.pwrite(self._fd, bytes(max(0, length - size)), size)

    def _put_back(self, own: Own, found: list[Entry]) -> None:
        """Under the lock: a record of ours that is not as we wrote it."""
        there = next((entry for entry in found if entry.slot == own.slot), None)
        if there is None or there.record.ticket != own.record.ticket:
            self._say(f"the record of {own.record.label or 'a reservation'} was lost and is put back")
        if there is not None and there.record.ticket != own.record.ticket:
            taken = {entry.slot for entry in found} | {each.slot for each in self._own.values()}
            own.slot = next(slot for slot in range(_MOST_SLOTS) if slot not in taken)
        elif there is not None:
            found.remove(there)
        self._write(own.slot, own.data)
        found.append(Entry(own.slot, own.record))

    def _write(self, slot: int, data: bytes) -> None:
        os.pwrite(self._fd, data, HEADER + slot * SLOT)

    # --- bells ----------------------------------------------------------------------------------------

    def _bell(self, ticket: int) -> str:
        return f"{self.path}.{ticket:x}"

    def hang_bell(self, ticket: int) -> int:
        """The named pipe by which this waiter is woken; a descriptor. Raises :class:`RecordError`."""
        path = self._bell(ticket)
        try:
            os.mkfifo(path, 0o600)
            # Also for writing: a pipe whose last writer has gone would be ready all the time.
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.remove_bell(ticket)
            raise self._trouble(error) from None

    def remove_bell(self, ticket: int) -> None:
        """Nobody waits with this ticket any more."""
        with contextlib.suppress(OSError):
            os.unlink(self._bell(ticket))

    def ring(self, ticket: int) -> None:
        """Wake who waits with this ticket, if anybody does."""
        with contextlib.suppress(OSError):
            fd = os.open(self._bell(ticket), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)


def _piece(data: bytes, slot: int) -> bytes:
    at = HEADER + slot * SLOT
    return data[at : at + SLOT]


#: This process's tables by path: one for all who use a file, since closing a second descriptor would drop the locks.
_tables: dict[str, ReservationFile] = {}
_registry = threading.RLock()  # a finalizer may run anywhere


def reservation_file_at(path: str, probe: IdentityProbe) -> ReservationFile:
    """This process's table for a file, to be given back with :meth:`Table.leave`."""
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    with _registry:
        while True:
            table = _tables.setdefault(path, _tables.get(path) or ReservationFile(path, probe))
            table.users += 1
            if _tables.get(path) is table:  # else a finalizer has just closed it
                return table
