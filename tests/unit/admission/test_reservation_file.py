"""The file of records."""

import errno
import os
import stat
import time

import pytest

from memwarden.admission.ledger import locked_file
from memwarden.admission.ledger import reservation_file as module
from memwarden.admission.ledger.record import HELD, RECORD_BYTES, WAITING, Record, pack, unpack
from memwarden.admission.ledger.reservation_file import HEADER_BYTES, ReservationFile
from memwarden.errors import RecordError
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.identity import ProcProbe
from memwarden.testing import ProcTree

pytest.importorskip("fcntl", reason="a ledger needs file locks")


@pytest.fixture
def tree(tmp_path):
    """A /proc in which this process is number 1 of its own kind."""
    tree = ProcTree(tmp_path / "world")
    tree.process(os.getpid(), start=5)
    return tree


@pytest.fixture
def file(tmp_path, tree, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return ReservationFile(str(tmp_path / "ledger"), ProcProbe(tree.proc))


def record(ticket=1, size=100, state=HELD, label="x", **fields):
    """A record of this process."""
    key = ProcessKey(os.getpid(), 5)
    return Record(state, 0, 0, ticket, size, 0, 0, 1.0, 2.0, key, key, 0, label)._replace(**fields)


def peek(file):
    """The records that can be read without the lock."""
    content = file.content()
    pieces = module._pieces(content) if content.startswith(file._header) else {}
    return [module.Entry(slot, found) for slot, piece in pieces.items() if (found := unpack(piece)) is not None]


def foreign(file, slot, theirs):
    """Write another process's record, as its owner would."""
    with open(file.path, "r+b") as raw:
        raw.seek(HEADER_BYTES + slot * RECORD_BYTES)
        raw.write(pack(theirs))


def test_a_record_comes_back_as_it_was_written(file):
    """Every field; a long label is cut between letters."""
    with file.locked() as entries:
        own = file.add(record(label="ü" * 40, priority=-3, bytes=1 << 50, budget=9), entries)
        (entry,) = peek(file)
    assert entry.record == own.record._replace(label="ü" * 18)
    assert entry.record.bytes == 1 << 50
    assert entry.record.priority == -3


def test_any_damage_is_noticed():
    """A record with one changed bit is refused."""
    data = pack(record())
    assert unpack(data) is not None
    for at in range(0, RECORD_BYTES * 8, 7):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        assert unpack(bytes(changed)) is None
    assert unpack(data[:-1]) is None


def test_a_removed_record_is_free_again_and_needs_no_lock(file):
    """Removing works while the lock is held."""
    with file.locked() as entries:
        first = file.add(record(1), entries)
        file.add(record(2), entries)
        file.remove(first)
        assert [entry.record.ticket for entry in peek(file)] == [2]
        assert file.add(record(3), peek(file)).slot == first.slot
    file.remove(first)  # once more does no harm
    assert len(peek(file)) == 2


def test_the_file_is_for_this_user_alone(file):
    """No other user can read labels or write reservations."""
    with file.locked():
        pass
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600


def test_the_file_grows_when_it_is_full(file):
    """More records than a new file has space for, and all of them are found."""
    with file.locked() as entries:
        for ticket in range(1, 200):
            file.add(record(ticket), entries)
        assert len(peek(file)) == 199
    with file.locked() as entries:
        assert len(entries) == 199


def test_a_dead_owner_s_record_is_swept(file):
    """No lock, no such process: removed."""
    with file.locked():
        foreign(file, 4, record(9, member=77, owner=ProcessKey(4242, 1), pidns=file.pidns))
        assert file.sweep(peek(file)) == []
        assert peek(file) == []


def test_an_owner_that_lives_keeps_its_record_though_its_lock_was_lost(file, tree):
    """Other code may close descriptors in a program; its memory is used all the same."""
    tree.process(4242, start=50)
    theirs = record(9, member=77, owner=ProcessKey(4242, 50), pidns=file.pidns)
    with file.locked():
        foreign(file, 4, theirs)
        assert len(file.sweep(peek(file))) == 1
        foreign(file, 4, theirs._replace(owner=ProcessKey(4242, 51)))  # its number was given to another
        assert file.sweep(peek(file)) == []
        foreign(file, 4, theirs._replace(state=WAITING))  # it will ask again
        assert file.sweep(peek(file)) == []
        foreign(file, 4, theirs._replace(pidns=12345))  # seen from here that pid means nothing
        assert file.sweep(peek(file)) == []


def test_a_process_of_another_container_with_our_numbers_is_another_one(file, monkeypatch):
    """Each container has a process 1, and they may have been started in the same tick."""
    with file.locked():
        monkeypatch.setattr(file._file, "try_lock", lambda number: number != 77)
        foreign(file, 4, record(9, member=77, owner=file.key, pidns=12345))
        assert len(file.sweep(peek(file))) == 1
        foreign(file, 4, record(9, member=77, owner=file.key, pidns=file.pidns))  # this process before an exec
        assert file.sweep(peek(file)) == []


def test_a_zombie_is_dead(file, tree):
    """It uses no memory."""
    tree.process(4242, start=50, state="Z")
    with file.locked():
        foreign(file, 0, record(9, member=77, owner=ProcessKey(4242, 50), pidns=file.pidns))
        assert file.sweep(peek(file)) == []


def test_a_file_with_a_damaged_record_is_replaced(file):
    """With a warning; own records are added to the new file, and those of others when they next use it."""
    with file.locked() as entries:
        own = file.add(record(1), entries)
        foreign(file, 2, record(9, member=77))
        with open(file.path, "r+b") as raw:
            raw.seek(HEADER_BYTES + 2 * RECORD_BYTES + 30)
            raw.write(b"\xff\xfe")
    with open(file.path, "rb") as old:
        with file.locked() as entries:
            assert [entry.record.ticket for entry in entries] == [1]
        assert os.fstat(old.fileno()).st_nlink == 0
    assert "record 2 has a wrong checksum" in file.troubles[0]
    assert "reservations of other processes count again" in file.troubles[0]
    file.remove(own)
    assert peek(file) == []


def test_a_record_that_is_just_being_written_is_no_damage(file, monkeypatch):
    """It is read again after a moment."""
    with file.locked():
        theirs = record(9, member=77, owner=file.key, pidns=12345)
        foreign(file, 2, theirs)
        with open(file.path, "r+b") as raw:
            raw.seek(HEADER_BYTES + 2 * RECORD_BYTES + 30)
            raw.write(b"\xff\xfe")
        monkeypatch.setattr(time, "sleep", lambda seconds: foreign(file, 2, theirs))
        assert [entry.record.ticket for entry in file._read()] == [9]
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert list(file.troubles) == []


def test_a_file_that_lost_an_own_record_is_replaced(file):
    """Another program wrote over it: it counts again, and a warning names it."""
    with file.locked() as entries:
        own = file.add(record(1, label="index"), entries)
        foreign(file, own.slot, record(9, member=77))
    with file.locked() as entries:
        assert [entry.record.ticket for entry in entries] == [1]
    assert "the record of index is missing" in file.troubles[0]


def test_an_own_record_that_an_interrupt_left_unwritten_is_written(file, monkeypatch):
    """No damage: nothing is replaced."""
    with file.locked() as entries:
        own = file.add(record(1), entries)
    own.assign(own.record._replace(bytes=7))
    with file.locked() as entries:
        assert [entry.record.bytes for entry in entries] == [7]
    assert [entry.record.bytes for entry in peek(file)] == [7]
    assert list(file.troubles) == []


def test_a_file_of_another_boot_is_replaced(file):
    """Its processes ended with that boot; nothing is worth a warning."""
    with open(file.path, "wb") as raw:
        raw.write(b"memwarden ledger 1\n12345678-1234-1234-1234-123456789abc".ljust(HEADER_BYTES, b"\0"))
        raw.write(pack(record(9, member=77)))
    with file.locked() as entries:
        assert entries == []
    assert list(file.troubles) == []


def test_garbage_is_replaced_with_a_warning(file):
    """Any file of this name becomes a ledger."""
    with open(file.path, "wb") as raw:
        raw.write(os.urandom(5000))
    with file.locked() as entries:
        file.add(record(1), entries)
        assert len(peek(file)) == 1
    assert "its header is not a ledger's" in file.troubles[0]


@pytest.mark.parametrize(
    "size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + RECORD_BYTES - 1]
)
def test_a_cut_file_is_replaced(file, size):
    """However short it was, it works afterwards, and own records count."""
    with file.locked() as entries:
        own = file.add(record(1), entries)
    os.truncate(file.path, size)
    with file.locked() as entries:
        assert [entry.record for entry in entries] == [own.record]
        file.add(record(2), entries)
        assert len(peek(file)) == 2


def another_process(file, tree):
    """The file as process 77 has it. (Locks are this process's, so that only its identity separates them.)"""
    tree.process(77, start=6)
    other = ReservationFile(file.path, ProcProbe(tree.proc))
    other._key = ProcessKey(77, 6)
    return other


def test_what_another_process_removed_from_a_replaced_file_stays_removed(file, tree):
    """A process that still has the old file open writes nothing into the new one before it has joined it."""
    other = another_process(file, tree)
    with other.locked() as entries:
        theirs = other.add(record(5, label="theirs"), entries)
    with open(file.path, "r+b") as raw:
        raw.write(b"garbage")
    with file.locked() as entries:
        own = file.add(record(1), entries)
        assert own.slot == theirs.slot
    other.remove(theirs)
    assert [entry.record.ticket for entry in peek(file)] == [1]


def test_another_process_joins_the_replaced_file_with_its_records(file, tree):
    """When it next takes the lock."""
    other = another_process(file, tree)
    with other.locked() as entries:
        other.add(record(5, label="theirs"), entries)
    with open(file.path, "r+b") as raw:
        raw.write(b"garbage")
    with file.locked() as entries:
        file.add(record(1), entries)
    with other.locked() as entries:
        assert sorted(entry.record.ticket for entry in entries) == [1, 5]
    assert "theirs" in other.troubles[-1]


def test_a_full_disk_is_an_error_and_nothing_is_reserved(file, monkeypatch):
    """The error names the file and the way out; afterwards nothing is left of the try."""

    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RecordError, match="free some space") as caught, file.locked():
        pass
    assert caught.value.path == file.path
    monkeypatch.undo()
    with file.locked() as entries:
        assert entries == []


