"""A directory that fills: what is counted, what is not, and that nothing ever waits for it."""

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import DirectoryUsage
from memwarden.readers import tempdir
from memwarden.readers.tempdir import DirectoryCount, TempdirReader, default_directory
from support.trees import descriptors

pytestmark = pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="POSIX only")


def blocks(path: Path) -> int:
    return os.lstat(path).st_blocks * 512


def sweep(path: Path, step: int = 7) -> DirectoryCount:
    """A whole count, in small steps; it leaves no descriptor."""
    before, made = descriptors(), DirectoryCount(str(path))
    while not made.step(step):
        pass
    made.close()
    assert descriptors() == before
    return made


def whole(reader: TempdirReader) -> DirectoryUsage:
    """The figures of a complete count that began now."""
    for directory in reader._start().directories:
        directory.due = float("-inf")
        directory.figures = None
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = reader.read()["directories"]
        if found and all(each.age is not None for each in found):
            return found[0]
        threading.Event().wait(0.002)
    pytest.fail("no complete count in 20 s")


@pytest.fixture(autouse=True)
def _updates_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempdir, "_FRESH", 0.01)


@pytest.fixture
def readers() -> Iterator[list[TempdirReader]]:
    made: list[TempdirReader] = []
    yield made
    for each in made:
        each.close()
    assert [thread for thread in threading.enumerate() if thread.name == tempdir.THREAD] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven files in three folders."""
    for name, size in (
        ("a", 1),
        ("b", 5000),
        ("one/c", 70_000),
        ("one/two/d", 0),
        ("one/two/e", 9),
        ("f", 8),
        ("g", 4),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return tmp_path


@pytest.mark.contract("S0-10")
def test_files_are_counted_with_what_they_take_on_disk(folder: Path) -> None:
    """Blocks and not lengths, folders included as du has them; the folders are not files."""
    made = sweep(folder)
    everything = [folder, *folder.rglob("*")]
    assert (made.files, made.used) == (7, sum(map(blocks, everything)))
    assert made.gaps() == ()


def test_a_sparse_file_takes_what_it_takes(tmp_path: Path) -> None:
    """A gigabyte of nothing is nothing."""
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    assert sweep(tmp_path).used < 1 << 20


def test_a_file_with_several_names_takes_its_place_once(tmp_path: Path) -> None:
    """Hard links are files each, and one file's blocks."""
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "sub").mkdir()
    for number in range(5):
        os.link(tmp_path / "a", tmp_path / "sub" / str(number))
    made = sweep(tmp_path)
    assert made.files == 6
    assert made.used == blocks(tmp_path) + blocks(tmp_path / "sub") + blocks(tmp_path / "a")


def test_more_hard_links_than_are_remembered_still_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not remembered counts by parts, so that a mass of links takes no memory of ours."""
    monkeypatch.setattr(tempdir, "_MAX_LINKED", 0)
    (tmp_path / "a").write_bytes(b"x" * 64 * 1024)
    for number in range(3):
        os.link(tmp_path / "a", tmp_path / str(number))
    assert sweep(tmp_path).used == blocks(tmp_path) + blocks(tmp_path / "a")


def test_links_are_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither out of the directory, nor round in a circle, nor into nothing: each is one entry."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "large").write_bytes(b"x" * 1_000_000)
    (folder / "out").symlink_to(outside)
    (folder / "large").symlink_to(outside / "large")
    (folder / "round").symlink_to(folder)
    (folder / "nowhere").symlink_to("no/such/file")
    made = sweep(folder)
    assert made.files == 7 + 4
    assert made.used < 500_000


def test_another_file_system_is_not_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on another device is not counted, and is no gap."""
    made = DirectoryCount(str(folder))
    inside, genuine = blocks(folder / "one") + blocks(folder / "one" / "c"), made._add

    class Elsewhere:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.path, self._facts = entry.path, entry.stat(follow_symlinks=False)

        def stat(self, *, follow_symlinks: bool) -> Any:
            there = {"st_mode": self._facts.st_mode, "st_dev": self._facts.st_dev + 1, "st_blocks": 8}
            return SimpleNamespace(**there)

    monkeypatch.setattr(made, "_add", lambda entry: genuine(Elsewhere(entry) if entry.name == "two" else entry))
    assert made.step(1000)
    assert made.files == 5
    assert inside < made.used
    assert made.gaps() == ()


def test_files_that_vanish_meanwhile_are_no_trouble(folder: Path) -> None:
    """Entries that were listed and are gone when looked at; a folder removed while it is read."""
    made = DirectoryCount(str(folder))
    made.step(1)
    shutil.rmtree(folder)
    while not made.step(1):
        pass
    assert made.files <= 1
    assert made.gaps() == ()


