"""The file of records."""

import errno
import os
import stat
import time

import pytest

from memwarden.admission.ledger import reservation_file as module
from memwarden.admission.ledger.reservation_file import (
    HEADER,
    HELD,
    SLOT,
    WAITING,
    Record,
    ReservationFile,
    pack,
    unpack,
)
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
def table(tmp_path, tree, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return ReservationFile(str(tmp_path / "ledger"), ProcProbe(tree.proc))


def wish(ticket=1, size=100, state=HELD, label="x", **fields):
    """A record of this process."""
    who = ProcessKey(os.getpid(), 5)
    return Record(state, 0, 0, ticket, size, 0, 0, 1.0, 2.0, who, who, 0, label)._replace(**fields)


def foreign(table, slot, record):
    """Somebody else's record, written as its owner would have."""
    with open(table.path, "r+b") as file:
        file.seek(HEADER + slot * SLOT)
        file.write(pack(record))


def test_what_is_written_is_read(table):
    """Every field comes back; a long label is cut between letters."""
    with table.alone():
        own = table.put(wish(label="ü" * 40, priority=-3, bytes=1 << 50, budget=9), table.read())
        (entry,) = table.read()
    assert entry.record == own.record._replace(label="ü" * 18)
    assert entry.record.bytes == 1 << 50
    assert entry.record.priority == -3


def test_any_damage_is_noticed():
    """A record with one bit changed is none."""
    data = pack(wish())
    assert unpack(data) is not None
    for at in range(0, SLOT * 8, 7):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        assert unpack(bytes(changed)) is None
    assert unpack(data[:-1]) is None


def test_a_dropped_record_is_free_again_and_needs_no_lock(table):
    """Dropping works while another thread has the lock."""
    with table.alone():
        first = table.put(wish(1), [])
        table.put(wish(2), table.read())
        table.drop(first)
        assert [entry.record.ticket for entry in table.read()] == [2]
        assert table.put(wish(3), table.read()).slot == first.slot
    table.drop(first)  # once more does no harm
    assert len(table.glance()) == 2


def test_the_file_is_for_this_user_alone(table):
    """Nobody else can read labels or write reservations."""
    with table.alone():
        pass
    assert stat.S_IMODE(os.stat(table.path).st_mode) == 0o600


def test_the_file_grows_when_it_is_full(table):
    """More records than there was room for, and all of them are found."""
    with table.alone():
        for ticket in range(1, 200):
            table.put(wish(ticket), table.read())
        assert len(table.read()) == 199
    assert len(table.glance()) == 199


def test_a_dead_owner_s_record_is_swept(table):
    """No lock, no such process: gone."""
    with table.alone():
        table.read()
        foreign(table, 4, wish(9, member=77, owner=ProcessKey(4242, 1), pidns=table.pidns))
        assert table.sweep(table.read()) == []
        assert table.read() == []


def test_an_owner_that_lives_keeps_its_record_though_its_lock_was_lost(table, tree):
    """Somebody may close descriptors behind a program's back; its memory is taken all the same."""
    tree.process(4242, start=50)
    record = wish(9, member=77, owner=ProcessKey(4242, 50), pidns=table.pidns)
    with table.alone():
        table.read()
        foreign(table, 4, record)
        assert len(table.sweep(table.read())) == 1
        foreign(table, 4, record._replace(owner=ProcessKey(4242, 51)))  # its number was given to another
        assert table.sweep(table.read()) == []
        foreign(table, 4, record._replace(state=WAITING))  # it will ask again
        assert table.sweep(table.read()) == []
        foreign(table, 4, record._replace(pidns=12345))  # seen from here that pid means nothing
        assert table.sweep(table.read()) == []


def test_a_process_of_another_container_with_our_numbers_is_another_one(table, monkeypatch):
    """Each container has a process 1, and they may have been started in the same tick."""
    with table.alone():
        table.read()
        monkeypatch.setattr(table, "_try", lambda place: place != 77)
        foreign(table, 4, wish(9, member=77, owner=table.key, pidns=12345))
        assert len(table.sweep(table.read())) == 1
        foreign(table, 4, wish(9, member=77, owner=table.key, pidns=table.pidns))  # what we were before an exec
        assert table.sweep(table.read()) == []


def test_a_zombie_is_dead(table, tree):
    """It holds no memory."""
    tree.process(4242, start=50, state="Z")
    with table.alone():
        table.read()
        foreign(table, 0, wish(9, member=77, owner=ProcessKey(4242, 50), pidns=table.pidns))
        assert table.sweep(table.read()) == []


def test_a_damaged_record_of_somebody_else_is_removed_with_a_word(table):
    """Its owner puts it back when it looks next."""
    with table.alone():
        table.read()
        foreign(table, 2, wish(9, member=77))
        with open(table.path, "r+b") as file:
            file.seek(HEADER + 2 * SLOT + 30)
            file.write(b"\xff\xfe")
        assert table.read() == []
    assert "record 2 was damaged" in table.troubles[-1]


def test_an_own_record_that_was_overwritten_finds_another_place(table):
    """Both count; nobody loses anything."""
    with table.alone():
        own = table.put(wish(1), table.read())
        foreign(table, own.slot, wish(9, member=77))
        assert sorted(entry.record.ticket for entry in table.read()) == [1, 9]
        assert own.slot != 0


def test_a_file_of_another_boot_begins_anew(table):
    """Those who were in it ended with that boot; nothing is worth a warning."""
    with open(table.path, "wb") as file:
        file.write(b"memwarden ledger 1\n12345678-1234-1234-1234-123456789abc".ljust(HEADER, b"\0"))
        file.write(pack(wish(9, member=77)))
    with table.alone():
        assert table.read() == []
    assert list(table.troubles) == []


def test_garbage_is_replaced_with_a_word(table):
    """Any file of this name becomes a ledger."""
    with open(table.path, "wb") as file:
        file.write(os.urandom(5000))
    with table.alone():
        table.put(wish(1), table.read())
        assert len(table.read()) == 1
    assert "beginning was damaged" in table.troubles[0]


@pytest.mark.parametrize("size", [0, 1, HEADER - 1, HEADER, HEADER + 1, HEADER + SLOT - 1])
def test_a_cut_file_is_made_whole(table, size):
    """However short it was, it works afterwards."""
    with table.alone():
        own = table.put(wish(1), table.read())
    os.truncate(table.path, size)
    with table.alone():
        assert [entry.record for entry in table.read()] == [own.record]
        table.put(wish(2), table.read())
        assert len(table.read()) == 2


def test_a_full_disk_is_said_and_nothing_is_held(table, monkeypatch):
    """The error names the file and the way out; afterwards nothing is left of the try."""

    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RecordError, match="free some space") as caught, table.alone():
        table.read()
    assert caught.value.path == table.path
    monkeypatch.undo()
    with table.alone():
        assert table.read() == []


