"""Where a settings file is found, what it may hold, and what is reported about one that is wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import SettingsError
from memwarden.settings import config_directory, find, read

RULE = '[[rules]]\nname = "early"\nwhen = "level >= HIGH"\nthen = "notify"\n'


def file_of(folder: Path, text: str | bytes, name: str = "memwarden.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults_of(path: Path, **more: Any) -> list[str]:
    return [str(fault).removeprefix(str(path)) for fault in read(str(path), {}, **more).faults]


# --- where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "environment", "place"),
    [
        pytest.param("linux", {"HOME": "/home/u"}, "/home/u/.config/memwarden", id="Linux"),
        pytest.param("linux", {"HOME": "/home/u", "XDG_CONFIG_HOME": "/c"}, "/c/memwarden", id="Linux, moved"),
        pytest.param(
            "linux", {"HOME": "/home/u", "XDG_CONFIG_HOME": "c"}, "/home/u/.config/memwarden", id="relative: not set"
        ),
        pytest.param("linux", {}, None, id="no home"),
        pytest.param("darwin", {"HOME": "/Users/u"}, "/Users/u/Library/Application Support/memwarden", id="macOS"),
        pytest.param("win32", {"APPDATA": r"C:\U\Roaming"}, r"C:\U\Roaming\memwarden", id="Windows"),
        pytest.param("win32", {"USERPROFILE": r"C:\U"}, r"C:\U\AppData\Roaming\memwarden", id="Windows, bare"),
        pytest.param("win32", {}, None, id="Windows, nothing"),
    ],
)
def test_each_platform_has_a_place_for_settings(platform: str, environment: dict[str, str], place: str | None) -> None:
    """Its own convention, in its own way of writing paths."""
    assert config_directory(environment, platform) == place


def test_the_nearest_file_is_taken(tmp_path: Path) -> None:
    """memwarden.toml here; else pyproject.toml from here upward; else the user's own; else none."""
    home, here = tmp_path / "home", tmp_path / "home" / "repo" / "part"
    environment = {"HOME": str(home)}
    files = [
        file_of(here, "", "memwarden.toml"),
        file_of(here, "[tool.memwarden]", "pyproject.toml"),
        file_of(here.parent, "[tool]\nmemwarden = {quiet = true}", "pyproject.toml"),
        file_of(home, "[tool.memwarden]", "pyproject.toml"),
        file_of(home / ".config" / "memwarden", "", "memwarden.toml"),
    ]
    for file in files:
        assert find(environment, str(here)) == (str(file), ())
        file.unlink()
    assert find(environment, str(here)) == (None, ())


def test_no_file_above_home_is_read(tmp_path: Path) -> None:
    """What stands there belongs to the machine, not to the project."""
    file_of(tmp_path, "[tool.memwarden]", "pyproject.toml")
    here = tmp_path / "home" / "repo"
    here.mkdir(parents=True)
    assert find({"HOME": str(here.parent)}, str(here)).path is None
    assert find({"HOME": "/elsewhere"}, str(here)).path is not None


@pytest.mark.parametrize(
    "text",
    [
        "[project]\nname = 'other'",
        "[project]\ndependencies = ['memwarden']",
        "[project\ndependencies = ['memwarden>=1']\n[tool.ruff",
        "tool = 5 # memwarden",
        b"[project]\nname = '\xff memwarden'",
        "memwarden = " + "[" * 100_000,
        "",
    ],
)
def test_another_tools_file_is_passed_over(tmp_path: Path, text: str | bytes) -> None:
    """A pyproject.toml without our table is no error, broken or not, and the one above still counts."""
    above = file_of(tmp_path, "[tool.memwarden]", "pyproject.toml")
    file_of(tmp_path / "part", text, "pyproject.toml")
    assert find({"HOME": str(tmp_path)}, str(tmp_path / "part")) == (str(above), ())


@pytest.mark.parametrize("header", ["[tool.memwarden]", '[ tool . "memwarden" ]', "[[tool.memwarden.rules]]"])
def test_our_table_in_a_broken_file_is_reported(tmp_path: Path, header: str) -> None:
    """Settings there do not count, and that is reported."""
    path = file_of(tmp_path, f"{header}\nlimit = \n", "pyproject.toml")
    assert find({}, str(tmp_path)).path == str(path)
    assert faults_of(path) == [": is not valid TOML: Invalid value (at line 2, column 9)"]


