"""Telling the temporary files of the dead from those of the living."""

import os
import subprocess
import sys

import pytest

from memwarden.guards.resources import stale_tempfiles
from memwarden.model.facts import ProcessKey

fcntl = pytest.importorskip("fcntl", reason="dead owners are known by locks, which POSIX systems have")

DEAD = ProcessKey(2**22 + 1, 5)  # no kernel gives such a pid


def run_directory(home, key=DEAD, pidns=None, word="00000000"):
    """One with a file in it."""
    namespace = stale_tempfiles.namespace("pid") if pidns is None else pidns
    folder = home / f"{stale_tempfiles.run_prefix(key, namespace)}{word}"
    folder.mkdir()
    (folder / "file").write_text("x")
    return folder


def locked(folder):
    """Held as by its owner."""
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_those_of_the_dead_go(tmp_path):
    """No lock, and no process of that identity."""
    folder = run_directory(tmp_path)
    assert stale_tempfiles.reap(str(tmp_path)) == [str(folder)]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_alone_protects(tmp_path):
    """Its holder may be in another container, where no pid of ours means anything."""
    folder = run_directory(tmp_path, pidns=1)
    fd = locked(folder)
    assert stale_tempfiles.reap(str(tmp_path)) == []
    os.close(fd)
    assert stale_tempfiles.reap(str(tmp_path)) == [str(folder)]


def test_an_identity_alone_protects(tmp_path):
    """A living program that closed all of its descriptors has lost the lock, and still needs its files."""
    parent = stale_tempfiles.identity_probe().key_of(os.getppid())
    folder = run_directory(tmp_path, parent)
    assert stale_tempfiles.reap(str(tmp_path)) == []
    assert (folder / "file").exists()


def test_a_pid_alone_does_not(tmp_path):
    """It was given to another process since: one with another start."""
    parent = stale_tempfiles.identity_probe().key_of(os.getppid())
    folder = run_directory(tmp_path, parent._replace(start=parent.start - 1))
    assert stale_tempfiles.reap(str(tmp_path)) == [str(folder)]


def test_of_the_program_that_this_process_was_before(tmp_path):
    """An exec keeps pid and start; the lock went with the old program, and nothing else would ever remove its files."""
    before = run_directory(tmp_path, stale_tempfiles.own_key())
    own = run_directory(tmp_path, stale_tempfiles.own_key(), word="11111111")
    assert stale_tempfiles.reap(str(tmp_path), [str(own)]) == [str(before)]
    assert own.exists()


def test_what_is_not_ours_stays(tmp_path):
    """Whatever else stands in the folder, also under a similar name, and a link to somewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    home = tmp_path / "home"
    home.mkdir()
    for name in ("notes", "run-1-2-3", "run-1-2-3-0000000g", "run-x", ".run-1-2-3-00000000"):
        (home / name).mkdir()
    (home / "run-1-2-3-00000000").symlink_to(elsewhere)
    (home / "run-1-2-3-00000001").write_text("a file")
    assert stale_tempfiles.reap(str(home)) == []
    assert len(list(home.iterdir())) == 7
    assert (elsewhere / "file").read_text() == "mine"


def test_what_was_made_elsewhere_goes_too(tmp_path):
    """By its link; a link whose target does not bear its word was tampered with, and leads nowhere."""
    mine, word = tmp_path / "mine", "0123456789abcdef"
    mine.write_text("mine")
    made = tmp_path / f"memwarden-{word}.mp4"
    made.write_text("x")
    home = tmp_path / "home"
    home.mkdir()
    folder = run_directory(home)
    (folder / f"out-{word}").symlink_to(made)
    (folder / "out-fedcba9876543210").symlink_to(mine)
    (folder / "other").symlink_to(mine)
    assert stale_tempfiles.reap(str(home)) == [str(folder)]
    assert not made.exists()
    assert mine.read_text() == "mine"


def test_what_cannot_be_removed_stays_for_the_next(tmp_path, monkeypatch):
    """And nothing is raised: a start is not the moment to fail for the files of another process."""
    folder = run_directory(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
        assert stale_tempfiles.reap(str(tmp_path)) == []
    assert stale_tempfiles.reap(str(tmp_path)) == [str(folder)]
    assert stale_tempfiles.reap(str(tmp_path / "nowhere")) == []


def test_one_that_was_replaced_between_opening_and_locking_stays(tmp_path, monkeypatch):
    """The lock is on the directory that was opened, not on what has its name now."""
    folder = run_directory(tmp_path)
    original = stale_tempfiles.lock

    def swap(path, *, wait):
        fd = original(path, wait=wait)
        os.rename(folder, tmp_path / "moved")
        run_directory(tmp_path)
        return fd

    monkeypatch.setattr(stale_tempfiles, "lock", swap)
    assert stale_tempfiles.reap(str(tmp_path)) == []
    assert (folder / "file").exists()


def test_a_killed_process_leaves_its_lock(tmp_path):
    """The kernel drops it, and only then may any process remove the directory."""
    program = (
        "import sys; from memwarden.guards.resources import stale_tempfiles as reaper\n"
        "fd = reaper.lock(sys.argv[1], wait=True); print('held', flush=True); sys.stdin.read()"
    )
    folder = run_directory(tmp_path, pidns=1)
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "held\n"
        assert stale_tempfiles.reap(str(tmp_path)) == []
        child.kill()
        child.wait()
    assert stale_tempfiles.reap(str(tmp_path)) == [str(folder)]
