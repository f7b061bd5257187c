"""Records of a reservation file: their fields and their layout of 128 bytes."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

from memwarden.model.facts import ProcessKey

FREE, HELD, WAITING = range(3)

#: state, priority, member, ticket, bytes, budget, baseline, since, wall, pid, worker pid, start, worker start,
#: pid namespace, label; then the checksum.
_FIELDS = struct.Struct("<BxhIQQQQddIIQQQ36s")
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _FIELDS.size + _CHECKSUM.size
FREE_RECORD = bytes(RECORD_BYTES)
LABEL_BYTES = 36


class Record(NamedTuple):
    """A reservation, or a request that waits for one."""

    state: int
    priority: int
    #: The number of the owner among the processes that use the file.
    member: int
    ticket: int
    bytes: int
    #: The budget that its owner was given; 0: none.
    budget: int
    #: Memory of the worker when the reservation was made.
    baseline: int
    #: Monotonic, and wall clock.
    since: float
    wall: float
    owner: ProcessKey
    #: The process that the memory is for.
    worker: ProcessKey
    #: The pid namespace of both pids; 0: unknown.
    pidns: int
    label: str


class Entry(NamedTuple):
    """A record and its slot in the file."""

    slot: int
    record: Record


class OwnRecord:
    """A record of this process, and its slot."""

    __slots__ = ("data", "record", "slot")

    def __init__(self, slot: int, record: Record) -> None:
        self.slot = slot
        self.assign(record)

    def assign(self, record: Record) -> None:
        """Replace the record."""
        self.record, self.data = record, pack(record)


def pack(record: Record) -> bytes:
    """Return a record as it is written."""
    label = record.label.encode("utf-8", "replace")[:LABEL_BYTES]
    owner, worker = record.owner, record.worker
    data = _FIELDS.pack(*record[:9], owner.pid, worker.pid, owner.start, worker.start, record.pidns, label)
    return data + _CHECKSUM.pack(zlib.crc32(data))


@lru_cache(maxsize=4096)  # most records did not change since the last reading
def unpack(data: bytes) -> Record | None:
    """Return the record that was written; None for damaged data."""
    if len(data) != RECORD_BYTES or zlib.crc32(data[: _FIELDS.size]) != _CHECKSUM.unpack_from(data, _FIELDS.size)[0]:
        return None
    *first, pid, worker_pid, start, worker_start, pidns, label = _FIELDS.unpack_from(data)
    if first[0] not in (HELD, WAITING):
        return None
    text = label.rstrip(b"\0").decode("utf-8", "ignore")
    return Record._make((*first, ProcessKey(pid, start), ProcessKey(worker_pid, worker_start), pidns, text))
