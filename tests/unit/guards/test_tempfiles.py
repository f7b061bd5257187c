"""Temporary files: made for one user, removed by their maker, whatever the file system does."""

import contextlib
import os
import stat
import sys
from pathlib import Path

import pytest

from memwarden.errors import ActionFailed, SettingsError
from memwarden.guards.resources import tempfiles
from memwarden.guards.resources.tempfiles import make_directory, make_file

pytest.importorskip("fcntl", reason="temporary files are locked on POSIX systems alone")


def runs(temporary):
    """The run directories that there are."""
    return sorted(temporary.glob("memwarden-*/run-*"))


def test_a_file_is_new_private_and_empty(temporary):
    """No other user can read it, and its name has what was asked for."""
    made = make_file(".mp4", "part-")
    facts = os.stat(made.path)
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_size == 0
    assert Path(made.path).name.startswith("part-")
    assert made.path.endswith(".mp4")
    assert Path(made.path).is_relative_to(temporary)


def test_everything_around_it_is_private(temporary):
    """A folder in a shared place that others could write to would let them put a link there."""
    make_file()
    for folder in (temporary / f"memwarden-{os.getuid()}", *runs(temporary)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_two_are_the_same(temporary):
    """A thousand names, each once."""
    made = [make_file(".x") for _ in range(1000)]
    assert len({each.path for each in made}) == 1000
    assert [each.remove() for each in made] == [""] * 1000
    assert [list(run.iterdir()) for run in runs(temporary)] == [[]]


def test_a_directory_goes_with_all_that_is_in_it(temporary, tmp_path):
    """Folders that a program made read-only, too; what a link in it leads to stays."""
    kept = tmp_path / "kept"
    kept.write_text("mine")
    made = make_directory()
    inner = Path(made.path, "a", "b")
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (inner / "link").symlink_to(kept)
    inner.chmod(0o500)
    assert made.remove() == ""
    assert not os.path.lexists(made.path)
    assert kept.read_text() == "mine"


def test_one_that_became_something_else(temporary, tmp_path):
    """Moved away it stays where it is; a folder or a link in its place is removed, and not what that leads to."""
    final, kept = tmp_path / "final.mp4", tmp_path / "kept"
    kept.write_text("mine")
    moved, folder, link = make_file(), make_file(), make_file()
    os.replace(moved.path, final)
    for each in (folder, link):
        os.unlink(each.path)
    os.mkdir(folder.path)
    os.symlink(kept, link.path)
    assert [each.remove() for each in (moved, folder, link)] == ["", "", ""]
    assert final.exists()
    assert kept.read_text() == "mine"
    assert not os.path.lexists(folder.path)
    assert not os.path.lexists(link.path)


def test_removing_twice_is_no_fault(temporary):
    """And the second time does not take what has that name by then."""
    made = make_file()
    assert made.remove() == made.remove() == ""


def test_one_in_a_folder_of_the_user_s_is_noted_before_it_is_made(temporary, tmp_path, monkeypatch):
    """A kill in between leaves a note of nothing, and never a file without a note; both go together."""
    noted = []
    original = os.open

    def watch(path, *arguments, **options):
        if str(path).startswith(str(tmp_path / "out")):
            noted.extend(os.readlink(each) for run in runs(temporary) for each in run.iterdir())
        return original(path, *arguments, **options)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "open", watch)
    made = make_file(".part", directory=tmp_path / "out")
    assert noted == [made.path]
    made.remove()
    assert [list(run.iterdir()) for run in runs(temporary)] == [[]]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_relative_folder_is_understood_when_it_is_named(temporary, tmp_path, monkeypatch):
    """The program may go elsewhere before the file is removed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    made = make_file(directory="out")
    monkeypatch.chdir("/")
    assert os.path.isabs(made.path)
    made.remove()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_not_there_leaves_nothing(temporary, tmp_path):
    """The system's own error names it."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make_file(directory=tmp_path / "nowhere")
    assert [list(run.iterdir()) for run in runs(temporary)] == [[]]


