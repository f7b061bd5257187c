"""Notification through the program's log."""

import json
import logging

import pytest

from memwarden.actions.notify import Notify
from memwarden.model.events import EventKind
from memwarden.model.serialize import from_dict, to_dict
from memwarden.protocols import Action
from support.values import DECISION

FIRST = DECISION._replace(repeat=0, undo=False)


def test_the_reason_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Under the name ``memwarden``, with the decision's event for log handlers, as JSON."""
    outcome = Notify().run(FIRST)
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("memwarden", logging.WARNING, "r: because")
    carried = vars(record)
    event = from_dict(json.loads(json.dumps(carried["memwarden"], allow_nan=False)))
    assert (event.kind, event.value) == (EventKind.DECISION, FIRST)
    assert (carried["memwarden_kind"], carried["memwarden_rule"]) == ("decision", "r")
    assert (outcome.decision, outcome.done, outcome.message) == (FIRST, True, "logged")
    json.dumps(to_dict(outcome), allow_nan=False)


def test_a_reason_is_never_taken_for_a_format(caplog: pytest.LogCaptureFixture) -> None:
    """Percent signs stand in every reason."""
    Notify().run(FIRST._replace(reason="85.0% of %s %d"))
    assert caplog.records[0].getMessage() == "r: 85.0% of %s %d"


def test_a_repetition_is_marked(caplog: pytest.LogCaptureFixture) -> None:
    """The third line of an episode is marked as the third."""
    Notify().run(FIRST._replace(repeat=2))
    assert caplog.records[0].getMessage() == "r: because (still, logged 3 times)"


def test_the_end_of_an_episode_is_logged_below_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The end of an episode has level INFO."""
    with caplog.at_level(logging.INFO, "memwarden"):
        outcome = Notify().undo(FIRST._replace(undo=True, reason="level LOW"))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, "r: over: level LOW")
    assert (outcome.done, outcome.message) == (True, "logged that it is over")


def test_it_is_an_action() -> None:
    """It has a name, runs, and harms nothing."""
    action: Action = Notify()
    assert (action.name, Notify.harms) == ("notify", False)
