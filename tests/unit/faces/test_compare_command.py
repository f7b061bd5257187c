"""``memwarden compare``: what it prints of one record and of two, and when it says that the second is too large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memwarden.engine.warden import Warden
from memwarden.faces.cli import main
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.units import MIB
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.testing import FakeClock


class Version:
    """A reader of a program that holds 100 MiB and so much more a sample."""

    name = "version"

    def __init__(self, more: float) -> None:
        self._held, self._more = 100.0, more

    def read(self) -> dict[str, Any]:
        self._held += self._more
        total, held = 1 << 30, round(self._held * MIB)
        process = ProcessMemory(ProcessKey(7, 70), "python3", held)
        return {"system": SystemMemory(total, total - held, total - held, 0, 0, 0), "process": process}

    def close(self) -> None:
        pass


def watched(path: Path, more: float, minutes: int = 10) -> str:
    """So long of such a version, recorded; 600 samples."""
    clock = FakeClock()
    kind = SqliteRecorder if path.suffix == ".db" else JsonlRecorder
    options = {"wall": clock.wall} | ({"monotonic": clock.monotonic} if kind is SqliteRecorder else {})
    interval = minutes / 10
    with Warden(
        [Version(more)],
        interval=interval,
        clock=clock,
        shortest=interval,
        recorders=[kind(path, **options)],
        patience=1e9,
    ):
        clock.advance(60 * minutes)
    return str(path)


@pytest.fixture
def before(tmp_path: Path) -> str:
    return watched(tmp_path / "before.jsonl", 0.0)


@pytest.fixture
def after(tmp_path: Path) -> str:
    return watched(tmp_path / "after.db", 0.1)


def rows(out: str) -> dict[str, list[str]]:
    """The cells of each line of the table."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    return {first: rest for first, *rest in filter(None, cells)}


@pytest.mark.contract("S2-60", "V-19")
def test_two_versions_side_by_side(before: str, after: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What each used, what that is more, how it grew, and the limit that each would need: records of both kinds."""
    assert main(["compare", before, after]) == 0
    out = capsys.readouterr().out
    output = rows(out)
    assert out.splitlines()[0].split() == ["before.jsonl", "after.db", "change"]
    assert output["samples"] == ["601", "601"]
    assert output["watched"] == ["10 min 00 s", "10 min 00 s"]
    assert output["used, peak"] == ["100.0 MiB", "160.1 MiB", "+60.1%"]
    assert output["used, median"] == ["100.0 MiB", "130.1 MiB", "+30.1%"]
    assert output["growth"] == ["0 B/h", "+360.0 MiB/h"]
    assert output["a limit to set"] == ["125.0 MiB", "200.1 MiB", "+60.1%"]
    assert output["smallest limit"] == ["1.00 GiB (machine)"] * 2
    assert output["HIGH or CRITICAL"] == ["never", "never"]


def test_a_leak_is_shown_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One record alone, in the words of the verdict."""
    assert main(["compare", watched(tmp_path / "night.jsonl", 1.0, minutes=600)]) == 0
    out = capsys.readouterr().out
    assert rows(out)["leak"] == ["confirmed"]
    assert "night.jsonl: confirmed: " in out


@pytest.mark.parametrize(
    ("tolerance", "code", "words"),
    [
        ("10%", 1, "higher by more than 10.0%: used, median; used, 95th percentile; used, peak"),
        ("40%", 1, "higher by more than 40.0%: used, 95th percentile; used, peak"),
        ("70%", 0, "within 70.0%"),
    ],
)
def test_a_tolerance(
    before: str, after: str, tolerance: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code says whether the second needs too much more, and the last line what."""
    assert main(["compare", before, after, "--tolerance", tolerance]) == code
    assert capsys.readouterr().out.splitlines()[-1] == words
    assert main(["compare", after, before, "--tolerance", tolerance]) == 0


def test_for_a_machine(before: str, after: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as JSON; the exit code holds, too."""
    assert main(["compare", before, after, "--tolerance", "10%", "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert (output["schema"], output["type"], output["tolerance"]) == (1, "comparison", 0.1)
    assert output["over"] == ["median", "high", "peak"]
    assert [each["file"] for each in output["records"]] == [before, after]
    assert output["records"][0]["used_peak_bytes"] == 100 * MIB
    assert output["records"][1]["growth_bytes_per_hour"] == pytest.approx(360 * MIB, rel=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.jsonl"], "No such file"),
        (["BEFORE", "BEFORE", "BEFORE"], "3 records; name one or two"),
        (["BEFORE", "--tolerance", "10%"], "name another one"),
        (["BEFORE", "BEFORE", "--tolerance", "ten"], "'ten': is no share; write for instance 10%"),
        (["BEFORE", "BEFORE", "--tolerance", "-1%"], "is no share"),
        (["BEFORE", "BEFORE", "--tolerance", "nan%"], "is no share"),
        (["BEFORE", "EMPTY"], "is empty"),
        (["EVENTS"], "holds no full sample"),
    ],
)
def test_bad_input(
    before: str, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the way out, and 2."""
    (tmp_path / "empty").touch()
    events = tmp_path / "events.jsonl"
    kept = [line for line in Path(before).read_text(encoding="utf-8").splitlines() if '"kind":"sample"' not in line]
    events.write_text("\n".join(kept) + "\n", encoding="utf-8")
    places = {"BEFORE": before, "EMPTY": str(tmp_path / "empty"), "EVENTS": str(events)}
    assert main(["compare", *(places.get(word, word) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
