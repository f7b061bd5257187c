"""Managed resources: there in the block, gone after it, and cleaned up by force only within their own scope."""

import os
import threading
import types

import pytest

from memwarden.errors import SettingsError
from memwarden.guards.resources import managed as managed_resources
from memwarden.guards.resources.managed import (
    force_memory_cleanup,
    managed,
    managed_temp_directory,
    managed_tempfile,
    register,
    resource_counts,
    resource_scope,
)


@pytest.mark.parametrize("manager", [managed_tempfile, managed_temp_directory])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_gone_after_the_block_however_it_ends(temporary, manager, error):
    """Also where an interrupt or a want of memory ends it, which is raised as it was."""
    if error is None:
        with manager(".x") as path:
            assert os.path.exists(path)
    else:
        with pytest.raises(error), manager(".x") as path:
            raise error
    assert not os.path.exists(path)
    assert resource_counts() == dict.fromkeys(("file", "directory", "process", "capture", "closable"), 0)


def test_a_file_that_cannot_be_removed_costs_no_result(temporary, monkeypatch, caplog):
    """The block ends well, and it is logged."""
    with monkeypatch.context() as patch, managed_tempfile() as path:
        patch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    assert path in caplog.text
    assert os.path.exists(path)


def test_anything_can_be_managed():
    """By its close, its release, or whatever is named; what has none of them is refused."""
    closed = []
    for thing in (
        types.SimpleNamespace(close=lambda: closed.append("close"), release=lambda: closed.append("wrong")),
        types.SimpleNamespace(release=lambda: closed.append("release")),
    ):
        with managed(thing) as same:
            assert same is thing
    with managed(object(), lambda: closed.append("named")):
        pass
    assert closed == ["close", "release", "named"]
    with pytest.raises(SettingsError, match="pass close="), managed(object()):
        pass


def test_what_is_registered_goes_with_its_job():
    """Unless it is released before."""
    closed = []
    with resource_scope("encode"):
        register(object(), lambda: closed.append("early")).release()
        register(object(), lambda: closed.append("with the job"))
        assert closed == ["early"]
    assert closed == ["early", "with the job"]


@pytest.mark.contract("S1-50", "S1-58")
def test_forced_cleanup_and_trying_again(temporary):
    """In an except block, any number of times: its own resources are released, the retry works, and it is reported."""
    attempts, paths, closed = [], [], []
    with resource_scope("analyze"):
        while len(attempts) < 3:
            with managed_tempfile(".mp4") as file, managed_temp_directory() as folder:
                register(object(), lambda: closed.append(len(attempts)))
                try:
                    attempts.append(1)
                    paths += [file, folder]
                    if len(attempts) < 3:
                        raise ValueError("processing failed")
                    assert os.path.exists(file)
                except ValueError:
                    done = force_memory_cleanup()
                    assert not any(map(os.path.exists, paths))
                    assert (done.files, done.directories, done.closables, done.failed) == (1, 1, 1, ())
                    again = force_memory_cleanup()
                    assert (again.files, again.directories, again.closables) == (0, 0, 0)
    assert closed == [1, 2, 3]
    assert not any(map(os.path.exists, paths))


def test_forced_cleanup_reports_what_went_wrong(temporary, caplog):
    """And raises nothing: an except block is no place for another exception."""
    with resource_scope("analyze"):
        register(object(), lambda: 1 / 0)
        with managed_tempfile():
            done = force_memory_cleanup()
    assert (done.files, done.closables) == (1, 0)
    assert "division by zero" in done.failed[0]
    assert "division by zero" in caplog.text


def test_forced_cleanup_collects(temporary):
    """Garbage that only the collector finds, and it says how much."""

    class Knot:
        pass

    for _ in range(100):
        knot = Knot()
        knot.itself = knot
    assert force_memory_cleanup().objects >= 100


@pytest.mark.contract("S1-50", "W1-8")
def test_another_job_keeps_its_things(temporary):
    """In another thread, around this one, and in a block that a thread has open outside of any job."""
    ready, go = threading.Barrier(3, timeout=10), threading.Event()
    kept = []

    def other(name):
        with resource_scope(name) if name else managed(object(), lambda: None), managed_tempfile() as path:
            ready.wait()
            go.wait(10)
            kept.append(os.path.exists(path))

    threads = [threading.Thread(target=other, args=(name,)) for name in ("other job", None)]
    for each in threads:
        each.start()
    with resource_scope("outer"), managed_tempfile() as outer:
        with resource_scope("inner"), managed_tempfile() as inner:
            ready.wait()
            force_memory_cleanup()
            assert not os.path.exists(inner)
        assert os.path.exists(outer)
        assert resource_counts()["file"] == 3
        go.set()
        for each in threads:
            each.join()
    assert kept == [True, True]


def test_opencv_is_asked_for_by_name_when_it_is_missing(monkeypatch):
    """With the command to type; nothing else needs it."""
    import sys

    from memwarden.errors import ExtraMissing

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'memwarden\[video\]'"):
        with managed_resources.managed_opencv_capture("video.mp4"):
            pass