def test_a_disk_that_fills_later_refuses_what_is_new(file, monkeypatch):
    """A record that could not be written is not ours; those that were made can be returned."""
    with file.locked() as entries:
        first = file.add(record(1), entries)
    write = os.pwrite

    def full(fd, data, offset):
        if any(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RecordError, match="free some space"), file.locked() as entries:
        file.add(record(2), entries)
    file.remove(first)
    assert peek(file) == []


@pytest.mark.parametrize("kind", ["directory", "link", "pipe", "nowhere"])
def test_what_is_no_file_is_refused(tmp_path, tree, kind):
    """A folder, a link, a pipe: none is opened as a ledger."""
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "target").write_text("mine")
        path.symlink_to(tmp_path / "target")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = tmp_path / "no" / "such" / "folder"
    with pytest.raises(RecordError, match="ledger "), ReservationFile(str(path), ProcProbe(tree.proc)).locked():
        pass
    if kind == "link":
        assert (tmp_path / "target").read_text() == "mine"


def test_a_descriptor_that_other_code_closed_is_not_written_to(file, tmp_path):
    """Its number may belong to another file by then; ours is opened again, and records stay."""
    with file.locked() as entries:
        own = file.add(record(1), entries)
    number = file._file._fd
    os.close(number)
    stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT)
    assert stranger == number
    with file.locked() as entries:
        assert [entry.record.ticket for entry in entries] == [1]
    assert list(file.troubles) == []
    file.remove(own)
    assert os.fstat(stranger).st_size == 0
    os.close(stranger)
    assert peek(file) == []


def test_systems_without_file_locks_are_reported(tmp_path, tree, monkeypatch):
    """On Windows there is no ledger."""
    monkeypatch.setattr(locked_file, "fcntl", None)
    with pytest.raises(RecordError, match="no file locks"):
        ReservationFile(str(tmp_path / "ledger"), ProcProbe(tree.proc))


def test_one_table_for_each_file(tmp_path, tree):
    """By whatever path it was named: closing a second descriptor would drop the locks of the first."""
    (tmp_path / "link").symlink_to(tmp_path)
    probe = ProcProbe(tree.proc)
    first = module.reservation_file_at(str(tmp_path / "ledger"), probe)
    assert module.reservation_file_at(str(tmp_path / "link" / "ledger"), probe) is first
    first.close()
    assert module.reservation_file_at(str(tmp_path / "ledger"), probe) is first
    first.close()
    first.close()
    assert module.reservation_file_at(str(tmp_path / "ledger"), probe) is not first
