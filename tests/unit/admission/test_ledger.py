"""Reservations, on a clock and a machine of the test's own."""

import os
import pickle

import pytest

from memwarden.admission.ledger import ledger as module
from memwarden.admission.ledger.headroom import HeadroomReading, SystemHeadroom
from memwarden.admission.ledger.ledger import Ledger, admit
from memwarden.errors import DoesNotFit, NotAdmitted, ReadError, SettingsError
from memwarden.model.limits import Constraint, Limit
from memwarden.readers.linux.identity import ProcProbe
from memwarden.testing import FakeClock, ProcTree

pytest.importorskip("fcntl", reason="a ledger needs file locks")

MIB = 1 << 20


class Machine:
    """A machine of 1000 MiB; what is taken is said, and what each process holds."""

    def __init__(self):
        self.total, self.taken, self.holds = 1000 * MIB, 0, {}
        self.known, self.reclaimable = True, 0

    def read(self, quick=False):
        if not self.known:
            return HeadroomReading(None, None)
        machine = Constraint(Limit(self.total, "machine"), self.taken + (self.reclaimable if quick else 0))
        return HeadroomReading(machine, machine)

    def memory_of(self, process):
        return self.holds.get(process.pid)

    def keep_only(self, processes):
        pass

    def after_fork(self):
        pass


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(tmp_path, machine, clock):
    """Ledgers in one file."""
    tree = ProcTree(tmp_path / "world")
    tree.process(os.getpid(), start=5)
    tree.process(77, start=6)

    def make(budget=None, **more):
        probe = ProcProbe(tree.proc)
        path = str(tmp_path / "ledger")
        return Ledger(budget, path=path, clock=clock, probe=probe, headroom=machine, **more)

    return make


def test_what_is_reserved_is_not_there_for_others(make):
    """Until it is returned, by the end of the block."""
    ledger = make("500MiB")
    with ledger.reserve("300MiB", label="index") as held:
        assert held.bytes == 300 * MIB
        assert held.label == "index"
        assert ledger.try_reserve("300MiB") is None
        assert ledger.try_reserve("200MiB") is not None
    assert held.bytes == 0
    assert ledger.try_reserve("500MiB") is not None


def test_one_without_references_is_released(make):
    """A reservation that was dropped does not stay for the life of the process."""
    ledger = make("500MiB")
    ledger.reserve("300MiB")
    assert ledger.state()["holders"] == []


def test_a_ledger_that_is_dropped_gives_its_descriptor_back(make):
    """The last one of a file closes it; one with a reservation stays."""
    ledger, second = make("500MiB"), make("500MiB")
    file, held = ledger._file, ledger.reserve("300MiB")
    del ledger, second
    assert file._is_current()
    held.release()
    del held
    assert not file._is_current()


def test_releasing_twice_does_no_harm(make):
    """Also when its place was given to another in between."""
    ledger = make("500MiB")
    first = ledger.reserve("300MiB")
    first.release()
    second = ledger.reserve("300MiB")
    first.release()
    assert second.bytes == 300 * MIB
    assert ledger.state()["reserved_bytes"] == 300 * MIB


def test_without_a_budget_the_headroom_counts(make, machine):
    """What others take, and a limit that is lowered, are felt at the next reservation."""
    ledger = make()
    held = ledger.reserve("400MiB")
    machine.taken = 300 * MIB
    assert ledger.try_reserve("301MiB") is None
    assert ledger.try_reserve("300MiB") is not None
    machine.total = 600 * MIB  # the limit is lowered
    assert ledger.try_reserve("1MiB") is None
    held.release()
    assert ledger.try_reserve("300MiB") is not None


def test_reclaimable_memory_is_found_by_a_second_reading(make, machine):
    """The quick reading does not see it; a request that would be refused is judged by a thorough one."""
    machine.reclaimable = 900 * MIB
    assert make().try_reserve("500MiB") is not None


def test_an_old_request_is_not_overtaken_because_of_a_quick_reading(make, machine, clock):
    """A quick reading would take it for one above the capacity."""
    ledger = make(patience=30)
    machine.holds = {os.getpid(): 0}
    held = ledger.reserve("500MiB")
    machine.holds, machine.taken = {os.getpid(): 500 * MIB}, 500 * MIB
    waiting, _ = ledger._admission.request(ledger._wanted("800MiB", "large", 0), wait=True)
    assert ledger.try_reserve("50MiB") is not None
    clock.advance(31)
    machine.reclaimable = 300 * MIB
    assert ledger.try_reserve("50MiB") is None
    held.release()
    ledger._file.remove(waiting)


def test_a_given_budget_does_not_promise_what_is_not_there(make, machine):
    """The smaller of the two counts."""
    machine.taken = 900 * MIB
    assert make("500MiB").try_reserve("101MiB") is None


def test_what_was_reserved_and_taken_is_not_counted_twice(make, machine):
    """A process that took what it reserved: the rest of the machine is there for others."""
    ledger = make()
    machine.holds = {os.getpid(): 50 * MIB}
    held = ledger.reserve("400MiB")
    machine.holds, machine.taken = {os.getpid(): 450 * MIB}, 400 * MIB
    assert held.used == 400 * MIB
    second = ledger.try_reserve("600MiB")
    assert second is not None


