"""One suite for every recorder and every action that memwarden ships: what the protocols promise."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.actions.alerting.alerts import Alerts
from memwarden.actions.alerting.webhook import Webhook
from memwarden.actions.caches import Caches
from memwarden.actions.collect import Collect
from memwarden.actions.gate import Gate, StopAdmitting
from memwarden.actions.notify import Notify
from memwarden.actions.pause import Pause
from memwarden.actions.registry import standard_actions
from memwarden.actions.targets import Targets
from memwarden.actions.terminate import Terminate
from memwarden.actions.trim import Trim
from memwarden.engine.warden import Warden
from memwarden.errors import RecordError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap, ProcessKey, SystemMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel, Reading
from memwarden.policy.rules import Rule
from memwarden.protocols import Action, Recorder
from memwarden.readers.linux.identity import ProcProbe
from memwarden.records.jsonl import JsonlRecorder, read_lines
from memwarden.records.log import LogRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history
from memwarden.records.statistics import Statistics
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import Keeper, no_thread_is_left

DECISION = Decision(rule="high", action="notify", reason="level HIGH: 85.0% of machine", wall=1e9, monotonic=5.0)
READING = Reading(
    Sample(1e9, 5.0, 0.25, SystemMemory(1000, 150, 100, 50, 0, 0), gaps=(Gap("psi", "/proc/pressure", "absent"),)),
    Assessment(
        PressureLevel.HIGH,
        PressureLevel.CRITICAL,
        Constraint(Limit(1000, "machine"), 850),
        Limit(1000, "machine"),
        150,
        4.0,
    ),
)
VALUES = {
    EventKind.SAMPLE: READING,
    EventKind.LEVEL: READING.assessment,
    EventKind.DECISION: DECISION,
    EventKind.OUTCOME: Outcome(decision=DECISION, done=True, message="logged", seconds=0.5),
    EventKind.GAP: READING.sample.gaps[0],
    EventKind.GAP_CLOSED: READING.sample.gaps[0],
}
EVENTS = [
    Event(kind=kind, wall=1e9, monotonic=5.0, message=f"a {kind.value}\n\u00e4 \u2028 \x00", value=VALUES.get(kind))
    for kind in EventKind
]

# --- recorders -----------------------------------------------------------------------------------------


class Case:
    """A recorder below a folder, and how to read back what it kept."""

    def __init__(self, make: Callable[[Path], Recorder], read: Callable[[Path], list[Any]]) -> None:
        self.make, self.read = make, read


RECORDERS = {
    "jsonl": Case(
        lambda folder: JsonlRecorder(folder / "record.jsonl"), lambda folder: list(read_lines(folder / "record.jsonl"))
    ),
    "sqlite": Case(
        lambda folder: SqliteRecorder(folder / "history.db", wall=lambda: 1e9),  # these events are not old
        lambda folder: list(read_history(folder / "history.db")),
    ),
}


@pytest.fixture(params=sorted(RECORDERS))
def case(request: pytest.FixtureRequest) -> Case:
    """Each recorder in turn."""
    return RECORDERS[request.param]


@pytest.fixture
def recorder(case: Case, tmp_path: Path) -> Iterator[Recorder]:
    """A recorder on an empty folder."""
    made = case.make(tmp_path)
    yield made
    made.close()


#: Those, and the ones that keep nothing in a file.
EVERY: dict[str, Callable[[Path], Recorder]] = {
    **{name: each.make for name, each in RECORDERS.items()},
    "log": lambda folder: LogRecorder(),
    "statistics": lambda folder: Statistics(),
}


@pytest.fixture(params=sorted(EVERY))
def any_recorder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorder]:
    """Each of all recorders in turn."""
    made = EVERY[request.param](tmp_path)
    yield made
    made.close()


def test_a_recorder_is_one(any_recorder: Recorder) -> None:
    """It has what the protocol names, and making it opens and makes nothing."""
    assert isinstance(any_recorder, Recorder)


def test_a_recorder_takes_every_event_in_a_run(any_recorder: Recorder) -> None:
    """Nothing in the stream of a warden troubles it, and it may be used for the next run."""
    clock, keeper = FakeClock(), Keeper()
    rules = [Rule(name="high", when="level >= HIGH", then="notify")]
    warden = Warden([ScriptedReader([100, 960])], clock=clock, recorders=[any_recorder, keeper], rules=rules)
    for _ in range(2):
        with warden:
            clock.advance(3.0)
            assert warden.flush()
    assert keeper.of(EventKind.TROUBLE) == []
    assert keeper.kinds().count(EventKind.STOP) == 2


def test_making_a_recorder_touches_nothing(case: Case, tmp_path: Path) -> None:
    """The place is made when there is something to keep."""
    case.make(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind.value)
def test_a_recorder_keeps_every_kind_of_event(case: Case, recorder: Recorder, tmp_path: Path, event: Event) -> None:
    """Kind, moments, message and value come back as they were."""
    recorder.record(event)
    recorder.close()
    assert case.read(tmp_path) == [event]


def test_a_recorder_keeps_the_order(case: Case, recorder: Recorder, tmp_path: Path) -> None:
    """Oldest first, and nothing twice."""
    for event in EVENTS:
        recorder.record(event)
    recorder.close()
    assert case.read(tmp_path) == EVENTS


def test_a_recorder_may_be_closed_at_any_time(case: Case, recorder: Recorder, tmp_path: Path) -> None:
    """Before anything was kept, twice, and in between: it goes on where it was."""
    recorder.close()
    recorder.record(EVENTS[0])
    recorder.close()
    recorder.close()
    recorder.record(EVENTS[1])
    recorder.close()
    assert case.read(tmp_path) == EVENTS[:2]


def test_a_second_recorder_goes_on_where_the_first_ended(case: Case, tmp_path: Path) -> None:
    """A program that starts again loses nothing of before."""
    for event in EVENTS[:2]:
        recorder = case.make(tmp_path)
        recorder.record(event)
        recorder.close()
    assert case.read(tmp_path) == EVENTS[:2]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors are counted in /proc/self/fd")
def test_a_recorder_that_is_closed_holds_no_descriptor(any_recorder: Recorder) -> None:
    """However often it was opened."""
    before = len(os.listdir("/proc/self/fd"))
    for event in EVENTS:
        any_recorder.record(event)
        any_recorder.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_kept_is_a_record_error(case: Case, tmp_path: Path) -> None:
    """It names the path and the system's reason, survives pickling, and the next event is tried again."""
    (tmp_path / "place").write_text("a file where a folder should be")
    recorder = case.make(tmp_path / "place")
    for _ in range(2):
        with pytest.raises(RecordError) as caught:
            recorder.record(EVENTS[0])
    assert str(tmp_path / "place") in str(caught.value)
    assert os.strerror(errno.ENOTDIR) in str(caught.value) or os.strerror(errno.EEXIST) in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path) == (str(caught.value), caught.value.path)
    (tmp_path / "place").unlink()
    recorder.record(EVENTS[1])
    recorder.close()
    assert case.read(tmp_path / "place") == EVENTS[1:2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_closing_in_a_child_does_not_touch_the_parents_record(case: Case, recorder: Recorder, tmp_path: Path) -> None:
    """After fork the child closes its copy; both may go on."""
    recorder.record(EVENTS[0])
    pid = os.fork()
    if not pid:
        code = 1
        try:
            recorder.close()
            recorder.record(EVENTS[1])
            recorder.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    recorder.record(EVENTS[2])
    recorder.close()
    assert case.read(tmp_path) == EVENTS[:3]


@pytest.mark.contract("S2-23")
def test_a_recorder_serves_a_warden(case: Case, recorder: Recorder, tmp_path: Path) -> None:
    """The record has a whole run, START first and STOP last, as every receiver got it."""
    clock, keeper = FakeClock(), Keeper()
    rule = Rule(name="high", when="level >= HIGH", then="notify")
    with Warden([ScriptedReader([100, 960])], clock=clock, recorders=[recorder, keeper], rules=[rule]) as warden:
        clock.advance(3.0)
        assert warden.flush()
    # The wall clock is written in microseconds.
    kept = [(event.kind, event.monotonic, event.message) for event in case.read(tmp_path)]
    assert kept == [(event.kind, event.monotonic, event.message) for event in keeper.events]
    assert keeper.kinds()[0] is EventKind.START
    assert keeper.kinds()[-1] is EventKind.STOP
    assert EventKind.OUTCOME in keeper.kinds()


# --- actions -------------------------------------------------------------------------------------------

PROBE = ProcProbe()
ACTIONS: dict[str, Callable[[], Action]] = {
    "notify": Notify,
    "collect": lambda: Collect(share=1.0),
    "trim": Trim,
    "caches": Caches,
    "pause": lambda: Pause(Targets(PROBE), PROBE),
    "stop-admitting": lambda: StopAdmitting(Gate()),
    "terminate": lambda: Terminate(Targets(PROBE), PROBE),
}
#: Nothing listens there: messages wait, and are named in the log when the action is closed.
UNREACHABLE = "http://127.0.0.1:9/in"


def _alerts() -> Action:
    pytest.importorskip("apprise")
    return Alerts(["json://127.0.0.1:9/a", "json://127.0.0.1:9/b"], patience=0.01)


#: Those that report to the outside, and need an address for it.
TELLING: dict[str, Callable[[], Action]] = {
    "alerts": _alerts,
    "webhook": lambda: Webhook(UNREACHABLE, patience=0.01),
    "webhooks": lambda: Webhook([UNREACHABLE, UNREACHABLE], patience=0.01, name="webhooks"),
}
#: Those that only say what they would do in a dry run.
HARMING = {"pause", "stop-admitting", "terminate"}


@pytest.fixture(params=sorted({**ACTIONS, **TELLING}))
def action(request: pytest.FixtureRequest) -> Iterator[Action]:
    """Each action in turn."""
    made = {**ACTIONS, **TELLING}[request.param]()
    yield made
    getattr(made, "close", lambda: None)()


def test_an_action_has_the_name_that_rules_use(action: Action, request: pytest.FixtureRequest) -> None:
    """A rule with that name is taken by a warden that has the action."""
    assert action.name == request.node.callspec.params["action"]
    rule = Rule(name="mine", when="level >= HIGH", then=action.name)
    assert Warden([], rules=[rule], actions=[action]).rules == (rule,)


@pytest.mark.parametrize("target", [None, ProcessKey(2**22 + 1, 1)], ids=["no target", "a process that is gone"])
def test_an_action_reports_its_outcome(action: Action, target: ProcessKey | None) -> None:
    """An outcome for this very decision, in words, with a duration that is none below zero."""
    decision = Decision(
        rule="high", action=action.name, reason="100 %s {} \u00e4\n", wall=1e9, monotonic=5.0, target=target
    )
    outcome = action.run(decision)
    assert isinstance(outcome, Outcome)
    assert outcome.decision is decision
    assert isinstance(outcome.done, bool)
    assert outcome.message
    assert outcome.seconds >= 0.0


def test_an_action_can_be_run_again(action: Action) -> None:
    """Nothing is used up by it."""
    decision = Decision(rule="high", action=action.name, reason="again", wall=1e9, monotonic=5.0)
    assert action.run(decision).done == action.run(decision).done


def test_what_harms_can_be_rehearsed(action: Action) -> None:
    """It declares so, and does nothing in a dry run; a harmless one declares that, and is done."""
    decision = Decision(rule="high", action=action.name, reason="dry", wall=1e9, monotonic=5.0, dry_run=True)
    assert action.harms is (action.name in HARMING)  # type: ignore[attr-defined]
    if action.name in HARMING:
        for outcome in (action.rehearse(decision), action.run(decision)):  # type: ignore[attr-defined]
            assert (outcome.decision, outcome.done, bool(outcome.message)) == (decision, False, True)


def test_what_is_taken_back_has_an_outcome(action: Action) -> None:
    """If it has an undo: also when nothing was done, or when it was undone before."""
    decision = Decision(rule="high", action=action.name, reason="over", wall=1e9, monotonic=5.0)
    action.run(decision)
    for _ in range(2):
        if undo := getattr(action, "undo", None):
            outcome = undo(decision._replace(undo=True))
            assert isinstance(outcome, Outcome)
            assert outcome.decision.undo
            assert outcome.message


def test_an_action_may_be_closed_at_any_time(action: Action) -> None:
    """Before it was run, after that, and twice."""
    close = getattr(action, "close", lambda: None)
    close()
    action.run(Decision(rule="high", action=action.name, reason="last", wall=1e9, monotonic=5.0))
    close()
    close()


def test_a_closed_action_leaves_no_thread(action: Action) -> None:
    """Though its message could not be delivered; and it may be used again."""
    for number in range(2):
        decision = Decision(rule="high", action=action.name, reason="one", wall=1e9, monotonic=float(number))
        action.run(decision)
        getattr(action, "close", lambda: None)()
        assert no_thread_is_left()


def test_every_warden_has_the_actions_that_ship() -> None:
    """With their names, in the order of an emergency."""
    made = standard_actions(Targets(PROBE), PROBE, Caches(), Gate())
    assert [each.name for each in made] == [
        "notify",
        "stop-admitting",
        "collect",
        "trim",
        "caches",
        "pause",
        "terminate",
    ]
    assert {each.name for each in made} == set(ACTIONS)


def test_notify_writes_to_the_log_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    """Rule and reason as a warning; percent signs in a reason are no format."""
    decision = Decision(rule="high", action="notify", reason="100% of %s", wall=1e9, monotonic=5.0)
    assert Notify().run(decision).done
    (line,) = caplog.records
    assert (line.name, line.levelname, line.getMessage()) == ("memwarden", "WARNING", "high: 100% of %s")
    assert line.memwarden_rule == "high"  # type: ignore[attr-defined]
