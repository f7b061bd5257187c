"""The program's log: one name, one shape, and no cost without a message."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from memwarden.engine.warden import Warden
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict
from memwarden.policy.rules import Rule
from memwarden.records.log import LogRecorder
from memwarden.testing import FakeClock, ScriptedReader, gone
from support.values import EVENT

KEYS = {"memwarden", "memwarden_kind", "memwarden_level", "memwarden_rule"}


def carried(record: logging.LogRecord) -> dict[str, Any]:
    """What of ours a log record carries."""
    return {key: value for key, value in vars(record).items() if key.startswith("memwarden")}


def run(caplog: pytest.LogCaptureFixture, **more: Any) -> list[logging.LogRecord]:
    """The log of a watch in which pressure comes and goes, a reader fails, and a rule reports it."""
    clock = FakeClock()
    script = [100, 960, gone(), 960, *[100] * 40]
    rules = [Rule(name="high", when="used >= 90%", then="notify")]
    with caplog.at_level(logging.DEBUG, "memwarden"):
        with Warden([ScriptedReader(script)], clock=clock, rules=rules, **more) as warden:
            clock.advance(40.0)
            warden.publish(Event(EventKind.TROUBLE, 1e9, 1.0, "another's"))
            assert warden.flush()
    return caplog.records


def test_every_logger_uses_one_format(caplog: pytest.LogCaptureFixture) -> None:
    """The warden and the action ``notify``: every event as JSON that can be read back, and the flat keys beside it."""
    reported = run(caplog)
    kinds = [record.memwarden_kind for record in reported]  # type: ignore[attr-defined]
    assert {"level", "gap", "gap_closed", "decision", "trouble"} == set(kinds)
    for record in reported:
        of = carried(record)
        assert of.keys() == KEYS
        event = from_dict(json.loads(json.dumps(of["memwarden"], allow_nan=False)))
        assert event.kind.value == of["memwarden_kind"]
        assert of["memwarden_level"] == (event.value.level.value if event.kind is EventKind.LEVEL else None)
        assert of["memwarden_rule"] == ("high" if event.kind is EventKind.DECISION else None)


@pytest.mark.parametrize("say", [log.error, log.warn, log.debug], ids=lambda say: say.__name__)
def test_a_message_without_an_event_has_the_keys_too(
    caplog: pytest.LogCaptureFixture, say: Callable[..., None]
) -> None:
    """A format string that names one must not fail on it."""
    with caplog.at_level(logging.DEBUG, "memwarden"):
        say("%d%%", 5)
    (record,) = caplog.records
    assert record.getMessage() == "5%"
    assert carried(record) == dict.fromkeys(KEYS)


def test_beside_a_recorder_that_logs_the_warden_logs_nothing_twice(caplog: pytest.LogCaptureFixture) -> None:
    """Each event is one log record; what ``notify`` says is its own."""
    reported = [record for record in run(caplog, recorders=[LogRecorder()]) if ": " not in record.getMessage()[:6]]
    events = [json.dumps(carried(record)["memwarden"]) for record in reported]
    assert len(events) == len(set(events))
    kinds = [record.memwarden_kind for record in reported]  # type: ignore[attr-defined]
    assert (kinds.count("trouble"), kinds.count("gap"), kinds.count("start")) == (1, 1, 1)


def test_a_recorder_that_leaves_something_out_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    """Trouble that is not to be logged is not logged by the warden either."""
    run(caplog, recorders=[LogRecorder(dict.fromkeys(EventKind))])
    assert {carried(record)["memwarden_kind"] for record in caplog.records} == {"decision"}  # by notify


def test_a_disabled_message_is_not_formatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that changes costs a comparison where DEBUG is off."""
    monkeypatch.setattr(log, "extra_of", lambda event: pytest.fail("written out"))
    log.debug("%s", "x", event=EVENT)


def test_nothing_is_printed_where_the_program_has_set_nothing_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library's warnings go to the program that set logging up."""
    logger = logging.getLogger("memwarden")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    for _ in range(3):
        log.warn("boom")
    assert len(logger.handlers) == 1
    assert capsys.readouterr() == ("", "")
