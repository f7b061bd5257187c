"""Written values carry their units, and are read back unchanged."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from memwarden.errors import SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import SCHEMA, TYPES, from_dict, iso, to_dict
from memwarden.model.verdicts import PressureLevel
from support.values import ASSESSMENT, BARE, EVENT, FULL, GAP, OUTCOME, SAMPLE, WALL

#: The fields that hold bytes, seconds or time, and may stand in a record under no bare name.
BARE_SIZES = {"rss", "vms", "usage", "reclaimable", "used", "available", "total", "free", "cached", "swap", "peak"}
BARE_TIMES = {"late", "since", "monotonic", "wall"}


def keys_of(plain: Any) -> set[str]:
    """Every key of a nest of dicts and lists, whose value is a figure."""
    if isinstance(plain, dict):
        own = {key for key, value in plain.items() if not isinstance(value, dict)}
        return own.union(*(keys_of(value) for value in plain.values()))
    return set().union(*(keys_of(each) for each in plain)) if isinstance(plain, list) else set()


@pytest.mark.parametrize("value", FULL + BARE, ids=lambda value: type(value).__name__)
def test_every_type_comes_back_as_it_was(value: Any) -> None:
    """Through JSON text and back is the same value."""
    assert from_dict(json.loads(json.dumps(to_dict(value), allow_nan=False))) == value


def test_no_type_is_left_out_of_these_tests() -> None:
    """Each type that can be written is tried in full."""
    assert {type(value) for value in FULL} == set(TYPES.values())


@pytest.mark.parametrize("value", FULL, ids=lambda value: type(value).__name__)
def test_keys_carry_their_units(value: Any) -> None:
    """A size ends in ``_bytes``, a duration in ``_seconds``, and the wall clock is ``time``."""
    keys = keys_of(to_dict(value))
    assert not keys & (BARE_SIZES | BARE_TIMES)
    assert "seconds_seconds" not in keys


def test_a_sample_is_written_with_these_names() -> None:
    """The words of a record are a promise: another program reads them."""
    plain = to_dict(SAMPLE)
    assert (plain["schema"], plain["type"], plain["late_seconds"]) == (SCHEMA, "sample", 0.25)
    assert set(plain["system"]) - {"type"} == {
        "total_bytes",
        "available_bytes",
        "free_bytes",
        "cached_bytes",
        "swap_total_bytes",
        "swap_free_bytes",
    }
    assert plain["process"]["key"] == {"pid": 4242, "start": 987654}
    assert plain["process"]["rss_bytes"] == 300
    assert plain["tree"]["rss_bytes"] == [300, 200]
    assert plain["cgroups"][0]["limit_bytes"] == 1000
    assert plain["asked"] == {"type": "limit", "bytes": 2000, "source": "asked"}


@pytest.mark.contract("S1-66")
def test_levels_are_written_as_these_four_words() -> None:
    """``low``, ``moderate``, ``high``, ``critical``, in JSON and as ``level.value``, mildest first."""
    written = [to_dict(ASSESSMENT._replace(level=level))["level"] for level in PressureLevel]
    assert written == ["low", "moderate", "high", "critical"] == [level.value for level in PressureLevel]
    assert [level.rank for level in PressureLevel] == [0, 1, 2, 3]


@pytest.mark.contract("V-16")
@pytest.mark.parametrize(
    ("zone", "text"),
    [
        pytest.param("UTC", "2023-11-14T22:13:20.000007+00:00", id="UTC"),
        pytest.param("EST5EDT", "2023-11-14T17:13:20.000007-05:00", id="winter in the west"),
        pytest.param("<+0545>-5:45", "2023-11-15T03:58:20.000007+05:45", id="three quarters of an hour"),
    ],
)
def test_times_are_iso_8601_with_microseconds_and_offset(
    zone: str, text: str, monkeypatch: pytest.MonkeyPatch, local_zone: Any
) -> None:
    """The offset is always there, so a record can be read elsewhere."""
    local_zone(zone)
    assert iso(1_700_000_000.000007) == text
    assert to_dict(SAMPLE)["time"].endswith(text[-6:])


def test_the_hour_that_comes_twice_is_reported_apart(local_zone: Any) -> None:
    """When summer time ends the same local time is written with two offsets, and both come back right."""
    local_zone("EST5EDT,M3.2.0,M11.1.0")
    first = datetime(2024, 11, 3, 5, 30, tzinfo=UTC).timestamp()
    for wall, text in ((first, "01:30:00.000000-04:00"), (first + 3600, "01:30:00.000000-05:00")):
        assert iso(wall).endswith(text)
        assert from_dict(to_dict(SAMPLE._replace(wall=wall))).wall == wall


def test_what_is_not_known_is_left_out() -> None:
    """None is no key: a reader cannot take it for 0."""
    assert "process" not in to_dict(SAMPLE._replace(process=None))
    assert from_dict(to_dict(SAMPLE._replace(process=None))).process is None


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_float_that_json_has_no_word_for_becomes_null(figure: float) -> None:
    """One odd figure in an event's details costs that figure, not the line."""
    plain = to_dict(EVENT._replace(details={"a": figure, "b": [figure, 1.5]}))
    assert plain["details"] == {"a": None, "b": [None, 1.5]}
    json.dumps(plain, allow_nan=False)


