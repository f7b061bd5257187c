"""Rules, targets and recorders from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.actions.alerting.outbox import Outbox
from memwarden.actions.alerting.webhook import key_of
from memwarden.engine.warden import Warden
from memwarden.errors import SettingsError
from memwarden.faces.cli.configured_actions import actions_of, recorder_of, rules_of
from memwarden.policy.presets import PRESETS, preset
from memwarden.policy.rules import Rule
from memwarden.process.fork_hooks import _parts
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.settings import resolve

RULES = """
[[rules]]
name = "usage warning"
when = "used > 70%"
then = "notify"

[[rules]]
name = "mine"
when = "level >= HIGH"
then = ["collect", "webhook"]
"""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for outbox in [part for part in _parts if isinstance(part, Outbox)]:
        outbox.close(0.0)


@pytest.fixture
def settings_of(tmp_path: Path) -> Any:
    """Settings of a file with this text, and of variables."""

    def settings(text: str = "", flags: Any = (), **environment: str) -> Any:
        file = tmp_path / "memwarden.toml"
        file.write_text(text)
        variables = {f"MEMWARDEN_{name.upper()}": value for name, value in environment.items()}
        return resolve(dict(flags), {"HOME": str(tmp_path), **variables}, directory=str(tmp_path))

    return settings


# --- targets of alerts ----------------------------------------------------------------------------------------


def test_without_a_target_there_is_no_action(settings_of: Any) -> None:
    """Nothing is imported, made or asked for."""
    assert actions_of(settings_of()) == ()
    assert actions_of(settings_of("webhook = []\nwebhook_secret = 'x'\n")) == ()


def test_targets_become_the_actions_that_rules_name(settings_of: Any) -> None:
    """One of each kind, however many addresses; each has a queue of its own."""
    pytest.importorskip("apprise")
    actions = actions_of(
        settings_of("webhook = ['http://a/x', 'https://b/y']\nalerts = 'json://me:hunter2@c'\nwebhook_secret = 's'\n")
    )
    assert [action.name for action in actions] == ["webhook", "alerts"]
    labels = [outbox.label for action in actions for outbox in action.outboxes]
    assert labels == ["webhook http://a/…", "webhook https://b/…", "alerts 1 (json)"]
    rules = [Rule(name="r", when="level >= HIGH", then=("webhook", "alerts"))]
    assert Warden([], rules=rules, actions=actions).rules == tuple(rules)
    assert repr(actions[0]) == "Webhook(webhook http://a/…, webhook https://b/…)"


SECRET = "whsec_aGVsbG8="


@pytest.mark.parametrize(
    ("flags", "environment", "text", "key"),
    [
        ({}, {}, "", None),
        ({}, {}, "webhook_secret = 'own'", b"own"),
        ({}, {}, "webhook_secret_file = 'kept'", b"hello"),
        ({}, {}, "webhook_secret_file = 'kept'\nwebhook_secret = 'own'", b"hello"),
        ({}, {"webhook_secret": "mine"}, "webhook_secret_file = 'kept'", b"mine"),
        ({"webhook_secret_file": "kept"}, {"webhook_secret": "mine"}, "", b"hello"),
    ],
)
def test_the_secret_that_was_set_nearest_signs(
    settings_of: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, str],
    environment: dict[str, str],
    text: str,
    key: bytes | None,
) -> None:
    """Itself or in a file; of two that stand equally near the one in the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_text(SECRET + "\n")
    made = []
    monkeypatch.setattr("memwarden.actions.alerting.webhook.Webhook", lambda urls, secret: made.append(secret))
    actions_of(settings_of("webhook = 'http://a'\n" + text, flags, **environment))
    assert [None if secret is None else key_of(secret) for secret in made] == [key]


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("#\nwebhook = 'ftp://hunter2'", {}, ["memwarden.toml: webhook url: it must start with"]),
        ("webhook = ['http://a', 'http://hunter2:x']", {}, ["memwarden.toml: number 2: webhook url"]),
        ("", {"alerts": "hunter2://x"}, ["MEMWARDEN_ALERTS: alerts urls: Apprise does not understand number 1"]),
        ("webhook = 'http://a'", {"webhook_secret": "whsec_hunter2"}, ["MEMWARDEN_WEBHOOK_SECRET: webhook secret"]),
        ("webhook = 'http://a'\nwebhook_secret_file = 'none'", {}, ["toml: ", "/none: No such file"]),
        ("webhook = 'http://a'\nwebhook_secret_file = 'empty'", {}, ["toml: webhook secret: it is empty"]),
        ("webhook = 'http://a'\nwebhook_secret_file = 'binary'", {}, ["/binary: is not UTF-8"]),
        ("webhook = 'http://a'\nwebhook_secret_file = '/dev/zero'", {}, ["/dev/zero: is longer than 4096"]),
        ("webhook = 'http://a'\nwebhook_secret_file = '.'", {}, ["Is a directory"]),
    ],
)
def test_an_error_in_a_target_names_its_place(
    settings_of: Any, tmp_path: Path, text: str, environment: dict[str, str], words: list[str]
) -> None:
    """And without the secret."""
    if "alerts" in environment:
        pytest.importorskip("apprise")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    with pytest.raises(SettingsError) as caught:
        actions_of(settings_of(text, **environment))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "hunter2" not in str(caught.value)


