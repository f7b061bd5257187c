"""Which source wins, and what each value shows about where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import SettingsError
from memwarden.settings import OPTIONS, Settings, environment_faults, read
from memwarden.settings import resolve as resolve_anywhere


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working directory of its own below a home directory of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def resolve(project: Path) -> Any:
    def resolved(flags: Mapping[str, Any], environment: Mapping[str, str], **more: Any) -> Settings:
        return resolve_anywhere(flags, {"HOME": str(project.parent), **environment}, directory=str(project), **more)

    return resolved


@pytest.mark.contract("X-28")
def test_argument_over_flag_over_environment_over_file_over_default(resolve: Any, project: Path) -> None:
    """Take away the nearest source and the next one counts; each value shows where it came from."""
    file = project / "memwarden.toml"
    file.write_text("# mine\ngrace = '4s'\n")
    argument, flag, variable = {"grace": 1}, {"grace": "2s"}, {"MEMWARDEN_GRACE": "3"}
    for settings, value, source in (
        (resolve(flag, variable, arguments=argument), 1.0, "argument"),
        (resolve(flag, variable), 2.0, "flag --grace"),
        (resolve({}, variable), 3.0, "environment MEMWARDEN_GRACE"),
        (resolve({}, {}), 4.0, f"file {file}"),
    ):
        assert (settings.grace, str(settings.sources["grace"])) == (value, source)
    file.unlink()
    assert (resolve({}, {}).grace, str(resolve({}, {}).sources["grace"])) == (5.0, "default")


def test_a_settings_file_is_named_in_the_settings(resolve: Any, project: Path) -> None:
    """Found, by flag or by variable; one that was named is the only one."""
    assert resolve({}, {}).config is None
    (project / "memwarden.toml").write_text("grace = 4\nlimit = '1G'")
    other = project / "other.toml"
    other.write_text("grace = 6")
    found = resolve({}, {})
    assert (found.config, found.sources["config"].kind) == (str(project / "memwarden.toml"), "found")
    for flags, variables in (({"config": str(other)}, {}), ({}, {"MEMWARDEN_CONFIG": f" {other} "})):
        named = resolve(flags, variables)
        assert (named.config, named.grace, named.limit) == (str(other), 6.0, None)


def test_a_named_file_that_is_not_there_is_an_error(resolve: Any, project: Path) -> None:
    """What was asked for by name is not passed over."""
    (project / "memwarden.toml").write_text("grace = 4")
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file"):
        resolve({"config": str(project / "nowhere.toml")}, {})


def test_every_fault_of_the_file_is_reported_at_once(resolve: Any, project: Path) -> None:
    """Not one at each attempt."""
    (project / "memwarden.toml").write_text("grace = 'soon'\nlimt = 1\n")
    with pytest.raises(SettingsError, match=r"toml: grace: .*'soon'.*; .*toml: limt: .*did you mean limit"):
        resolve({}, {})


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ({"limit": "12XB"}, {}, ["--limit", "12XB"]),
        ({"limit": "120%"}, {}, ["--limit", "120%", "more than 100%"]),
        ({"interval": "0.001"}, {}, ["--interval", "out of range", "from 0.01 s to 3600 s"]),
        ({"grace": "2 days"}, {}, ["--grace", "2 days"]),
        ({"ceiling": "magic"}, {}, ["--ceiling", "magic", "polling"]),
        ({"record": " "}, {}, ["--record", "is empty"]),
        ({"config": ""}, {}, ["--config", "is empty"]),
        ({}, {"MEMWARDEN_LIVE": "maybe"}, ["MEMWARDEN_LIVE", "maybe"]),
        ({}, {"MEMWARDEN_LIMIT": "# 5"}, None),
        ({}, {"MEMWARDEN_DURATION": "0"}, ["MEMWARDEN_DURATION", "more than zero"]),
    ],
)
@pytest.mark.contract("W3-6")
def test_a_bad_value_names_where_it_was_given(
    resolve: Any, flags: dict[str, str], environment: dict[str, str], words: list[str] | None
) -> None:
    """Flag or variable, the value, and what is allowed."""
    if words is None:
        assert resolve(flags, environment).sources["limit"].kind == "default"
        return
    with pytest.raises(SettingsError) as caught:
        resolve(flags, environment)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"intervall": 2}, "intervall: is not known; did you mean interval"),
        ({"interval": True}, "interval: must be .* not a boolean"),
        ({"live": 1}, "live: must be true or false, not a whole number"),
        ({"limit": 0.5}, "limit: must be .* not a float"),
        ({"limit": {}}, "limit: must be .* not a table"),
    ],
)
def test_a_bad_argument_is_named(resolve: Any, arguments: dict[str, Any], words: str) -> None:
    """A program gives typed values, so a wrong type is reported as that."""
    with pytest.raises(SettingsError, match=words):
        resolve({}, {}, arguments=arguments)


def test_arguments_are_plain_values(resolve: Any) -> None:
    """Bytes, seconds, switches and path objects, and None for not given."""
    given = {"limit": 1 << 20, "interval": 2, "quiet": True, "record": Path("x.jsonl"), "grace": None}
    settings = resolve({}, {}, arguments=given)
    assert (settings.limit, settings.interval, settings.quiet) == ("1048576", 2.0, True)
    assert (settings.record, settings.sources["grace"].kind) == ("x.jsonl", "default")


@pytest.mark.parametrize("text", ["", "  ", "# none yet", " # 2G"])
def test_an_empty_variable_counts_as_not_set(resolve: Any, text: str) -> None:
    """`MEMWARDEN_LIMIT=` in an environment file means no limit."""
    assert resolve({}, {"MEMWARDEN_LIMIT": text}).sources["limit"].kind == "default"


@pytest.mark.contract("W3-6")
@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("MEMWARDEN_LIMIT", " 2GiB   # what the pod has", "limit", "2GiB"),
        ("MEMWARDEN_INTERVAL", "2s\t# often", "interval", 2.0),
        ("MEMWARDEN_QUIET", "yes #", "quiet", True),
        ("MEMWARDEN_CEILING", "polling # no groups here", "ceiling", "polling"),
        ("MEMWARDEN_RECORD", " a #1.jsonl ", "record", "a #1.jsonl"),
    ],
)
def test_comments_after_values(resolve: Any, variable: str, text: str, name: str, value: object) -> None:
    """`docker run --env-file` hands them over as part of the value; in a path a # may be meant."""
    assert getattr(resolve({}, {variable: text}), name) == value


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("off", False), ("0", False)])
def test_switches_in_the_environment(resolve: Any, text: str, value: bool) -> None:
    """The usual words for yes and no."""
    assert resolve({}, {"MEMWARDEN_QUIET": text}).quiet is value


