"""Events as JSON lines that survive what happens to files."""

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap
from memwarden.protocols import Recorder
from memwarden.records.jsonl import JsonlRecorder, read_lines
from support.trees import HOSTILE_NAMES, descriptors
from support.values import EVENT, FULL, PROCESS, READING, WALL


def event(number: int = 0, **changes: Any) -> Event:
    """An event that can be reported from others."""
    return Event(kind=EventKind.SAMPLE, wall=WALL, monotonic=1.0, message=f"m{number}")._replace(**changes)


def messages(path: object) -> list[str]:
    """What a record holds, in order."""
    return [each.message for each in read_lines(str(path))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


@pytest.mark.contract("S2-7", "S2-59", "S2-11")
def test_each_event_is_a_line_of_json(path: Path) -> None:
    """It stands in the file as soon as it is recorded, before anything is closed."""
    recorder = JsonlRecorder(path)
    recorder.record(EVENT)
    recorder.record(event(1))
    lines = path.read_bytes().split(b"\n")
    assert (len(lines), lines[2]) == (3, b"")
    plain = json.loads(lines[0])
    system, group = plain["value"]["sample"]["system"], plain["value"]["sample"]["cgroups"][0]
    assert (system["total_bytes"], system["available_bytes"]) == (8000, 6000)
    assert (group["usage_bytes"], group["limit_bytes"]) == (400, 1000)
    assert plain["value"]["assessment"]["binding"]["used_bytes"] == 930
    assert plain["value"]["assessment"]["available_bytes"] == 70
    assert list(read_lines(path)) == [EVENT, event(1)]
    recorder.close()


@pytest.mark.contract("V-16")
def test_times_are_iso_8601_with_microseconds_and_offset(path: Path, local_zone: Callable[[str], None]) -> None:
    """Local time that can be read anywhere."""
    local_zone("IST-5:30")
    JsonlRecorder(path).record(event())
    assert json.loads(path.read_text())["time"] == "2023-11-15T03:43:20.123456+05:30"
    assert datetime.fromisoformat(json.loads(path.read_text())["time"]).timestamp() == WALL


@pytest.mark.parametrize("value", FULL, ids=lambda value: type(value).__name__)
def test_every_value_comes_back_out_of_the_file(path: Path, value: Any) -> None:
    """An event may be about any of them."""
    recorder = JsonlRecorder(path)
    recorder.record(event(value=value))
    recorder.close()
    assert [each.value for each in read_lines(path)] == [value]


@pytest.mark.contract("S2-59")
@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_a_hostile_name_stays_inside_its_line(path: Path, name: bytes) -> None:
    """Whatever a process calls itself, one event is one line of valid JSON in valid UTF-8."""
    text = name.decode("utf-8", "surrogateescape")
    recorder = JsonlRecorder(path)
    recorder.record(event(value=PROCESS._replace(name=text)))
    recorder.record(event(2))
    data = path.read_bytes()
    assert data.count(b"\n") == 2
    assert json.loads(data.split(b"\n")[0].decode())["value"]["name"] == text
    assert [each.message for each in read_lines(path)] == ["m0", "m2"]


@pytest.mark.contract("S2-59")
@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_figure_that_json_has_no_word_for_is_null(path: Path, figure: float) -> None:
    """``NaN`` would be no JSON."""
    JsonlRecorder(path).record(event(details={"rate": figure}))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["details"] == {"rate": None}


@pytest.mark.contract("S2-11", "W1-10")
def test_a_gap_is_in_the_record(path: Path) -> None:
    """A figure that could not be read is reported with its reason; its key is not there."""
    sample = READING.sample._replace(system=None, gaps=(Gap("meminfo", "/proc/meminfo", "denied"),))
    JsonlRecorder(path).record(event(value=READING._replace(sample=sample)))
    plain = json.loads(path.read_text())["value"]["sample"]
    assert "system" not in plain
    assert plain["gaps"][0] == {
        "type": "gap",
        "what": "meminfo",
        "where": "/proc/meminfo",
        "why": "denied",
        "detail": "",
    }


# --- where it is written ------------------------------------------------------------------------------


@pytest.mark.contract("W2-5")
def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    """With what leads to it; folder and file are the user's own."""
    path = tmp_path / "a" / "b" / "record.jsonl"
    JsonlRecorder(path).record(event())
    assert messages(path) == ["m0"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.contract("W2-5")
def test_a_folder_that_cannot_be_made_is_reported_at_once(tmp_path: Path) -> None:
    """The first record raises, and names the file and a way out that fits; nothing is lost in silence."""
    (tmp_path / "file").write_text("")
    recorder = JsonlRecorder(tmp_path / "file" / "record.jsonl")
    with pytest.raises(RecordError, match=r"record\.jsonl: [^;]*; record to another path$") as caught:
        recorder.record(event())
    assert caught.value.path == str(tmp_path / "file" / "record.jsonl")
    assert recorder.lost == 1


@pytest.mark.contract("W2-5")
def test_no_link_is_followed(tmp_path: Path) -> None:
    """In a shared directory another user may have created one under our name: its target stays as it was."""
    victim, path = tmp_path / "victim", tmp_path / "record.jsonl"
    victim.write_text("mine\n")
    path.symlink_to(victim)
    with pytest.raises(RecordError):
        JsonlRecorder(path).record(event())
    dangling = tmp_path / "dangling.jsonl"
    dangling.symlink_to(tmp_path / "made")
    with pytest.raises(RecordError):
        JsonlRecorder(dangling).record(event())
    assert victim.read_text() == "mine\n"
    assert not (tmp_path / "made").exists()


@pytest.mark.contract("W2-5")
def test_no_link_is_followed_where_opening_cannot_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows opens whatever a link leads to, so it is looked for before."""
    monkeypatch.delattr(os, "O_NOFOLLOW", raising=False)
    monkeypatch.setattr(os.path, "islink", lambda path: str(path).endswith("link.jsonl"))
    with pytest.raises(RecordError, match="is a link"):
        JsonlRecorder(tmp_path / "link.jsonl").record(event())
    assert not (tmp_path / "link.jsonl").exists()
    JsonlRecorder(tmp_path / "plain.jsonl").record(event())


@pytest.mark.contract("W2-5")
def test_the_file_stays_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One opening for all lines, one descriptor, given back by close."""
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda *args, **rest: (opened.append(args[0]), real(*args, **rest))[1])
    before, recorder = descriptors(), JsonlRecorder(path)
    for number in range(20):
        recorder.record(event(number))
    assert opened == [str(path)]
    assert descriptors() == before + 1
    recorder.close()
    recorder.close()
    assert descriptors() == before


def test_a_relative_path_stays_where_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its directory goes on in the same file, after a rotation too."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    recorder = JsonlRecorder("record.jsonl", max_bytes=1)
    recorder.record(event(1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorder.record(event(2))
    recorder.close()
    assert messages(tmp_path / "record.jsonl") == ["m2"]
    assert messages(tmp_path / "record.jsonl.1") == ["m1"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_later_program_goes_on_in_the_same_file(path: Path) -> None:
    """Nothing that was written is overwritten, and a closed recorder may go on."""
    first = JsonlRecorder(path)
    first.record(event(1))
    first.close()
    second = JsonlRecorder(path)
    second.record(event(2))
    second.close()
    first.record(event(3))
    assert messages(path) == ["m1", "m2", "m3"]


def test_it_is_a_recorder(path: Path) -> None:
    """It records and closes."""
    assert isinstance(JsonlRecorder(path), Recorder)


def test_the_encoder_may_be_the_callers(path: Path) -> None:
    """For another layout."""
    JsonlRecorder(path, encode=lambda event: {"said": event.message}).record(event())
    assert json.loads(path.read_text()) == {"said": "m0"}
    assert list(read_lines(path)) == []


@pytest.mark.contract("S2-59", "W2-5")
@pytest.mark.parametrize(
    ("encode", "wall"),
    [
        pytest.param(lambda event: {"a": {1, 2}}, WALL, id="what JSON cannot hold"),
        pytest.param(lambda event: {"a": math.nan}, WALL, id="NaN of an own encoder"),
        pytest.param(lambda event: 1 / 0, WALL, id="an encoder that raises"),
        pytest.param(None, 1e30, id="a time that no calendar has"),
    ],
)
def test_an_event_that_cannot_be_written_is_reported(path: Path, encode: Any, wall: float) -> None:
    """RecordError, counted, and the next event is written; never half a line."""
    broken = [True]
    recorder = (
        JsonlRecorder(path)
        if encode is None
        else JsonlRecorder(path, encode=lambda each: encode(each) if broken[0] else {"message": each.message})
    )
    with pytest.raises(RecordError, match="sample"):
        recorder.record(event(1, wall=wall))
    broken[0] = False
    recorder.record(event(2))
    assert recorder.lost == 1
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["m2"]


# --- flush --------------------------------------------------------------------------------------------


@pytest.mark.contract("W2-5")
def test_events_are_flushed_and_samples_are_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened must survive a power failure; a sample a second must not wear out a disk."""
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    recorder = JsonlRecorder(path)
    for kind in EventKind:
        flushed.clear()
        recorder.record(event(kind=kind))
        assert bool(flushed) is (kind is not EventKind.SAMPLE), kind


def test_a_failing_flush_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that was confirmed is never lost."""

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RecordError):
        JsonlRecorder(path).record(event(kind=EventKind.LEVEL))


def test_a_pipe_has_nothing_to_flush(tmp_path: Path) -> None:
    """Lines may go to another program."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    recorder = JsonlRecorder(path)
    recorder.record(event(1, kind=EventKind.LEVEL))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert json.loads(os.read(fd, 65536))["message"] == "m1"
    os.close(fd)
    recorder.close()


# --- torn lines and full disks ------------------------------------------------------------------------


@pytest.mark.contract("S2-59")
@pytest.mark.parametrize("torn", [b'{"schema":1,"ty', b"\0\0\0\0", b'{"schema":1}', b"\xff"])
def test_after_a_torn_line_the_next_one_stays_whole(path: Path, torn: bytes) -> None:
    """The machine lost power in mid-write: the torn part stays alone, and readers pass over it."""
    first = JsonlRecorder(path)
    first.record(event(1))
    first.close()
    with path.open("ab") as file:
        file.write(torn)
    second = JsonlRecorder(path)
    second.record(event(2))
    second.record(event(3))
    second.close()
    assert messages(path) == ["m1", "m2", "m3"]
    assert path.read_bytes().split(b"\n")[1] == torn


class Disk:
    """A disk with so much free space; stands in for ``os.write``."""

    def __init__(self, headroom: int) -> None:
        self.headroom, self._write = headroom, os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if self.headroom == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.headroom])
        self.headroom -= written
        return written


@pytest.mark.contract("S2-59", "W2-5")
@pytest.mark.parametrize("headroom", [0, 1, 30, 100])
def test_a_full_disk_is_reported_and_recovered_from(path: Path, headroom: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lost line is an error and counted; when there is free space again whole lines follow."""
    recorder = JsonlRecorder(path)
    recorder.record(event(1))
    disk = Disk(headroom)
    monkeypatch.setattr(os, "write", disk)
    for number in (2, 3):
        with pytest.raises(RecordError, match="No space left") as caught:
            recorder.record(event(number))
        assert caught.value.path == str(path)
    assert recorder.lost == 2
    disk.headroom = 1
    with pytest.raises(RecordError):
        recorder.record(event(4))
    disk.headroom = 10**6
    recorder.record(event(5))
    recorder.record(event(6))
    assert (messages(path), recorder.lost) == (["m1", "m5", "m6"], 3)


def test_a_write_in_two_parts_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may cut a write short: the rest follows at once, and it is no loss."""
    recorder, real, sizes = JsonlRecorder(path), os.write, iter([10, 10**6])
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: next(sizes, 10**6)]))
    recorder.record(event(1))
    recorder.record(event(2))
    assert (messages(path), recorder.lost) == (["m1", "m2"], 0)


def test_a_line_in_two_parts_counts_whole_against_the_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a file that is written in parts would grow past its size."""
    size, real = len(_line(path)), os.write
    recorder = JsonlRecorder(path, max_bytes=2 * size)
    cut = iter([10, 10**6] * 2)
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: next(cut, 10**6)]))
    for number in range(3):
        recorder.record(event(number))
    assert (messages(path), messages(f"{path}.1")) == (["m2"], ["m0", "m1"])


