"""Table, schema and what is understood do not drift apart."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from memwarden.policy.presets import PRESETS as policy_presets
from memwarden.policy.presets import Preset
from memwarden.policy.rules import _KEYS, SEVERITIES, Rule
from memwarden.settings import OPTIONS, RULE_KEYS, read, schema
from memwarden.settings.options import PRESETS, Choice, Duration, Names, Size, Switch
from support.json_schema import allows

PROPERTIES = schema()["properties"]
RULE_PROPERTIES = PROPERTIES["rules"]["items"]["properties"]


def test_the_schema_is_complete() -> None:
    """Every option that a file may hold, every key of a rule, and nothing else."""
    assert [*PROPERTIES] == [*(option.name for option in OPTIONS if option.in_file), "rules"]
    assert [*RULE_PROPERTIES] == [key.name for key in RULE_KEYS]


@pytest.mark.parametrize("row", [*OPTIONS, *RULE_KEYS], ids=lambda row: row.name)
def test_a_row_shows_in_the_schema_what_it_shows_in_the_table(row: Any) -> None:
    """Its sentence, its default, and its range or choices."""
    if not getattr(row, "in_file", True):
        return
    reported = (PROPERTIES if row in OPTIONS else RULE_PROPERTIES)[row.name]
    assert reported["description"] == row.sentence
    assert reported.get("default") == row.default
    match row.kind:
        case Duration(least, most):
            assert (reported["minimum"], reported.get("maximum", float("inf"))) == (least, most)
        case Choice(known):
            assert reported["enum"] == list(known)
        case Switch():
            assert reported["type"] == "boolean"
        case Size():
            assert reported["minimum"] == 1


@pytest.mark.parametrize("row", [*OPTIONS, *RULE_KEYS], ids=lambda row: row.name)
def test_a_default_is_a_value_that_may_be_given(row: Any) -> None:
    """Writing the default down changes nothing."""
    if row.default is not None:
        assert row.kind.take(row.default) == row.default
        assert allows(row.kind.schema(), row.default)


FILES = [
    ("", True),
    ("limit = '2GiB'\ninterval = 0.5\nlive = true\nceiling = 'cgroup2'\nrecord = 'x'\n", True),
    ("limit = 1048576\ngrace = '500ms'\n", True),
    ("webhook = 'https://a'\nalerts = ['ntfy://b', 'ntfy://c']\nwebhook_secret_file = 'x'", True),
    ("webhook = []", True),
    ("webhook = ['']", False),
    ("alerts = 3", False),
    ("webhook_secret = ''", False),
    ("limit = '5 parsecs'", False),
    ("limit = 1.5", False),
    ("interval = 0.001", False),
    ("interval = true", False),
    ("live = 1", False),
    ("ceiling = 'magic'", False),
    ("limt = '1G'", False),
    ("config = 'x'", False),
    ("record = ''", False),
    ("[run]\nlimit = 1", False),
    ("[[rules]]\nname = 'a'\nwhen = 'level >= HIGH'\nthen = 'notify'\nfor = 0\nrest = '5m'\ndry_run = true", True),
    ("[[rules]]\nname = 'a'\nwhen = 'level >= HIGH'\nescalate = ['collect', 'trim']\nseverity = 'info'", True),
    ("[[rules]]\nname = 'a'\nwhen = 'level >= HIGH'", False),
    ("[[rules]]\nwhen = 'level >= HIGH'\nthen = 'notify'", False),
    ("[[rules]]\nname = 'a'\nwhen = 'x'\nthen = [3]", False),
    ("[[rules]]\nname = 'a'\nwhen = 'x'\nthen = 'y'\nfor = -1", False),
    ("[[rules]]\nname = 'a'\nwhen = 'x'\nthen = 'y'\nfro = 1", False),
    ("[rules]\nname = 'a'", False),
]


@pytest.mark.parametrize(("text", "fine"), FILES)
def test_an_editor_and_the_check_agree(tmp_path: Path, text: str, fine: bool) -> None:
    """What the schema marks, the check names, and the other way round."""
    path = tmp_path / "memwarden.toml"
    path.write_text(text)
    assert allows(schema(), tomllib.loads(text)) is fine
    assert (not read(str(path), {}).faults) is fine


def test_flags_variables_and_keys_have_one_name() -> None:
    """Each follows from the other two; no two options share any."""
    for option in OPTIONS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", option.name)
        assert option.flag == "--" + option.name.replace("_", "-")
        assert option.variable == "MEMWARDEN_" + option.name.upper()
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)
    assert not {option.name for option in OPTIONS} & {"rules"}


def test_the_policy_knows_the_same_rules_and_presets() -> None:
    """Packages of one layer do not import each other; their equal definitions agree."""
    assert {key.name for key in RULE_KEYS} == set(_KEYS)
    defaults = {field.name: field.default for field in dataclasses.fields(Rule)}
    for key in RULE_KEYS:
        default = defaults[_KEYS[key.name]]
        assert key.required == (default is dataclasses.MISSING)
        assert key.default == (None if key.required or default == () else default)
    assert next(key.kind.known for key in RULE_KEYS if key.name == "severity") == SEVERITIES
    assert tuple(policy_presets) == PRESETS


@pytest.mark.parametrize("preset", policy_presets.values(), ids=lambda preset: preset.name)
def test_a_rule_goes_through_a_file(preset: Preset, tmp_path: Path) -> None:
    """Every rule of every preset, as it writes itself, is a fine settings file."""
    path = tmp_path / "memwarden.toml"
    rows = [f"{key} = {json.dumps(value)}\n" for rule in preset.rules for key, value in rule.to_dict().items()]
    heads = ["[[rules]]\n" if row.startswith("name = ") else "" for row in rows]
    path.write_text("".join(head + row for head, row in zip(heads, rows, strict=True)))
    reported = read(str(path), {}, judge=Rule.from_dict)
    assert reported.faults == ()
    assert tuple(map(Rule.from_dict, reported.rules)) == preset.rules
    assert all(allows(RULE_PROPERTIES[key], value) for rule in reported.rules for key, value in rule.items())


def test_names_may_be_one_or_several() -> None:
    """As a rule's actions are written."""
    names = Names()
    assert names.take("notify") == "notify"
    assert names.take(["collect", "notify"]) == ["collect", "notify"]