# --- when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment", "otherwise", "interval"),
    [
        ("", {}, None, 0.5),
        ("", {}, 1.0, 1.0),
        ("preset = 'server'", {}, 1.0, 600.0),
        ("preset = 'server'\ninterval = 2", {}, 1.0, 2.0),
        ("preset = 'server'\ninterval = 2", {"interval": "3s"}, None, 3.0),
    ],
)
def test_the_interval_of_the_settings_precedes_the_presets(
    settings_of: Any, text: str, environment: dict[str, str], otherwise: float | None, interval: float
) -> None:
    """And then the command's own."""
    assert rules_of(settings_of(text, **environment), otherwise)[0] == interval


@pytest.mark.parametrize("name", PRESETS)
def test_without_a_target_a_preset_is_as_it_is(settings_of: Any, name: str) -> None:
    """Rule by rule."""
    assert rules_of(settings_of(f"preset = '{name}'"))[1] == preset(name).rules


def test_rules_of_a_file_are_added_and_take_the_place_of_the_presets(settings_of: Any) -> None:
    """In the preset's order; by name."""
    _, rules = rules_of(settings_of("preset = 'worker'" + RULES))
    assert [rule.name for rule in rules] == [*(rule.name for rule in preset("worker").rules), "mine"]
    assert (rules[0].name, rules[0].when) == ("usage warning", "used > 70%")
    assert rules_of(settings_of())[1] == ()


def test_a_preset_alerts_the_targets_too(settings_of: Any) -> None:
    """Each rule of it that notifies; a rule of a file names its own targets."""
    settings = settings_of("preset = 'worker'\nwebhook = 'http://a'" + RULES)
    then = {rule.name: rule.then for rule in rules_of(settings)[1]}
    assert then["usage critical"] == ("notify", "webhook")
    assert then["usage warning"] == ("notify",)
    assert then["mine"] == ("collect", "webhook")
    both = rules_of(settings_of("preset = 'video'\nwebhook = 'http://a'\nalerts = 'json://b'"))[1]
    assert {rule.name: rule.then for rule in both} == {
        "moderate": ("collect",),
        "high": ("collect", "caches", "trim", "notify", "webhook", "alerts"),
        "emergency": ("notify", "webhook", "alerts"),
    }


def test_an_error_in_a_rule_names_its_file(settings_of: Any, tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(SettingsError, match=r"memwarden\.toml: rule 'mine': "):
        rules_of(settings_of(RULES.replace("level >= HIGH", "lvl > 3")))


# --- where to keep it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.sqlite", "x.sqlite3", "x.db", "X.DB"])
def test_a_name_may_ask_for_sqlite(tmp_path: Path, name: str) -> None:
    """By its end, in any case; nothing is made yet."""
    made = recorder_of(str(tmp_path / name))
    assert isinstance(made, SqliteRecorder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.jsonl", "x", "db", "x.db.jsonl", "x.log"])
def test_any_other_name_is_lines(tmp_path: Path, name: str) -> None:
    """As it was before there was a choice."""
    made = recorder_of(str(tmp_path / name))
    assert isinstance(made, JsonlRecorder)
    assert made.path == str(tmp_path / name)