def test_denied_folders_are_one_gap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is counted; the gap names the first, counts the others and says the way out."""
    for number in range(20):
        (folder / f"secret{number}").mkdir()
    genuine = os.scandir

    def refuse(path: Any) -> Any:
        if "secret" in os.path.basename(path):
            raise PermissionError(13, "Permission denied", path)
        return genuine(path)

    monkeypatch.setattr(os, "scandir", refuse)
    made = sweep(folder)
    assert made.files == 7
    [gap] = made.gaps()
    assert (gap.what, gap.where, gap.why) == ("directory", str(folder), "denied")
    assert "and 19 more" in gap.detail
    assert "owner" in gap.detail


def test_a_hole_without_a_bottom_takes_few_descriptors(tmp_path: Path) -> None:
    """Folders in folders, a hundred deep: counted down to a depth, the rest is reported."""
    here, fd = descriptors(), os.open(tmp_path, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    made, most = DirectoryCount(str(tmp_path)), 0
    while not made.step(1):
        most = max(most, descriptors() - here)
    assert most <= tempdir.DEEPEST
    assert made.files == 0
    [gap] = made.gaps()
    assert "deeper" in gap.detail


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[2J", b" ", b"-rf", "naïve".encode()])
def test_hostile_names_are_counted_and_reported_harmlessly(
    tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is any bytes; in a gap it can be printed anywhere."""
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b"/" + name)).touch()
    assert sweep(tmp_path).files == 1
    monkeypatch.setattr(tempdir, "DEEPEST", 1)
    [gap] = sweep(tmp_path).gaps()
    assert gap.detail.isprintable()
    gap.detail.encode("utf-8")


@pytest.mark.parametrize("kind", ["nothing", "file", "nul", "fifo"])
@pytest.mark.contract("S0-10", "W1-10")
def test_what_is_no_directory_is_reported(tmp_path: Path, kind: str, readers: list[TempdirReader]) -> None:
    """Absent or broken, with its path; there is no figure in its place."""
    path = tmp_path / "it"
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    reader = TempdirReader(f"{path}\0" if kind == "nul" else str(path))
    readers.append(reader)
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            reader.read()
        assert caught.value.why == ("broken" if kind == "nul" else "absent")
        assert caught.value.where.startswith(str(path))


@pytest.mark.contract("V-7")
def test_it_has_what_an_alert_needs(folder: Path, readers: list[TempdirReader]) -> None:
    """Size, count, age of the oldest file and free disk, of the path asked for; all is left as it was."""
    os.utime(folder / "b", (0, 1_699_999_000))
    (folder / "dead").symlink_to("nowhere")
    os.utime(folder / "dead", (0, 1_699_999_999), follow_symlinks=False)
    before = sorted((path, os.lstat(path)[:7], os.lstat(path).st_mtime) for path in folder.rglob("*"))
    reader = TempdirReader(folder, budget=1.0, wall=lambda: 1_700_000_000.0)
    readers.append(reader)
    usage, volume = whole(reader), os.statvfs(folder)
    assert (usage.path, usage.files, usage.oldest) == (str(folder), 8, 1000.0)
    assert usage.used == sum(map(blocks, [folder, *folder.rglob("*")]))
    assert usage.total == volume.f_blocks * volume.f_frsize
    assert usage.free == pytest.approx(volume.f_bavail * volume.f_frsize, abs=1 << 30)
    assert sorted((path, os.lstat(path)[:7], os.lstat(path).st_mtime) for path in folder.rglob("*")) == before


def test_an_empty_directory_has_no_oldest_file(tmp_path: Path, readers: list[TempdirReader]) -> None:
    """None, and not 0."""
    readers.append(TempdirReader(tmp_path, budget=1.0))
    usage = whole(readers[0])
    assert (usage.files, usage.oldest) == (0, None)


def test_a_file_from_the_future_is_not_younger_than_now(tmp_path: Path, readers: list[TempdirReader]) -> None:
    """A clock that was wrong gives no negative age."""
    (tmp_path / "f").touch()
    os.utime(tmp_path / "f", (5e9, 5e9))
    readers.append(TempdirReader(tmp_path, budget=1.0))
    assert whole(readers[0]).oldest == 0.0


def test_the_last_complete_count_stands_and_grows_old(folder: Path, readers: list[TempdirReader]) -> None:
    """Until the next one is complete its figures are given, with their age; a new one starts after ``every``."""
    now = [1000.0]
    reader = TempdirReader(folder, budget=1.0, every=30.0, monotonic=lambda: now[0])
    readers.append(reader)
    assert whole(reader).age == 0.0
    (folder / "new").touch()
    now[0] += 29.0
    for _ in range(3):
        [usage] = reader.read()["directories"]
        assert (usage.files, usage.age) == (7, 29.0)
    now[0] += 2.0
    until = time.monotonic() + 20
    while usage.files == 7:
        assert time.monotonic() < until
        [usage] = reader.read()["directories"]
    assert (usage.files, usage.age) == (8, 0.0)


def test_figures_so_far_are_reported_with_the_first_look(tmp_path: Path, readers: list[TempdirReader]) -> None:
    """A directory too large for a slice: the first sample has what was counted by then, and no age."""
    for number in range(3000):
        (tmp_path / str(number)).touch()
    reader = TempdirReader(tmp_path, budget=0.001)
    readers.append(reader)
    [usage] = reader.read()["directories"]
    assert usage.age is None
    assert usage.total > 0
    assert usage.files < 3000