def test_a_device_that_is_always_full() -> None:
    """The kernel's own full disk."""
    recorder = JsonlRecorder("/dev/full")
    for count in (1, 2, 3):
        with pytest.raises(RecordError, match="No space left"):
            recorder.record(event())
        assert recorder.lost == count
    recorder.close()


# --- rotation -----------------------------------------------------------------------------------------


class Wall:
    """A wall clock that is set."""

    now = WALL

    def __call__(self) -> float:
        return self.now


@pytest.mark.contract("W2-5")
def test_it_rotates_by_size_and_keeps_so_many(path: Path) -> None:
    """No file is larger than asked, none is kept beyond the number, and the newest are the ones that stay."""
    size = len(_line(path))
    recorder = JsonlRecorder(path, max_bytes=2 * size, keep=2)
    for number in range(9):
        recorder.record(event(number))
    recorder.close()
    assert messages(path) == ["m8"]
    assert messages(f"{path}.1") == ["m6", "m7"]
    assert messages(f"{path}.2") == ["m4", "m5"]
    assert sorted(each.name for each in path.parent.iterdir()) == [f"record.jsonl{end}" for end in ("", ".1", ".2")]
    assert all(each.stat().st_size <= 2 * size for each in path.parent.iterdir())


def _line(path: Path) -> str:
    recorder = JsonlRecorder(path)
    recorder.record(event())
    recorder.close()
    text = path.read_text()
    path.unlink()
    return text


