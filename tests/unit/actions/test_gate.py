"""The gate that work passes, and the action that shuts it."""

from __future__ import annotations

import os
import threading

import pytest

from memwarden.actions.gate import Gate, StopAdmitting
from memwarden.errors import NotAdmitted
from memwarden.model.decisions import Decision

DECISION = Decision(rule="emergency", action="stop-admitting", reason="CRITICAL", wall=0.0, monotonic=0.0)


def test_running_work_continues_and_new_work_waits() -> None:
    """The action shuts the gate, and its undo opens it."""
    gate = Gate()
    action = StopAdmitting(gate)
    with gate.admitted():
        outcome = action.run(DECISION)
        assert (outcome.done, gate.closed, gate.inside) == (True, True, 1)
        assert outcome.message == "no new work is admitted; running work continues (1 inside)"
        assert not gate.wait(0)
        with pytest.raises(NotAdmitted, match="emergency"), gate.admitted(timeout=0):
            raise AssertionError("it was let in")
    assert gate.inside == 0
    undone = action.undo(DECISION)
    assert (undone.done, undone.message, gate.closed) == (True, "new work is admitted", False)
    with gate.admitted(timeout=0):
        assert gate.wait(0)


def test_waiting_work_starts_when_it_opens() -> None:
    """A thread that waits for ever goes on at once."""
    gate = Gate()
    gate.shut("r")
    inside = threading.Event()

    def work() -> None:
        with gate.admitted():
            inside.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not inside.is_set()
    assert gate.open("r")
    thread.join(10)
    assert inside.is_set()


def test_two_rules_hold_it_shut_until_both_are_over() -> None:
    """Each takes back its own."""
    gate = Gate()
    action = StopAdmitting(gate)
    action.run(DECISION)
    action.run(DECISION)
    action.run(DECISION._replace(rule="other"))
    first = action.undo(DECISION)
    assert (first.message, gate.closed) == ("still shut by other", True)
    action.undo(DECISION._replace(rule="other"))
    assert not gate.closed
    assert not action.undo(DECISION).done


def test_closing_the_action_opens_what_it_shut() -> None:
    """And not what another caller has shut."""
    gate = Gate()
    action = StopAdmitting(gate)
    gate.shut("me")
    action.run(DECISION)
    action.close()
    assert gate.shut_by == ("me",)


def test_a_rehearsal_shuts_nothing() -> None:
    """It only reports."""
    gate = Gate()
    action = StopAdmitting(gate)
    for outcome in (action.rehearse(DECISION), action.run(DECISION._replace(dry_run=True))):
        assert (outcome.done, outcome.message, gate.closed) == (False, "would admit no new work", False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_in_a_child_it_is_open() -> None:
    """The warden is stopped there; and the lock that another thread held at the fork is not waited for."""
    gate = Gate()
    gate.shut("r")
    with gate._changed:
        pid = os.fork()
        if not pid:
            os._exit(0 if gate.wait(0) and not gate.closed else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert gate.closed
