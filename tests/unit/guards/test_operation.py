"""Operations: admitted by their estimate, checked against what their like took."""

# ruff: noqa: PT012 - the block that a guard is over is what is tested

import pytest

from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.ledger.ledger import Ledger
from memwarden.errors import DoesNotFit, LimitExceeded, NotAdmitted, RecordError, SettingsError
from memwarden.guards.budget import operation
from memwarden.guards.budget.memory_guard import Guard
from memwarden.guards.budget.operation import memory_constrained_operation
from memwarden.model.units import GIB, MIB
from support.guards import Scene

pytest.importorskip("fcntl", reason="a ledger needs file locks")


@pytest.fixture
def scene(monkeypatch, tmp_path):
    """Operations over a scripted process, a ledger of 1 GiB, and footprints of their own."""
    made = Scene()

    def guard(limit, name):
        return Guard(limit, name, tree_usage=made.usage, context=made.context, monotonic=lambda: made.now)

    monkeypatch.setattr(operation, "Guard", guard)
    made.footprints = Footprints(budget=GIB, slots=4)
    made.ledger = Ledger("1GiB", path=str(tmp_path / "ledger"), headroom=made.left)

    def run(estimate, name="load", take=0, error=None, **options):
        with memory_constrained_operation(
            estimate, name, footprints=made.footprints, ledger=made.ledger, **options
        ) as under_way:
            made.take(take)
            under_way.check()
            made.reserved = under_way.reservation.bytes
            made.take(-take)
            if error is not None:
                raise error
        return under_way

    made.run = run
    return made


@pytest.mark.contract("S1-67", "X-29")
def test_it_is_reserved_while_it_runs_and_what_it_took_is_reported(scene):
    """Before: in the ledger; after: the peak, and by how much the estimate was passed."""
    done = scene.run("200MiB", take=120)
    assert scene.reserved == 200 * MIB
    assert done.reservation.bytes == 0
    assert (done.usage.estimate, done.usage.reserved, done.usage.peak) == (200 * MIB, 200 * MIB, 120 * MIB)
    assert done.usage.over == -80 * MIB


@pytest.mark.contract("S1-67")
def test_what_can_never_be_had_is_a_memory_error_before_it_begins(scene):
    """More than the whole budget, and the block is not entered."""
    with pytest.raises(MemoryError) as caught:
        scene.run("2GiB", take=1)
    assert isinstance(caught.value, DoesNotFit)
    assert scene.tree.sizes == {100: (50, 10)}


def test_what_is_not_there_now_is_not_admitted(scene):
    """Another reservation has most of it; by default it does not wait."""
    with scene.ledger.reserve("900MiB"), pytest.raises(NotAdmitted):
        scene.run("200MiB")
    scene.run("200MiB")


def test_the_next_estimate_is_checked_against_what_its_like_took(scene, caplog):
    """After three that took 300 MiB an estimate of 100 is reported to be wrong, and 300 and more are reserved."""
    for _ in range(3):
        scene.run("100MiB", take=300)
    assert scene.reserved == 100 * MIB
    caplog.clear()
    done = scene.run("100MiB", take=300)
    assert 300 * MIB <= scene.reserved < 450 * MIB
    assert done.usage.reserved == scene.reserved
    assert "estimate 100.0 MiB, but 3 earlier runs took more" in caplog.text
    scene.run("500MiB", take=300)
    assert scene.reserved == 500 * MIB


def test_an_estimate_that_was_passed_is_reported(scene, caplog):
    """By more than a tenth, after the block; one that was kept is not."""
    scene.run("100MiB", take=109)
    assert "actual" not in caplog.text
    scene.run("100MiB", take=150)
    assert "load: estimate 100.0 MiB, actual 150.0 MiB" in caplog.text


def test_a_memory_error_teaches_that_it_needs_more_and_another_error_nothing(scene):
    """A bug says nothing of memory."""
    with pytest.raises(MemoryError):
        scene.run("100MiB", take=150, error=MemoryError())
    assert scene.footprints.describe("load")["kills"] == 1
    with pytest.raises(ValueError, match="bug"):
        scene.run("100MiB", "other", take=150, error=ValueError("bug"))
    reported = scene.footprints.describe("other")
    assert (reported["finished"], reported["kills"]) == (0, 0)
    assert scene.ledger.state()["holders"] == []


def test_the_estimate_is_no_limit_and_the_containers_end_is(scene):
    """Twice the estimate goes on; with nothing left but the reserve it is over."""
    with pytest.raises(LimitExceeded, match="cgroup /here"):
        with memory_constrained_operation(
            "100MiB", "load", footprints=scene.footprints, ledger=scene.ledger
        ) as under_way:
            scene.take(300)
            under_way.check()
            scene.left.headroom = 10 * MIB
            scene.now += 1
            under_way.check()


def test_without_a_name_nothing_is_learned(scene):
    """What has no name has no like."""
    done = scene.run("100MiB", "", take=10)
    assert done.prediction is None
    assert scene.footprints.kinds() == []


@pytest.mark.parametrize(("estimate", "name"), [("much", "x"), (0, "x"), (10, None), (10, 5)])
def test_bad_arguments_are_refused(scene, estimate, name):
    """Before anything is reserved."""
    with pytest.raises(SettingsError):
        scene.run(estimate, name)


@pytest.mark.contract("S1-75")
def test_where_no_ledger_can_be_it_goes_by_what_is_left(scene, monkeypatch, caplog):
    """As on Windows: what fits runs, the rest is a MemoryError; the log says that other processes do not see it."""

    def refuse(*_, **__):
        raise RecordError("no file locks", path="x")

    monkeypatch.setattr(operation, "admit", refuse)
    monkeypatch.setattr(operation, "guard_context", lambda: scene.context)
    scene.left.headroom = 300 * MIB
    with memory_constrained_operation("200MiB") as under_way:
        assert under_way.reservation is None
    assert "no ledger can be used" in caplog.text
    with pytest.raises(DoesNotFit, match="cgroup /here has 300"), memory_constrained_operation("400MiB"):
        pytest.fail("entered")