def test_a_process_that_takes_more_than_it_reserved_delays_others(make, machine):
    """The larger of reserved and used counts against the budget."""
    ledger = make("500MiB")
    machine.holds = {os.getpid(): 0}
    held = ledger.reserve("200MiB")
    machine.holds = {os.getpid(): 450 * MIB}
    assert ledger.try_reserve("51MiB") is None
    assert not held.grow("500MiB")
    assert held.grow("250MiB"), "what it has taken already needs no headroom"


def test_growing_and_shrinking(make):
    """What a plateaued task returns is there for others; growth is granted while there is headroom, and never waits."""
    ledger = make("500MiB")
    with ledger.reserve("400MiB") as held:
        held.shrink("150MiB")
        assert held.bytes == 250 * MIB
        with ledger.reserve("200MiB"):
            assert not held.grow("51MiB")
            assert held.grow("50MiB")
        with pytest.raises(SettingsError, match=r"only 300.0 MiB"):
            held.shrink("301MiB")
        held.shrink("300MiB")
    with pytest.raises(NotAdmitted, match="was released"):
        held.grow("1MiB")


def test_a_reservation_can_be_for_another_process(make, machine):
    """What that one takes from now on is counted, and not what this one takes."""
    ledger = make()
    machine.holds = {os.getpid(): 0, 77: 30 * MIB}
    held = ledger.reserve("400MiB", label="worker")
    held.assign(77)
    machine.holds = {os.getpid(): 300 * MIB, 77: 130 * MIB}
    assert held.used == 100 * MIB
    (row,) = ledger.state()["holders"]
    assert (row["worker_pid"], row["used_bytes"]) == (77, 100 * MIB)
    with pytest.raises(ReadError):
        held.assign(78)


def test_what_can_never_fit_is_refused_at_once(make):
    """With what was asked, the budget, its source, and a way out; also as a MemoryError, also through pickle."""
    with pytest.raises(
        DoesNotFit, match=r"index of 2.00 GiB: can never fit, the given budget has 500.0 MiB; ask"
    ) as one:
        make("500MiB").reserve("2GiB", label="index")
    error = pickle.loads(pickle.dumps(one.value))
    assert (error.asked, error.budget, error.source) == (2048 * MIB, 500 * MIB, "the given budget")
    assert isinstance(error, MemoryError)
    with pytest.raises(DoesNotFit, match=r"machine has 1000.0 MiB"):
        make().try_reserve("1001MiB")


def test_a_request_that_other_memory_blocks_is_refused_after_the_patience(make, machine):
    """That memory may become free; the request does not wait for ever, and the error has the figures."""
    machine.taken = 800 * MIB
    ledger = make("500MiB", patience=0)
    with pytest.raises(
        DoesNotFit, match=r"would not fit even without other reservations.* machine has 200.0 MiB of headroom"
    ) as one:
        ledger.reserve("300MiB")
    assert one.value.budget == 200 * MIB
    assert ledger.state()["waiters"] == []


def test_a_limit_lowered_while_waiting_ends_a_hopeless_wait(make, machine):
    """What was possible when it came and can never be any more."""
    ledger = make(patience=1000)
    look = machine.read

    def lower_after_two(quick=False, readings=[]):  # noqa: B006 - counts
        readings.append(quick)
        if len(readings) > 2:
            machine.total = 300 * MIB
        return look()

    with ledger.reserve("900MiB"):
        machine.read = lower_after_two
        with pytest.raises(DoesNotFit, match=r"machine has 300.0 MiB"):
            ledger.reserve("500MiB")


def test_a_time_limit_of_none_at_all_does_not_wait(make):
    """The message has what is left, and the limit that bounds it."""
    ledger = make("500MiB")
    with ledger.reserve("300MiB"):
        with pytest.raises(NotAdmitted, match=r"200.0 MiB left by the given budget, 300.0 MiB committed") as one:
            ledger.reserve("300MiB", timeout=0)
        assert not isinstance(one.value, DoesNotFit)
        assert ledger.state()["waiters"] == []


def test_the_smallest_budget_in_use_counts(make):
    """While its process holds or waits for a reservation."""
    small, large = make("300MiB"), make("900MiB")
    held = small.reserve("200MiB")
    assert large.try_reserve("200MiB") is None
    assert large.state()["budget_source"] == f"the budget given by process {os.getpid()}"
    assert small.state()["budget_source"] == "the given budget"
    held.release()
    assert large.try_reserve("800MiB") is not None


def test_a_budget_can_be_a_share_of_the_limit(make, machine):
    """Read anew each time: it shrinks with the limit."""
    ledger = make("50%")
    with pytest.raises(DoesNotFit):
        ledger.try_reserve("501MiB")
    held = ledger.reserve("400MiB")
    machine.total = 800 * MIB
    assert ledger.state()["budget_bytes"] == 400 * MIB
    held.release()


