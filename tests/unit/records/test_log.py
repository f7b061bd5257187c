"""Events as log records that a program's own handlers understand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict
from memwarden.records.log import LogRecorder
from support.values import CLEARING, DECISION, EVENT, FULL, OUTCOME, READING, WALL


class Kept(logging.Handler):
    """A handler that keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, formatted as a program would."""
        record.line = self.format(record)
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Everything that the one logger shows."""
    handler, logger = Kept(), logging.getLogger("memwarden")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def event(kind: EventKind, value: Any = None, message: str = "m") -> Event:
    """An event of that kind."""
    return Event(kind=kind, wall=WALL, monotonic=1.0, message=message, value=value)


@pytest.mark.parametrize("value", FULL, ids=lambda value: type(value).__name__)
def test_the_whole_event_travels_as_json(kept: Kept, value: Any) -> None:
    """Whatever it is about: a formatter can write it, and it can be read back."""
    reported = event(EventKind.LEVEL, value)
    LogRecorder().record(reported)
    (record,) = kept.records
    assert record.name == "memwarden"
    assert from_dict(json.loads(json.dumps(record.memwarden, allow_nan=False))) == reported


def test_no_key_collides_with_an_attribute_of_a_log_record(kept: Kept) -> None:
    """Every key of ours starts with our name."""
    LogRecorder().record(EVENT)
    bare = vars(logging.LogRecord("n", 10, "p", 1, "m", (), None))
    ours = vars(kept.records[0]).keys() - bare.keys() - {"message", "asctime", "line"}
    assert ours == {"memwarden", "memwarden_kind", "memwarden_level", "memwarden_rule"}


@pytest.mark.parametrize(
    ("value", "level", "rule"),
    [
        (READING, "high", None),
        (READING.assessment, "high", None),
        (DECISION, None, "r"),
        (OUTCOME, None, "r"),
        (CLEARING, None, "r"),
        (READING.sample, None, None),
        (None, None, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_flat_keys_are_always_there(kept: Kept, value: Any, level: str | None, rule: str | None) -> None:
    """So that a format string can name them."""
    kept.setFormatter(logging.Formatter("%(memwarden_kind)s %(memwarden_level)s %(memwarden_rule)s"))
    LogRecorder().record(event(EventKind.OUTCOME, value))
    assert kept.records[0].line == f"outcome {level} {rule}"


def test_each_kind_has_a_level(kept: Kept) -> None:
    """Trouble is a warning, what comes every second is debug, the rest is info."""
    for kind in EventKind:
        LogRecorder().record(event(kind))
    levels = {record.memwarden_kind: record.levelname for record in kept.records}
    reported = {kind.value: "INFO" for kind in EventKind} | dict.fromkeys(("sample", "gap", "gap_closed"), "DEBUG")
    assert levels == reported | {"trouble": "WARNING", "overflow": "WARNING"}


def test_the_level_of_a_kind_can_be_reported(kept: Kept) -> None:
    """None shows nothing at all; the others keep theirs."""
    recorder = LogRecorder({EventKind.SAMPLE: logging.ERROR, EventKind.GAP: None})
    for kind in (EventKind.SAMPLE, EventKind.GAP, EventKind.TROUBLE):
        recorder.record(event(kind))
    assert [record.levelname for record in kept.records] == ["ERROR", "WARNING"]


def test_a_disabled_message_is_not_formatted(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample a second costs a comparison where DEBUG is off."""
    monkeypatch.setattr("memwarden.records.log.extra_of", lambda event: pytest.fail("written out"))
    logging.getLogger("memwarden").setLevel(logging.INFO)
    LogRecorder().record(EVENT)
    assert kept.records == []


@pytest.mark.parametrize(
    ("reported", "line"),
    [
        (EVENT._replace(message=""), "sample: HIGH, 93.0% of cgroup /app"),
        (event(EventKind.STOP, message=""), "stop"),
        (event(EventKind.START, message="100% of %s"), "100% of %s"),
    ],
    ids=["a sample", "nothing to say", "no format"],
)
def test_every_record_has_a_line(kept: Kept, reported: Event, line: str) -> None:
    """The event's own message, and a short one for those that have none."""
    LogRecorder().record(reported)
    assert kept.records[0].getMessage() == line


def test_an_event_that_cannot_be_written_is_reported(kept: Kept) -> None:
    """As by every recorder, and the next one is reported."""
    recorder = LogRecorder()
    with pytest.raises(RecordError, match="level cannot be written"):
        recorder.record(event(EventKind.LEVEL)._replace(wall=1e30))
    recorder.record(event(EventKind.LEVEL))
    assert len(kept.records) == 1