def test_a_full_file_of_an_earlier_program_is_rotated_first(path: Path) -> None:
    """The bound holds across restarts."""
    path.write_text('{"old":1}\n' * 100)
    recorder = JsonlRecorder(path, max_bytes=500)
    recorder.record(event(1))
    assert messages(path) == ["m1"]
    assert path.with_name("record.jsonl.1").stat().st_size == 1000


def test_a_line_longer_than_the_bound_is_still_written(path: Path) -> None:
    """In a file of its own."""
    recorder = JsonlRecorder(path, max_bytes=10, keep=3)
    for number in range(3):
        recorder.record(event(number))
    assert [messages(f"{path}{end}") for end in ("", ".1", ".2")] == [["m2"], ["m1"], ["m0"]]


def test_it_may_keep_none(path: Path) -> None:
    """Only the running file, bounded."""
    recorder = JsonlRecorder(path, max_bytes=10, keep=0)
    for number in range(3):
        recorder.record(event(number))
    assert [each.name for each in path.parent.iterdir()] == ["record.jsonl"]
    assert messages(path) == ["m2"]


@pytest.mark.contract("W2-5")
def test_it_rotates_by_age(path: Path) -> None:
    """Past the asked age, not before."""
    wall = Wall()
    recorder = JsonlRecorder(path, max_age=3600.0, wall=wall)
    recorder.record(event(1))
    wall.now += 3600.0
    recorder.record(event(2))
    assert messages(path) == ["m1", "m2"]
    wall.now += 1.0
    recorder.record(event(3))
    assert (messages(path), messages(f"{path}.1")) == (["m3"], ["m1", "m2"])


