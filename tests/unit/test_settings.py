"""The option table, and which source wins."""

from __future__ import annotations

import dataclasses

import pytest

from memwarden.errors import SettingsError
from memwarden.settings import OPTIONS, Settings, resolve


def test_flag_over_environment_over_default() -> None:
    """And each value says where it came from."""
    settings = resolve({"interval": "2s"}, {"MEMWARDEN_INTERVAL": "9", "MEMWARDEN_GRACE": "500ms"})
    assert (settings.interval, settings.sources["interval"]) == (2.0, "flag")
    assert (settings.grace, settings.sources["grace"]) == (0.5, "environment")
    assert (settings.ceiling, settings.sources["ceiling"]) == ("auto", "default")


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ({"limit": "12XB"}, {}, ["--limit", "12XB"]),
        ({"interval": "0.001"}, {}, ["--interval", "out of range"]),
        ({"grace": "2 days"}, {}, ["--grace", "2 days"]),
        ({"ceiling": "magic"}, {}, ["--ceiling", "magic"]),
        ({}, {"MEMWARDEN_LIVE": "maybe"}, ["MEMWARDEN_LIVE", "maybe"]),
    ],
)
def test_a_bad_value_names_where_it_was_given(flags: dict, environment: dict, words: list[str]) -> None:
    """Flag or variable, and the value."""
    with pytest.raises(SettingsError) as caught:
        resolve(flags, environment)
    assert all(word in str(caught.value) for word in words)


def test_an_empty_variable_counts_as_not_set() -> None:
    """`MEMWARDEN_LIMIT=` in an environment file means no limit."""
    assert resolve({}, {"MEMWARDEN_LIMIT": ""}).sources["limit"] == "default"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("off", False), ("0", False)])
def test_switches_in_the_environment(text: str, value: bool) -> None:
    """The usual words for yes and no."""
    assert resolve({}, {"MEMWARDEN_QUIET": text}).quiet is value


def test_table_and_settings_have_the_same_names() -> None:
    """Nothing can be set that has no row, and no row sets nothing."""
    fields = {field.name for field in dataclasses.fields(Settings)} - {"sources"}
    assert fields == {option.name for option in OPTIONS}
    assert all(option.sentence.endswith((".", "%.")) for option in OPTIONS)