def test_rules_are_handed_on_as_they_stand(resolve: Any, project: Path) -> None:
    """The policy package makes rules of them; here they are plain mappings."""
    (project / "memwarden.toml").write_text(
        "preset = 'container'\n[[rules]]\nname = 'early'\nwhen = 'level >= HIGH'\nfor = '30s'\nthen = ['notify']\n"
    )
    settings = resolve({}, {})
    assert settings.rules == ({"name": "early", "when": "level >= HIGH", "for": "30s", "then": ["notify"]},)
    assert settings.preset == "container"


def test_table_and_settings_have_the_same_names() -> None:
    """Nothing can be set that has no row, and no row sets nothing."""
    fields = {field.name for field in dataclasses.fields(Settings)} - {"sources", "rules", "skipped"}
    assert fields == {option.name for option in OPTIONS}
    assert all(option.sentence.endswith((".", "%.")) for option in OPTIONS)


def test_variables_that_nothing_reads_are_reported() -> None:
    """With the one that was probably meant; every bad one at once; others' are left alone."""
    environment = {"MEMWARDEN_LIMT": "2G", "MEMWARDEN_GRACE": "soon", "MEMWARDEN_QUIET": "yes", "LIMIT": "1"}
    reported = [str(fault) for fault in environment_faults(environment)]
    assert len(reported) == 2
    assert reported[0].startswith("environment: MEMWARDEN_GRACE: duration 'soon'")
    assert reported[1] == "environment: MEMWARDEN_LIMT: is not known; did you mean MEMWARDEN_LIMIT?"


@pytest.mark.parametrize(
    ("flags", "environment", "text", "value"),
    [
        ({}, {}, "webhook = 'https://a/x'", ("https://a/x",)),
        ({}, {}, "webhook = ['https://a/x', 'https://b/y']", ("https://a/x", "https://b/y")),
        ({}, {"MEMWARDEN_WEBHOOK": "https://a/x#1  https://b  # two"}, "", ("https://a/x#1", "https://b")),
        ({"webhook": ("https://a", "https://b")}, {"MEMWARDEN_WEBHOOK": "https://c"}, "", ("https://a", "https://b")),
        ({}, {}, "webhook = []", ()),
        ({}, {}, "", None),
    ],
)
def test_addresses_may_be_several(
    resolve: Any, project: Path, flags: dict[str, Any], environment: dict[str, str], text: str, value: object
) -> None:
    """A flag again and again, an array in a file, blanks in a variable; the nearest source counts alone."""
    (project / "memwarden.toml").write_text(text)
    assert resolve(flags, environment).webhook == value


SECRETS = [option.name for option in OPTIONS if option.secret]


def test_these_are_secret() -> None:
    """Addresses are, too: they hold tokens and passwords."""
    assert SECRETS == ["webhook", "webhook_secret", "alerts"]
    assert [option.name for option in OPTIONS if not option.has_flag] == ["webhook_secret", "monitor"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "text",
    ["'hunter2'", "hunter2", "['hunter2', 3]", "[['hunter2']]", "{a = 'hunter2'}", "['hunter2', '']", "'hunter2"],
)
def test_no_fault_quotes_a_secret(resolve: Any, project: Path, name: str, text: str) -> None:
    """Whatever is wrong with it, or with the line that it stands on."""
    (project / "memwarden.toml").write_text(f"grace = 'soon'\n{name} = {text}\n")
    with pytest.raises(SettingsError) as caught:
        resolve({}, {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
def test_settings_show_no_secret(resolve: Any, project: Path, name: str) -> None:
    """Neither what was understood, nor what a program gave wrongly, nor the file."""
    settings = resolve({}, {f"MEMWARDEN_{name.upper()}": "hunter2"})
    assert "hunter2" in str(getattr(settings, name))
    assert "hunter2" not in repr(settings)
    (project / "memwarden.toml").write_text(f"{name} = 'hunter2'")
    assert "hunter2" not in repr(read(str(project / "memwarden.toml"), {}))
    for wrong in (3, {"hunter2": 1}, [["hunter2"]]):
        with pytest.raises(SettingsError) as caught:
            resolve({}, {}, arguments={name: wrong})
        assert "hunter2" not in str(caught.value)
