"""A settings file that changes while it is in force."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import SettingsError
from memwarden.settings import SettingsReloader, read

RULE = '[[rules]]\nname = "{}"\nwhen = "level >= HIGH"\nthen = "notify"\n'


def rules_of(path: str) -> list[Any]:
    return [rule["name"] for rule in read(path, {}).must_be_fine().rules]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "memwarden.toml"
    path.write_text(RULE.format("first"))
    return path


def write(path: Path, text: str, moment: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(moment, moment))


def test_a_changed_file_is_read_anew(file: Path) -> None:
    """And one that stands as it stood is not."""
    watched = SettingsReloader(str(file), rules_of)
    assert (watched.value, watched.check()) == (["first"], False)
    write(file, RULE.format("second"), 1)
    assert (watched.check(), watched.value, watched.check()) == (True, ["second"], False)


def test_a_broken_file_keeps_what_was_in_force(file: Path) -> None:
    """It shows why, once; the next good one counts, and the trouble is over."""
    watched = SettingsReloader(str(file), rules_of)
    write(file, "[[rules]]\nname = ", 1)
    assert (watched.check(), watched.value) == (True, ["first"])
    assert watched.error == f"{file}: is not valid TOML: Invalid value (at end of document)"
    assert watched.check() is False
    write(file, RULE.format("first"), 2)
    assert (watched.check(), watched.value, watched.error) == (True, ["first"], "")


def test_a_file_that_is_put_in_its_place_counts(file: Path) -> None:
    """Editors write beside it and rename; same size and same time make no difference."""
    watched = SettingsReloader(str(file), rules_of)
    status = file.stat()
    other = file.with_name("new")
    write(other, RULE.format("other"), status.st_mtime_ns)
    other.rename(file)
    assert file.stat().st_size == status.st_size
    assert (watched.check(), watched.value) == (True, ["other"])


def test_a_file_that_goes_and_comes_back(file: Path) -> None:
    """Meanwhile the old rules hold."""
    watched = SettingsReloader(str(file), rules_of)
    file.unlink()
    assert (watched.check(), watched.value) == (True, ["first"])
    assert "No such file" in watched.error
    write(file, RULE.format("back"), 3)
    assert (watched.check(), watched.value, watched.error) == (True, ["back"], "")


def test_a_change_without_effect_is_not_reported(file: Path) -> None:
    """A comment, or a mere touch."""
    watched = SettingsReloader(str(file), rules_of)
    write(file, "# a comment\n" + RULE.format("first"), 4)
    assert watched.check() is False


def test_what_is_written_while_it_is_read_is_read_again(file: Path) -> None:
    """The sample at the file comes before the reading."""

    def slow(path: str) -> list[Any]:
        rules = rules_of(path)
        if rules == ["first"]:
            write(file, RULE.format("meanwhile"), 5)
        return rules

    watched = SettingsReloader(str(file), slow)
    assert watched.value == ["first"]
    assert (watched.check(), watched.value) == (True, ["meanwhile"])


def test_the_first_time_a_broken_file_is_an_error(file: Path) -> None:
    """There is nothing to keep."""
    file.write_text("limit = ")
    with pytest.raises(SettingsError, match="is not valid TOML"):
        SettingsReloader(str(file), rules_of)
