"""``memwarden replay``: what it prints, and what it says of files that cannot be replayed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from memwarden.engine.warden import Warden
from memwarden.faces.cli import main
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import SystemMemory
from memwarden.policy.rules import Rule
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.testing import FakeClock

NEW = """
[[rules]]
name = "early"
when = "used > 70%"
then = ["notify"]
"""


class Swing:
    """A reader of a machine that is half empty, then at 85 %."""

    name = "swing"

    def __init__(self) -> None:
        self._looks = 0

    def read(self) -> dict[str, Any]:
        self._looks += 1
        total = 1 << 40
        free = total // 100 * (50 if self._looks < 5 else 15)
        return {"system": SystemMemory(total, free, free, 0, 0, 0)}

    def close(self) -> None:
        pass


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A watch of ten seconds with one rule, in a folder as lines and as a history."""
    clock = FakeClock()
    recorders = [
        JsonlRecorder(tmp_path / "run.jsonl", wall=clock.wall),
        SqliteRecorder(tmp_path / "run.db", wall=clock.wall, monotonic=clock.monotonic),
    ]
    rule = Rule(name="usage", when="used > 80%", then="notify")
    with Warden([Swing()], clock=clock, shortest=1, rules=[rule], recorders=recorders, patience=1e9):
        clock.advance(10)
    return tmp_path


@pytest.mark.parametrize("name", ["run.jsonl", "run.db"])
def test_a_record_as_it_was(record: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each event that was reported then and is reported now, and that nothing differs."""
    assert main(["replay", str(record / name)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines[:3]] == ["= ", "= ", "= "]
    assert [line.split()[3] for line in lines[:3]] == ["level", "decision", "level"]
    assert lines[-4:] == [
        "11 samples of 10.0 s, judged again by the rules of the record",
        "then  2 levels, 0 leaks, 1 decisions, 0 cleared, 0 gaps",
        "now   2 levels, 0 leaks, 1 decisions, 0 cleared, 0 gaps",
        "nothing differs",
    ]


@pytest.mark.parametrize("name", ["run.jsonl", "run.db"])
def test_other_rules(record: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is gone and what is new, each with its mark, and counted."""
    (record / "new.toml").write_text(NEW, encoding="utf-8")
    assert main(["replay", str(record / name), "--rules", str(record / "new.toml")]) == 0
    out = capsys.readouterr().out
    assert [line.split()[3:5] for line in out.splitlines() if line.startswith("- ")] == [["decision", "usage:"]]
    assert [line.split()[3:5] for line in out.splitlines() if line.startswith("+ ")] == [["decision", "early:"]]
    assert "1 new (+), 1 gone (-)" in out


def test_for_a_machine(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each event, with the event itself, and one for the whole."""
    assert main(["replay", str(record / "run.jsonl"), "--json"]) == 0
    *output, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(each["type"], each["live"], each["replayed"]) for each in output] == [("replayed-event", True, True)] * 3
    assert output[1]["event"]["value"]["rule"] == "usage"
    assert (summary["type"], summary["samples"], summary["only_live"], summary["only_replayed"]) == ("replay", 11, 0, 0)
    assert summary["live"] == summary["replayed"]
    assert (summary["unrecorded_samples"], summary["samples_dropped"], summary["lines_skipped"]) == (0, False, 0)


def test_torn_lines_are_skipped_and_reported(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest is replayed."""
    with (record / "run.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"schema":1,"type":"ev\n\n[1]\n')
    assert main(["replay", str(record / "run.jsonl")]) == 0
    assert "2 lines were skipped" in capsys.readouterr().out


def test_several_writers_of_a_history_are_replayed_one_by_one(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by its own rules, with a judge of its own."""
    clock = FakeClock()
    recorder = SqliteRecorder(record / "run.db", wall=clock.wall, monotonic=clock.monotonic)
    with Warden([Swing()], clock=clock, shortest=1, recorders=[recorder], patience=1e9):
        clock.advance(10)
    assert main(["replay", str(record / "run.db"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["samples"] == 22
    assert summary["replayed"]["decision"] == 1
    assert summary["only_live"] == summary["only_replayed"] == 0


def newer(folder: Path) -> Path:
    """A history of a later memwarden."""
    (folder / "newer.db").write_bytes((folder / "run.db").read_bytes())
    with sqlite3.connect(folder / "newer.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    return folder / "newer.db"


def others(folder: Path) -> Path:
    """A database of another program."""
    with sqlite3.connect(folder / "others.db") as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    return folder / "others.db"


def written(folder: Path, content: str) -> Path:
    """A file of this content."""
    (folder / "file").write_text(content, encoding="utf-8")
    return folder / "file"


def without_samples(folder: Path) -> Path:
    """A record in which nothing was seen."""
    recorder = JsonlRecorder(folder / "short.jsonl")
    recorder.record(Event(EventKind.START, 1.7e9, 1.0, "running true"))
    recorder.close()
    return folder / "short.jsonl"


def torn(folder: Path) -> Path:
    """A history of which the middle is gone."""
    content = bytearray((folder / "run.db").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (folder / "torn.db").write_bytes(content)
    return folder / "torn.db"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda folder: folder / "none", "No such file or directory; name a record", id="there is none"),
        pytest.param(lambda folder: folder, "is not a regular file; name a record", id="a folder"),
        pytest.param(lambda folder: written(folder, ""), "is empty; name a record", id="empty"),
        pytest.param(
            lambda folder: written(folder, "hello\n"), "contains nothing that memwarden recorded", id="another text"
        ),
        pytest.param(
            lambda folder: written(folder, '{"schema":9,"type":"event"}\n'),
            "was written by a newer memwarden (schema 9, this one knows 1); upgrade memwarden",
            id="newer lines",
        ),
        pytest.param(newer, "was written by a newer memwarden (schema 99", id="a newer history"),
        pytest.param(others, "is a database of another program", id="another database"),
        pytest.param(without_samples, "holds no full sample, so there is nothing to judge", id="no sample"),
        pytest.param(torn, "malformed", id="a torn history"),
    ],
)
def test_what_cannot_be_replayed(record: Path, make: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the file, and 2."""
    file = make(record)
    assert main(["replay", str(file)]) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"memwarden: record {file}: ")
    assert message in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "new.toml", id="there is none"),
        pytest.param("interval = 5\n", "holds no rule and no preset", id="no rules"),
        pytest.param('[[rules]]\nname = "r"\nwhen = "moon > 1"\nthen = ["notify"]\n', "moon", id="a wrong rule"),
    ],
)
def test_rules_that_cannot_be_used(
    record: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and 2, before anything is printed."""
    if content is not None:
        (record / "new.toml").write_text(content, encoding="utf-8")
    assert main(["replay", str(record / "run.jsonl"), "--rules", str(record / "new.toml")]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert message in output.err


def test_a_preset_may_stand_in_the_file_of_rules(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rules are tried; nothing else of the settings counts, those of the environment neither."""
    (record / "new.toml").write_text('preset = "worker"\n', encoding="utf-8")
    assert main(["replay", str(record / "run.jsonl"), "--rules", str(record / "new.toml")]) == 0
    assert "+ " in capsys.readouterr().out