def test_only_files_are_found(tmp_path: Path) -> None:
    """A directory or a pipe of that name does not block."""
    (tmp_path / "memwarden.toml").mkdir()
    os.mkfifo(tmp_path / "pyproject.toml")
    assert find({"HOME": str(tmp_path)}, str(tmp_path)).path is None


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="gives a file to another user")
def test_a_planted_file_is_skipped_and_reported(tmp_path: Path) -> None:
    """In a directory such as /tmp any user may leave a file; by name it may still be used."""
    path = file_of(tmp_path, "quiet = true")
    os.chown(path, 4242, 4242)
    assert find({}, str(tmp_path)).path == str(path), "in a directory of ours another user's file was put by us"
    tmp_path.chmod(stat.S_ISVTX | 0o777)
    link = tmp_path / "pyproject.toml"
    link.symlink_to(file_of(tmp_path / "ours", "[tool.memwarden]", "pyproject.toml"))
    os.chown(link, 4242, 4242, follow_symlinks=False)
    found = find({"HOME": str(tmp_path)}, str(tmp_path))
    assert found.path is None
    assert [skipped.partition(": belongs to another user")[0] for skipped in found.skipped] == [str(path), str(link)]
    assert read(str(path), {}).values == {"quiet": True}


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings are still found."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    own = file_of(tmp_path / "memwarden", "")
    assert find({"XDG_CONFIG_HOME": str(tmp_path)}).path == str(own)


# --- what --------------------------------------------------------------------------------------------


def test_values_are_understood(tmp_path: Path) -> None:
    """Numbers and texts, switches, paths from the home directory and from the file's own."""
    text = "limit = 1048576\ninterval = 2\ngrace = '500ms'\nlive = true\nrecord = '~/a.jsonl'\ncgroup = 'b'\n"
    reported = read(str(file_of(tmp_path, text)), {"HOME": "/home/u"})
    assert reported.faults == ()
    assert reported.values == {
        "limit": "1048576",
        "interval": 2.0,
        "grace": 0.5,
        "live": True,
        "record": "/home/u/a.jsonl",
        "cgroup": str(tmp_path / "b"),
    }