def test_a_disk_that_fills_later_refuses_what_is_new(table, monkeypatch):
    """A record that could not be written is not ours; those that were made can be returned."""
    with table.alone():
        first = table.put(wish(1), table.read())
    write = os.pwrite

    def full(fd, data, offset):
        if any(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RecordError, match="free some space"), table.alone():
        table.put(wish(2), table.read())
    table.drop(first)
    assert table.glance() == []


@pytest.mark.parametrize("kind", ["directory", "link", "pipe", "nowhere"])
def test_what_is_no_file_is_refused(tmp_path, tree, kind):
    """A folder, a link that somebody laid, a pipe: nothing of it is opened as a ledger."""
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
    with pytest.raises(RecordError, match="ledger "), ReservationFile(str(path), ProcProbe(tree.proc)).alone():
        pass
    if kind == "link":
        assert (tmp_path / "target").read_text() == "mine"


def test_a_descriptor_that_was_closed_behind_our_back_is_not_written_to(table, tmp_path):
    """Its number may belong to a stranger's file by then; we open ours again and put back what we hold."""
    with table.alone():
        own = table.put(wish(1), table.read())
    number = table._fd
    os.close(number)
    stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT)
    assert stranger == number
    with table.alone():
        assert [entry.record.ticket for entry in table.read()] == [1]
    table.drop(own)
    assert os.fstat(stranger).st_size == 0
    os.close(stranger)
    assert table.glance() == []


def test_systems_without_file_locks_say_so(tmp_path, tree, monkeypatch):
    """On Windows there is no ledger."""
    monkeypatch.setattr(module, "fcntl", None)
    with pytest.raises(RecordError, match="no file locks"):
        ReservationFile(str(tmp_path / "ledger"), ProcProbe(tree.proc))


def test_one_table_for_each_file(tmp_path, tree):
    """By whatever path it was named: closing a second descriptor would drop the locks of the first."""
    (tmp_path / "link").symlink_to(tmp_path)
    probe = ProcProbe(tree.proc)
    first = module.reservation_file_at(str(tmp_path / "ledger"), probe)
    assert module.reservation_file_at(str(tmp_path / "link" / "ledger"), probe) is first
    first.leave()
    assert module.reservation_file_at(str(tmp_path / "ledger"), probe) is first
    first.leave()
    first.leave()
    assert module.reservation_file_at(str(tmp_path / "ledger"), probe) is not first


def test_a_bell_rings_and_is_removed(table):
    """A pipe beside the file; ringing one that is not there does nothing."""
    fd = table.hang_bell(0x1F)
    assert stat.S_ISFIFO(os.stat(table.path + ".1f").st_mode)
    table.ring(0x1F)
    assert os.read(fd, 10) == b"!"
    os.close(fd)
    table.ring(0x1F)  # nobody listens
    table.remove_bell(0x1F)
    table.ring(0x1F)
    assert not os.path.exists(table.path + ".1f")