def test_a_file_system_that_hangs_delays_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, readers: list[TempdirReader]
) -> None:
    """The sample returns at once, the gap names the thread, close returns, no second thread is put beside it; and when
    it answers again, everything goes on."""
    now, answer, asked = [1000.0], threading.Event(), threading.Event()
    reader = TempdirReader(folder, budget=1.0, timeout=5.0, monotonic=lambda: now[0])
    readers.append(reader)
    whole(reader)
    genuine = os.statvfs

    def hang(path: Any) -> os.statvfs_result:
        asked.set()
        assert answer.wait(30)
        return genuine(path)

    monkeypatch.setattr(os, "statvfs", hang)
    now[0] += 2.0
    reader.read()
    assert asked.wait(10)
    now[0] += 4.0
    assert reader.read()["gaps"] == ()
    now[0] += 2.0
    started = time.monotonic()
    read = reader.read()
    assert time.monotonic() - started < 0.5
    assert [(gap.why, gap.where) for gap in read["gaps"]] == [("slow", str(folder))]
    assert tempdir.THREAD in read["gaps"][0].detail
    assert [(each.files, each.age) for each in read["directories"]] == [(7, 8.0)]

    monkeypatch.setattr(tempdir, "_STOP_SECONDS", 0.01)
    reader.close()
    for _ in range(3):
        with pytest.raises(ReadError) as caught:
            reader.read()
        assert caught.value.why == "slow"
    assert len([thread for thread in threading.enumerate() if thread.name == tempdir.THREAD]) == 1
    hanging = next(thread for thread in threading.enumerate() if thread.name == tempdir.THREAD)
    answer.set()
    hanging.join(10)
    monkeypatch.undo()
    assert whole(reader).files == 7


def test_the_thread_ends_in_the_middle_of_a_count(tmp_path: Path) -> None:
    """Closing needs no complete count and leaves no descriptor and no thread."""
    (tmp_path / "sub").mkdir()
    for number in range(3000):
        (tmp_path / "sub" / str(number)).touch()
    before = descriptors()
    reader = TempdirReader(tmp_path, budget=0.001)
    reader.read()
    assert descriptors() > before
    reader.close()
    reader.close()
    assert descriptors() == before
    assert [thread for thread in threading.enumerate() if thread.name == tempdir.THREAD] == []


def test_a_child_after_a_fork_counts_for_itself(tmp_path: Path, readers: list[TempdirReader]) -> None:
    """In the middle of the parent's count: the child closes the copies, counts anew, and the parent goes on."""
    for number in range(3000):
        (tmp_path / str(number)).touch()
    reader = TempdirReader(tmp_path, budget=0.2)
    readers.append(reader)
    before = set(os.listdir("/proc/self/fd"))
    reader.read()
    pid = os.fork()
    if pid == 0:  # no assertion may leave this branch
        code = 1
        try:
            reader.close()
            # Not their number: what others have open may close itself in a child, too.
            closed = set(os.listdir("/proc/self/fd")) <= before
            reader = TempdirReader(tmp_path, budget=1.0)
            code = 0 if closed and whole(reader).files == 3000 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert whole(reader).files == 3000


def test_a_fault_of_the_counting_itself_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, readers: list[TempdirReader]
) -> None:
    """The thread lives on, and counts again when it can."""
    reader = TempdirReader(folder, budget=1.0)
    readers.append(reader)
    monkeypatch.setattr(DirectoryCount, "step", lambda *_: 1 / 0)
    with pytest.raises(ReadError) as caught:
        reader.read()
    assert caught.value.why == "broken"
    monkeypatch.undo()
    assert whole(reader).files == 7


def test_several_directories_are_reported_one_by_one(folder: Path, readers: list[TempdirReader]) -> None:
    """One that is not there costs a gap, and the other is reported."""
    reader = TempdirReader([str(folder), str(folder / "one"), str(folder / "none")], budget=1.0)
    readers.append(reader)
    whole(reader)
    read = reader.read()
    assert [(each.path, each.files) for each in read["directories"]] == [(str(folder), 7), (str(folder / "one"), 3)]
    assert [(gap.why, gap.where) for gap in read["gaps"]] == [("absent", str(folder / "none"))]


def test_the_systems_directory_is_the_programs_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TMPDIR says where; a full directory, which tempfile would pass over, is the one to watch."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert default_directory() == "/tmp"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_directory() == str(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "chosen"))
    assert default_directory() == str(tmp_path / "chosen")


def test_it_lists_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one call that could change anything is made."""
    for name in ("open", "remove", "unlink", "rmdir", "rename", "replace", "utime", "chmod", "truncate", "mkdir"):
        monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("it would change something"))
    made = DirectoryCount(str(folder))
    assert made.step(1000)
    assert made.files == 7
    monkeypatch.undo()
    assert stat.S_ISREG(os.stat(folder / "a").st_mode)