def test_a_mark_at_the_beginning_and_other_line_ends(tmp_path: Path) -> None:
    """As Windows editors write them."""
    reported = read(str(file_of(tmp_path, b"\xef\xbb\xbflimit = '1G'\r\nquiet = true\r\n")), {})
    assert (reported.values, reported.faults) == ({"limit": "1G", "quiet": True}, ())


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        pytest.param("limit = '1G\n", [": is not valid TOML: "], id="open quotes"),
        pytest.param("a = [1,\n\n", [": is not valid TOML: Invalid value (at end of document)"], id="open bracket"),
        pytest.param(
            "\nlimit = '\xff'".encode("latin-1"), [": is not UTF-8: 0xff in line 2 begins no character"], id="bytes"
        ),
        pytest.param("a = " + "[" * 100_000, [": is nested too deeply"], id="deep"),
        pytest.param("#" * (1 << 20) + "#", [": cannot be read: larger than 1 MiB"], id="big"),
        pytest.param("intervall = 2", [": intervall: is not known; did you mean interval?"], id="misspelled"),
        pytest.param("termination-log = 'x'", [": termination-log: is not known; "], id="dash"),
        pytest.param("live = 'yes'", [": live: must be true or false, not text"], id="text for a switch"),
        pytest.param("record = 5", [": record: must be a path, not a whole number"], id="number for a path"),
        pytest.param("record = ''", [": record: is empty; write a path"], id="empty"),
        pytest.param("config = 'x'", [": config: is not known; known: "], id="a file that names another"),
        pytest.param("[run]\nlimit = 1", [": run: is not known; known: "], id="a section"),
        pytest.param("'\\u001b[31m' = 1", [": \\u001b[31m: is not known; known: "], id="no escapes in such quotes"),
        pytest.param('"\\u001b[31m" = 1', [": '\\x1b[31m': is not known; known: "], id="a key for the terminal"),
        pytest.param("limit = -5", [": limit: size -5: must be more than zero"], id="below zero"),
        pytest.param("interval = nan", [": interval: duration nan: must be more than zero"], id="no number"),
        pytest.param("grace = 1" + "0" * 400, [": grace: duration 1000"], id="too many digits"),
        pytest.param("interval = 2020-01-01", [": interval: must be 500ms"], id="a date"),
        pytest.param("rules = 3", [": rules: must be tables that start with [[rules]]"], id="rules are no table"),
        pytest.param("[rules]\nname = 'x'", [": rules: must be tables that start with [[rules]]"], id="one bracket"),
        pytest.param(RULE + "fro = 3", [": rules[1].fro: is not known; did you mean for?"], id="a rule's key"),
        pytest.param(RULE + "for = -1", [": rules[1].for: duration -1"], id="a rule's value"),
        pytest.param(RULE + "severity = 'bad'", [": rules[1].severity: 'bad' is not known"], id="word"),
        pytest.param(RULE + RULE + "step = []", [": rules[2].step: must be "], id="the second rule"),
        pytest.param("[[rules]]\nthen = 'x'", [": rules[1]: `name` is", ": rules[1]: `when` is"], id="no when"),
        pytest.param(RULE.replace('"notify"', "[]"), [": rules[1]: has no action"], id="does nothing"),
        pytest.param("rules = [{name = 'x', when = 'y', then = 3}]", [": rules[1].then: must be"], id="inline"),
        pytest.param("limit = 'x'\nlive = 1\nfoo = 1", [": limit:", ": live:", ": foo:"], id="all at once"),
    ],
)
def test_what_is_wrong_is_reported(tmp_path: Path, text: str | bytes, reported: list[str]) -> None:
    """File, key, what is allowed, and what was probably meant; never an exception."""
    found = faults_of(file_of(tmp_path, text))
    assert len(found) == len(reported), found
    for fault, beginning in zip(found, reported, strict=True):
        assert fault.startswith(beginning)


def test_the_table_of_a_pyproject(tmp_path: Path) -> None:
    """Keys of the same name in other tools' tables are not ours."""
    text = (
        f"[tool.other]\nlimit = 3\n\n[tool.memwarden]\nlimit = 'x'\n[[tool.memwarden.rules]]\n{RULE[10:]}hold = 'x'\n"
    )
    assert [fault[:16] for fault in faults_of(file_of(tmp_path, text, "pyproject.toml"))] == [
        ": limit: size 'x",
        ": rules[1].hold:",
    ]


def test_a_project_file_that_was_named_needs_the_table(tmp_path: Path) -> None:
    """Asked for by name, its absence is reported."""
    assert faults_of(file_of(tmp_path, "[project]", "pyproject.toml")) == [": has no table [tool.memwarden]"]


def test_what_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    """A directory, nothing at all, and a name that no system has."""
    assert faults_of(tmp_path)[0].endswith("cannot be read: Is a directory")
    assert faults_of(tmp_path / "nowhere") == [": cannot be read: No such file or directory"]
    assert "null" in faults_of(Path("a\0b"))[0]


def test_a_caller_may_validate_rules(tmp_path: Path) -> None:
    """Its error is reported with the rule's number; a rule of the wrong shape is not put before it."""
    seen = []

    def judge(rule: Any) -> None:
        seen.append(rule["name"])
        raise SettingsError("when 'x': not understood")

    path = file_of(tmp_path, RULE + "\n" + RULE.replace("early", "late") + "for = 'x'\n")
    assert faults_of(path, judge=judge)[0] == ": rules[1]: when 'x': not understood"
    assert seen == ["early"]


def test_rules_have_names_of_their_own(tmp_path: Path) -> None:
    """Alerts name the rule that fires and clears."""
    assert faults_of(file_of(tmp_path, RULE + "\n" + RULE.replace("early", "late") + "\n" + RULE)) == [
        ": rules[3].name: another rule has the name 'early', too"
    ]