@pytest.mark.parametrize("part", ["../x", "/etc/x", "a\0b", b".mp4", None])
def test_a_suffix_is_part_of_a_name(temporary, part):
    """What would lead elsewhere is refused, with an example."""
    with pytest.raises(SettingsError, match=r"'\.mp4'"):
        make_file(part)
    with pytest.raises(SettingsError):
        make_directory(prefix=part)


def test_a_planted_folder_is_refused(temporary, tmp_path, monkeypatch):
    """A link, a file, or the folder of another user, which was there first in a shared place; with the way out."""
    home = temporary / f"memwarden-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ActionFailed, match="no directory; set TMPDIR"):
        make_file()
    home.unlink()
    make_file()
    planted = os.stat_result((stat.S_IFDIR | 0o700, 0, 0, 0, 4711, *[0] * 5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", lambda path: planted)
        with pytest.raises(ActionFailed, match=r"another user \(4711\); set TMPDIR"):
            make_file()


def test_one_that_others_may_write_to_is_made_private(temporary):
    """It may have been made by an older program of the same user."""
    home = temporary / f"memwarden-{os.getuid()}"
    home.mkdir()
    home.chmod(0o777)
    make_file()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_the_temporary_directory_is_emptied(temporary):
    """The next file has a place again; removing the lost one is no fault."""
    import shutil

    lost = make_file()
    shutil.rmtree(temporary / f"memwarden-{os.getuid()}")
    made = make_file()
    assert os.path.exists(made.path)
    assert lost.remove() == made.remove() == ""


def test_a_descriptor_that_another_file_has_since_is_not_closed(temporary):
    """A program that closes all descriptors closes ours, too."""
    make_file()
    (run,) = tempfiles._own.runs.values()
    number = run._fd
    os.close(number)
    other = os.open(os.devnull, os.O_RDONLY)
    if other != number:
        os.dup2(other, number)
        os.close(other)
    tempfiles._own.remove_all()
    os.fstat(number)
    os.close(number)


def test_without_locks_files_are_removed_all_the_same(temporary, monkeypatch):
    """Only the files that a kill leaves stay: nothing shows that they are unused."""

    def refuse(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(tempfiles.stale_tempfiles, "lock", refuse)
    made = make_file()
    assert os.path.exists(made.path)
    assert made.remove() == ""
    tempfiles._own.remove_all()
    assert runs(temporary) == []


def test_without_links_files_are_made_all_the_same(temporary, tmp_path, monkeypatch):
    """On a file system that has none a kill leaves what stands elsewhere; nothing else changes."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    made = make_file(directory=tmp_path)
    assert os.path.exists(made.path)
    assert made.remove() == ""


def test_what_cannot_be_removed_is_reported_and_tried_again_at_the_end(temporary, monkeypatch, caplog):
    """The block's result is not lost for it."""
    made = make_file()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
        assert "Operation not permitted" in made.remove()
    assert made.path in caplog.text
    tempfiles._own.remove_all()
    assert runs(temporary) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_owns_nothing(temporary):
    """It neither removes its parent's file, nor at its end; and what it makes itself has a place of its own."""
    made = make_file()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mine = make_file()
            apart = os.path.dirname(mine.path) != os.path.dirname(made.path)
            made.remove()
            tempfiles._own.remove_all()
            code = 0 if apart and not os.path.exists(mine.path) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert os.path.exists(made.path)


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are listed in /proc")
def test_a_child_keeps_no_lock(temporary):
    """Else its parent's files would stay as long as it lives."""
    make_file()
    (run,) = tempfiles._own.runs.values()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            here = os.stat(run.path)
            same = []
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):  # the list's own
                    facts = os.fstat(int(name))
                    same += [name] if (facts.st_dev, facts.st_ino) == (here.st_dev, here.st_ino) else []
            code = 2 if same else 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
