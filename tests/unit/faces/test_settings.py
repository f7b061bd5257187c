"""``memwarden settings``: what it prints, to the letter, and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from memwarden.faces.cli import USAGE, main
from memwarden.settings import OPTIONS, schema


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and working directory of its own, and no variables of ours."""
    for name in [name for name in os.environ if name.startswith(("MEMWARDEN_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILE = """\
limit = "2GiB"
interval = "2s"

[[rules]]
name = "early"
when = "level >= HIGH"
then = ["notify"]
rest = inf
"""


SHOWN = """\
limit                2GiB                  file my.toml
interval             3 s                   environment MEMWARDEN_INTERVAL
duration             not set               default
record               not set               default
preset               not set               default
webhook              not set               default
webhook_secret       not set               default
webhook_secret_file  not set               default
alerts               not set               default
live                 no                    default
grace                5 s                   default
ceiling              auto                  default
cgroup               not set               default
monitor              no                    default
quiet                yes                   environment MEMWARDEN_QUIET
termination_log      not set               default
config               my.toml               environment MEMWARDEN_CONFIG
rules                early: level >= HIGH  file my.toml
"""


@pytest.mark.contract("X-28")
def test_show_gives_the_source_of_each_value(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option of the table, in its order, and the rules."""
    (here / "my.toml").write_text(FILE)
    monkeypatch.setenv("MEMWARDEN_CONFIG", "my.toml")
    monkeypatch.setenv("MEMWARDEN_INTERVAL", "3")
    monkeypatch.setenv("MEMWARDEN_QUIET", "yes")
    assert main(["settings", "show"]) == 0
    assert capsys.readouterr().out == SHOWN


def test_show_for_a_machine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as JSON, an endless rest, too."""
    (here / "memwarden.toml").write_text(FILE)
    assert main(["settings", "show", "--json"]) == 0
    output = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(output["options"]) == [option.name for option in OPTIONS]
    assert output["options"]["interval"] == {"value": 2.0, "source": "file", "where": f"{here}/memwarden.toml"}
    assert output["options"]["config"]["value"] == f"{here}/memwarden.toml"
    assert output["rules"][0]["rest"] == "inf"


def test_a_secret_is_never_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only that it is set."""
    monkeypatch.setenv("MEMWARDEN_WEBHOOK", "https://hunter2")
    (here / "memwarden.toml").write_text("webhook_secret = 'hunter2'\nalerts = []\n")
    assert main(["settings", "show"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["webhook", "set", "environment", "MEMWARDEN_WEBHOOK"] in rows
    assert ["webhook_secret", "set", "file", f"{here}/memwarden.toml"] in rows
    assert ["alerts", "not", "set", "file", f"{here}/memwarden.toml"] in rows
    assert main(["settings", "show", "--json"]) == 0
    printed = capsys.readouterr().out
    output = json.loads(printed)["options"]
    assert [output[name]["set"] for name in ("webhook", "webhook_secret", "alerts")] == [True, True, False]
    assert "hunter2" not in shown + printed


def test_check_finds_nothing_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file, with the file in force, and with a named one."""
    assert main(["settings", "check"]) == 0
    (here / "memwarden.toml").write_text(FILE)
    assert main(["settings", "check"]) == 0
    assert main(["settings", "check", "memwarden.toml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no settings file; no errors in the environment",
        f"{here}/memwarden.toml: no errors",
        "memwarden.toml: no errors",
    ]


def test_check_lists_every_fault_on_a_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As compilers do, so that editors find the place; the exit code says that there was one."""
    (here / "memwarden.toml").write_text('intervall = 2\ngrace = "soon"\n')
    assert main(["settings", "check", "memwarden.toml"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "memwarden.toml: intervall: is not known; did you mean interval?",
        "memwarden.toml: grace: duration 'soon': not understood; write 500ms, 2s, 5m, 1h or a number of seconds",
    ]
    assert main(["settings", "check", "memwarden.toml", "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert [fault["key"] for fault in output["faults"]] == ["intervall", "grace"]


def test_check_understands_conditions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A measure that does not exist is reported with its rule's line."""
    (here / "memwarden.toml").write_text("#\n[[rules]]\nname = 'x'\nwhen = 'process.rsss > 80%'\nthen = 'notify'\n")
    assert main(["settings", "check"]) == 1
    output = capsys.readouterr().out
    assert output.startswith(f"{here}/memwarden.toml: rules[1]: rule 'x': ")
    assert "did you mean process.rss?" in output


def test_check_looks_at_the_environment_too(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a named file, too; a misspelled variable is reported nowhere else."""
    monkeypatch.setenv("MEMWARDEN_LIMT", "2G")
    monkeypatch.setenv("MEMWARDEN_CONFIG", str(here / "mine.toml"))
    (here / "mine.toml").write_text("live = 3")
    (here / "memwarden.toml").write_text("this is not read")
    assert main(["settings", "check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "environment: MEMWARDEN_LIMT: is not known; did you mean MEMWARDEN_LIMIT?",
        f"{here}/mine.toml: live: must be true or false, not a whole number",
    ]


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="gives a file to another user")
def test_a_file_that_was_skipped_is_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By show and by check, with the reason."""
    (here / "memwarden.toml").write_text("limit = '2G'")
    os.chown(here / "memwarden.toml", 4242, 4242)
    here.chmod(0o1777)
    for command in ("show", "check"):
        assert main(["settings", command]) == 0
        assert f"skipped {here}/memwarden.toml: belongs to another user" in capsys.readouterr().out


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, whole."""
    assert main(["settings", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["settings", "show", "--config", "nowhere.toml"], ["nowhere.toml", "No such file"]),
        (["settings", "frob"], ["frob", "memwarden settings --help"]),
        (["settings", "check", "a", "b"], ["b", "--help"]),
        (["completion", "tcsh"], ["tcsh", "bash", "fish"]),
        (["completion"], ["bash", "memwarden completion --help"]),
    ],
)
def test_bad_input_gets_one_line(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One that names the thing and the way out."""
    assert main(arguments) == USAGE
    printed: Any = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert all(word in printed.err for word in words)
