"""The table of alerts that a long-lived worker has, from figures as the kernel writes them to the alerts."""

from __future__ import annotations

from pathlib import Path

import pytest

from memwarden.engine.warden import Warden
from memwarden.model.events import EventKind
from memwarden.model.units import MIB
from memwarden.policy.presets import preset
from memwarden.policy.rules import Rule
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import ProcessReader
from memwarden.readers.linux.psi import PsiReader
from memwarden.testing import FakeClock, ProcTree
from support.engine import Keeper

PID = 4242
STALLS = (
    Rule(name="stalls warning", when="psi.some > 10%", then="notify", rest=300),
    Rule(name="stalls critical", when="psi.full > 10%", then="notify", rest=300, severity="critical"),
)


class World:
    """A machine of 8000 MiB and a process on it, as files, watched once a second by the worker's rules."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.clock, self.keeper = ProcTree(folder), FakeClock(), Keeper()
        self.tree.mounted(PID, "0::/\n", "")
        self.be()
        proc = self.tree.proc
        readers = [MeminfoReader(proc), ProcessReader(PID, proc), PsiReader(PID, proc, self.tree.sys)]
        rules = (*preset("worker").rules, *STALLS)
        self.warden = Warden(readers, interval=1.0, clock=self.clock, rules=rules, recorders=[self.keeper])

    def be(self, left: int = 6000, size: int = 100, some: float = 0.0, full: float = 0.0) -> None:
        """MiB that the machine has left and the process has, and percent of the time that tasks wait."""
        self.tree.meminfo(8000 * MIB, left * MIB)
        self.tree.process(PID, rss=size * MIB)
        line = "avg10={:.2f} avg60=0.00 avg300=0.00 total=1\n"
        self.tree.write("proc/pressure/memory", "some " + line.format(some) + "full " + line.format(full))

    def reported(self, seconds: float) -> list[str]:
        """The alerts of so many seconds, each with its severity; cleared ones have a minus."""
        before = len(self.keeper.events)
        self.clock.advance(seconds)
        assert self.warden.flush()
        said = []
        for event in self.keeper.events[before:]:
            if event.kind is EventKind.DECISION and not event.value.undo:
                said.append(f"{event.value.rule}/{event.value.severity}")
            elif event.kind is EventKind.CLEARED:
                said.append(f"-{event.value.rule}")
        return said


@pytest.fixture
def world(tmp_path: Path) -> World:
    """That machine, at rest."""
    return World(tmp_path)


@pytest.mark.contract("S3-46", "W3-7")
def test_usage_growth_and_pressure_are_warned_of_in_two_steps_each(world: World) -> None:
    """Each once when it comes, by its own rule, with warning and critical; and the end of each is reported."""
    with world.warden:
        assert world.reported(5) == []
        world.be(left=1500)  # 81.25 %
        assert world.reported(3) == ["usage warning/warning"]
        world.be(left=750)  # 90.6 %
        assert world.reported(3) == ["usage critical/critical"]
        world.be(size=201)
        assert world.reported(3) == ["-usage warning", "-usage critical", "growth warning/warning"]
        world.be(size=601)
        assert world.reported(3) == ["growth critical/critical"]
        world.be(some=11.0)
        assert world.reported(3) == ["-growth warning", "-growth critical", "stalls warning/warning"]
        world.be(some=30.0, full=12.5)
        assert world.reported(3) == ["stalls critical/critical"]
        world.be()
        assert world.reported(60) == ["-stalls warning", "-stalls critical"]  # and the usage has had its rest
        world.be(left=450)
        assert sorted(world.reported(3)) == [
            "available warning/warning",
            "usage critical/critical",
            "usage warning/warning",
        ]
        world.be(left=150)
        assert world.reported(3) == ["available critical/critical"]


@pytest.mark.contract("W3-7")
def test_an_alert_rests_before_it_is_repeated(world: World) -> None:
    """Not at each sample: usage once a minute, growth once in ten; the episode stays one."""
    with world.warden:
        assert world.reported(2) == []
        world.be(left=1500, size=250)
        reported = world.reported(599)
        assert (reported.count("usage warning/warning"), reported.count("growth warning/warning")) == (10, 1)
        assert len(reported) == 11
        reported = world.reported(60)
        assert (reported.count("usage warning/warning"), reported.count("growth warning/warning")) == (1, 1)
    repeats = [
        event.value.repeat for event in world.keeper.of(EventKind.DECISION) if event.value.rule == "usage warning"
    ]
    assert repeats == list(range(len(repeats)))


def test_the_table_is_data(world: World) -> None:
    """Written out and read again it is the same, so that a file can hold another one."""
    rules = preset("worker").rules
    assert [Rule.from_dict(each.to_dict()) for each in rules] == list(rules)
    softer = [Rule.from_dict(each.to_dict() | {"when": "used > 50%"}) for each in rules[:1]]
    with world.warden:
        world.warden.use_rules(softer)
        world.be(left=3900)
        assert world.reported(3) == ["usage warning/warning"]