def test_nothing_known_and_no_budget(make, machine):
    """Neither is guessed."""
    machine.known = False
    with pytest.raises(NotAdmitted, match="give the ledger a budget"):
        make().reserve(1)
    assert make("1MiB").try_reserve(1) is not None


@pytest.mark.parametrize(
    "bad",
    [
        {"budget": "much"},
        {"budget": 0},
        {"budget": "120%"},
        {"name": "../up"},
        {"name": ""},
        {"patience": -1},
        {"patience": float("nan")},
    ],
)
def test_bad_settings_are_refused(make, bad):
    """When the ledger is made, not when it is needed."""
    with pytest.raises(SettingsError):
        make(**bad)


@pytest.mark.parametrize(
    "bad",
    [{"size": -1}, {"size": "x"}, {"timeout": -1}, {"timeout": float("nan")}, {"priority": 101}, {"priority": 1.5}],
)
def test_bad_arguments_are_refused(make, bad):
    """And nothing is left of them."""
    ledger = make("10MiB")
    with pytest.raises(SettingsError):
        ledger.reserve(**{"size": 1, **bad})
    assert ledger.state()["holders"] == []


def test_the_state_is_complete(make, machine):
    """As plain data, with units in the names."""
    machine.holds, machine.taken = {os.getpid(): 0}, 100 * MIB
    ledger = make("500MiB", name="batch")
    with ledger.reserve("300MiB", label="index", priority=2):
        state = ledger.state()
    assert {key: state[key] for key in state if key.endswith(("_bytes", "_source"))} == {
        "budget_bytes": 500 * MIB,
        "budget_source": "the given budget",
        "headroom_bytes": 900 * MIB,
        "headroom_source": "machine",
        "reserved_bytes": 300 * MIB,
        "used_bytes": 0,
        "committed_bytes": 300 * MIB,
        "free_bytes": 200 * MIB,
        "free_source": "the given budget",
    }
    (row,) = state["holders"]
    assert (row["pid"], row["label"], row["priority"], row["reserved_bytes"]) == (os.getpid(), "index", 2, 300 * MIB)
    assert row["since"].startswith("2023-11-14T")
    assert (state["name"], state["waiters"], state["troubles"]) == ("batch", [], [])


def test_admit_uses_the_default_ledger(make, monkeypatch):
    """The estimate is held as long as the block runs."""
    ledger = make("500MiB")
    monkeypatch.setattr(module, "_default", {"default": ledger})
    with admit("200MiB", "load"):
        assert [row["label"] for row in ledger.state()["holders"]] == ["load"]
    assert ledger.state()["holders"] == []


def test_the_headroom_is_the_least_along_the_path(tmp_path):
    """A quick sample finds no more than a thorough one; a limit that is lowered is seen by a thorough one at once."""
    tree = ProcTree(tmp_path)
    tree.process(9, start=3, rss=50 * MIB, shared=20 * MIB)
    tree.meminfo(total=8000 * MIB, available=3000 * MIB)
    mounts = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    tree.mounted("self", "0::/a/b\n", mounts)
    stat = f"anon {100 * MIB}\ninactive_file {300 * MIB}\nactive_file 0\nslab_reclaimable 0"
    tree.write("sys/cgroup.controllers", "memory\n")
    for path, limit in (("a", 2000 * MIB), ("a/b", "max")):
        tree.group(path, memory__current=500 * MIB, memory__max=limit, memory__stat=stat)
    headroom = SystemHeadroom(ProcProbe(tree.proc), tree.proc, tree.sys)
    thorough = headroom.read()
    assert thorough.nearest == Constraint(Limit(2000 * MIB, "cgroup /a"), 200 * MIB)
    assert thorough.smallest == thorough.nearest
    quick = headroom.read(quick=True)
    assert quick.nearest.headroom == 1500 * MIB
    tree.group("a", memory__max=600 * MIB)
    assert headroom.read().nearest.headroom == 400 * MIB
    tree.meminfo(total=8000 * MIB, available=100 * MIB)
    assert headroom.read(quick=True).nearest.limit.source == "machine"


def test_what_a_process_holds_is_its_own_memory(tmp_path):
    """Anonymous memory, of that very process; of another with its number, or of none, nothing is known."""
    tree = ProcTree(tmp_path)
    tree.process(9, start=3, rss=50 * MIB, shared=20 * MIB)
    probe = ProcProbe(tree.proc)
    headroom = SystemHeadroom(probe, tree.proc, tree.sys)
    key = probe.key_of(9)
    assert headroom.memory_of(key) == 30 * MIB
    assert headroom.memory_of(key._replace(start=4)) is None
    assert headroom.memory_of(key._replace(pid=10)) is None
    headroom.keep_only(frozenset())
    assert headroom.memory_of(key) == 30 * MIB
    headroom.after_fork()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors are counted in /proc/self/fd")
def test_ledgers_that_are_forgotten_leave_nothing_open(tmp_path):
    """One descriptor for the file, however many ledgers were made for it."""
    path = str(tmp_path / "ledger")
    counts = []
    for _ in range(20):
        with Ledger("1GiB", path=path).reserve("1MiB"):
            counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[1]