def test_an_old_file_of_an_earlier_program_is_rotated_first(path: Path) -> None:
    """Old is a file that was last written before the given age."""
    path.write_text('{"old":1}\n')
    os.utime(path, (WALL - 7200.0, WALL - 7200.0))
    recorder = JsonlRecorder(path, max_age=3600.0, wall=Wall())
    recorder.record(event(1))
    assert messages(path) == ["m1"]
    assert path.with_name("record.jsonl.1").read_text() == '{"old":1}\n'


def test_a_clock_that_is_set_back_an_hour(path: Path) -> None:
    """Nothing is lost or rotated early, and the age counts anew from there."""
    wall = Wall()
    recorder = JsonlRecorder(path, max_age=600.0, wall=wall)
    recorder.record(event(1))
    wall.now -= 3600.0
    recorder.record(event(2))
    assert messages(path) == ["m1", "m2"]
    wall.now += 601.0
    recorder.record(event(3))
    assert (messages(path), messages(f"{path}.1")) == (["m3"], ["m1", "m2"])


def test_a_clock_that_jumps_ahead_rotates_once(path: Path) -> None:
    """And when it is set right again the recorder is not stuck with the far future."""
    wall = Wall()
    recorder = JsonlRecorder(path, max_age=600.0, wall=wall)
    recorder.record(event(1))
    wall.now += 10 * 365 * 86400.0
    recorder.record(event(2))
    recorder.record(event(3))
    assert (messages(path), messages(f"{path}.1")) == (["m2", "m3"], ["m1"])
    wall.now = WALL
    recorder.record(event(4))
    wall.now += 601.0
    recorder.record(event(5))
    assert messages(path) == ["m5"]


def test_a_rotation_that_fails_is_reported_and_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines are not written into a file beyond its bound in silence."""
    recorder = JsonlRecorder(path, max_bytes=10)
    recorder.record(event(1))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RecordError, match="Permission denied"):
        recorder.record(event(2))
    monkeypatch.undo()
    recorder.record(event(3))
    assert (messages(path), messages(f"{path}.1"), recorder.lost) == (["m3"], ["m1"], 1)


# --- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not json", id="words"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"5", id="a number"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"schema":1,"type":["event"]}', id="a type that is a list"),
        pytest.param(b'{"schema":99,"type":"event"}', id="of a later memwarden"),
        pytest.param(b"[" * 100_000, id="deeper than the stack"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b"\0" * 5000, id="zeros, as a file system leaves them after a crash"),
        pytest.param(b'{"schema":1,"type":"limit","bytes":Infinity,"source":""}', id="infinity"),
        pytest.param(b'{"schema":1,"type":"limit","bytes":' + b"9" * 5000 + b',"source":""}', id="a long number"),
    ],
)
@pytest.mark.contract("S2-59")
def test_what_is_no_record_is_passed_over(path: Path, line: bytes) -> None:
    """One bad line costs that line."""
    recorder = JsonlRecorder(path)
    recorder.record(event(1))
    recorder.close()
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n" + path.read_bytes() + line)
    assert messages(path) == ["m1", "m1"]