def test_details_may_hold_anything() -> None:
    """What JSON cannot hold is written as text; values of ours as themselves."""
    details = {"level": PressureLevel.HIGH, "bytes": b"\xff", "set": {1}, 5: "five", "gap": GAP, "pair": (1, 2)}
    plain = to_dict(Event(kind=EventKind.TROUBLE, wall=WALL, monotonic=1.0, details=details))["details"]
    assert (plain["level"], plain["bytes"], plain["set"], plain["5"]) == ("high", "b'\\xff'", "{1}", "five")
    assert plain["gap"]["why"] == "malformed"
    assert plain["pair"] == [1, 2]


def test_a_newer_writer_is_understood_but_a_newer_schema_is_not() -> None:
    """Unknown keys are passed over; another schema is refused with a word on what to do."""
    plain = to_dict(SAMPLE)
    plain["system"]["compressed_bytes"] = 7
    assert from_dict({**plain, "mood": "fine"}) == SAMPLE
    with pytest.raises(SettingsError, match=r"newer .* upgrade"):
        from_dict({**plain, "schema": SCHEMA + 1})


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param("sample", id="a string"),
        pytest.param({}, id="nothing"),
        pytest.param({"schema": "1", "type": "gap"}, id="a schema in words"),
        pytest.param({"schema": 1, "type": "ghost"}, id="an unknown type"),
        pytest.param({"schema": 1, "type": ["gap"]}, id="a type that cannot be looked up"),
        pytest.param({"schema": 1, "type": "sample"}, id="no time"),
        pytest.param({**to_dict(SAMPLE), "time": "yesterday"}, id="no such time"),
        pytest.param({**to_dict(SAMPLE), "time": 5}, id="a time that is a number"),
        pytest.param({**to_dict(SAMPLE), "system": 5}, id="a number for an object"),
        pytest.param({**to_dict(SAMPLE), "gaps": 5}, id="a number for a list"),
        pytest.param({"schema": 1, "type": "limit", "bytes": math.inf, "source": ""}, id="infinitely many bytes"),
        pytest.param({"schema": 1, "type": "limit", "bytes": "many", "source": ""}, id="bytes in words"),
        pytest.param({**to_dict(OUTCOME), "decision": None}, id="null for an object"),
        pytest.param({**to_dict(ASSESSMENT), "level": "severe"}, id="no such level"),
        pytest.param({**to_dict(EVENT), "value": {"type": "gap"}}, id="a value that is not whole"),
    ],
)
def test_what_is_no_record_is_one_error(plain: Any) -> None:
    """SettingsError, whatever a file holds."""
    with pytest.raises(SettingsError, match=r"^record: "):
        from_dict(plain)
