"""Telling somebody through the program's log."""

import json
import logging

import pytest

from memwarden.actions.notify import Notify
from memwarden.model.plain import to_plain
from memwarden.protocols import Action
from support.values import DECISION


def test_the_reason_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Under the name ``memwarden``, with the decision itself for who handles records."""
    outcome = Notify().run(DECISION)
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("memwarden", logging.WARNING, "r: because")
    assert record.__dict__["memwarden"] is DECISION
    assert (outcome.decision, outcome.done, outcome.message) == (DECISION, True, "logged")
    json.dumps(to_plain(outcome), allow_nan=False)


def test_a_reason_is_never_taken_for_a_format(caplog: pytest.LogCaptureFixture) -> None:
    """Percent signs stand in every reason."""
    Notify().run(DECISION._replace(reason="85.0% of %s %d"))
    assert caplog.records[0].getMessage() == "r: 85.0% of %s %d"


def test_it_can_stand_in_the_room() -> None:
    """It has a name and runs."""
    action: Action = Notify()
    assert action.name == "notify"
