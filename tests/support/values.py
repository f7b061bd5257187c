"""One full and one bare value of every type that memwarden writes."""

from __future__ import annotations

from memwarden.model.decisions import Clearing, Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.exits import Evidence, ExitReason, ExitReport
from memwarden.model.facts import (
    CacheFill,
    CgroupMemory,
    DirectoryUsage,
    Gap,
    GpuMemory,
    ProcessKey,
    ProcessMemory,
    ProgramMemory,
    PsiLine,
    PsiStats,
    ShareMemory,
    SystemMemory,
    TopProcesses,
    TreeMemory,
)
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, Forecast, LeakStage, LeakVerdict, PressureLevel, Reading, Trend

WALL = 1_700_000_000.123456
KEY = ProcessKey(4242, 987654)
SYSTEM = SystemMemory(8000, 6000, 5000, 900, 100, 50)
PROCESS = ProcessMemory(KEY, "python3", 300, 700, 250, 50, 0, 310, 9000)
TREE = TreeMemory(KEY, (KEY, ProcessKey(4243, 987655)), ("sh", "worker"), (300, 200), (50, 20), 1)
GROUP = CgroupMemory("/app", 2, 400, 1000, 100, 250, 0, 500, 410, 1)
GAP = Gap("meminfo", "/proc/meminfo", "malformed", "no number after MemTotal:")
GPU = GpuMemory(0, "NVIDIA GeForce RTX 3090", "GPU-1", 24_000, 20_000, 4_000)
PSI = PsiStats("/app", PsiLine(0.25, 0.125, 0.0625, 1.5), PsiLine(0.0, 0.0, 0.0, 0.0))
SHARES = ShareMemory((KEY, ProcessKey(4243, 987655)), (200, 150), (100, 50), (0.5, 12.0))
TOP = TopProcesses(171, (KEY, ProcessKey(4243, 987655)), ("sh", "worker"), (300, 200), (50, 20))
DIRECTORY = DirectoryUsage("/tmp", 5000, 3, 60.5, 1000, 9000, 2.5)
PROGRAM = ProgramMemory((CacheFill(300.0, 500.0), CacheFill(2.5, None)), False, 3, 1000, 12, 5000)
LIMIT = Limit(1000, "cgroup /app")
SAMPLE = Sample(
    WALL,
    1234.5,
    0.25,
    SYSTEM,
    PROCESS,
    TREE,
    (GROUP, GROUP),
    Limit(2000, "asked"),
    (GAP,),
    (GPU,),
    PSI,
    SHARES,
    TOP,
    (DIRECTORY,),
    True,
    PROGRAM,
)
TREND = Trend("increasing", 120, 0.99, 0.5)
FORECAST = Forecast(60.0, 90.5, 150.0, 0.8, "worker[4243]")
LEAK = LeakVerdict(LeakStage.SUSPECTED, "the rolling minimum rose", 1000, 2000, 3600.5, FORECAST, "worker[4243]")
ASSESSMENT = Assessment(
    PressureLevel.HIGH,
    PressureLevel.CRITICAL,
    Constraint(LIMIT, 930),
    LIMIT,
    70,
    1230.25,
    PressureLevel.LOW,
    TREND,
    LEAK,
    FORECAST,
)
READING = Reading(SAMPLE, ASSESSMENT)
DECISION = Decision(
    rule="r",
    action="notify",
    reason="because",
    wall=WALL,
    monotonic=5.0,
    target=KEY,
    repeat=2,
    undo=True,
    dry_run=True,
    details={"a": [1, {"b": None}]},
)
CLEARING = Clearing(rule="r", reason="because", wall=WALL, monotonic=6.0, seconds=1.0)
OUTCOME = Outcome(decision=DECISION, done=True, message="logged", seconds=0.5)
EXIT = ExitReport(
    reason=ExitReason.LIMIT,
    exit_code=None,
    signal=9,
    seconds=12.5,
    ceiling="cgroup2",
    limit=LIMIT,
    peak=1000,
    peak_counted_by="cgroup",
    evidence=Evidence(monotonic=1.0, used=990, counted_by="pss", processes=(PROCESS, ProcessMemory(KEY, "x", 1))),
    oom_location="machine",
    steps=("froze", "killed"),
    survivors=(PROCESS,),
)
EVENT = Event(kind=EventKind.SAMPLE, wall=WALL, monotonic=1.0, message="m", value=READING, details={"n": 1})

#: Every type in full, and with nothing but what it must have.
FULL = (
    READING,
    SAMPLE,
    ASSESSMENT,
    DECISION,
    CLEARING,
    OUTCOME,
    EVENT,
    EXIT,
    GAP,
    PROCESS,
    TREE,
    GROUP,
    SYSTEM,
    GPU,
    LIMIT,
    PSI,
    SHARES,
    TOP,
    DIRECTORY,
    PROGRAM,
    TREND,
    FORECAST,
    LEAK,
)
BARE = (
    Sample(WALL, 1.0),
    Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, 0.0),
    ProcessMemory(KEY, "", 0),
    CgroupMemory("/", 1, 0, None, 0),
    ExitReport(reason=ExitReason.EXITED, exit_code=0, signal=None, seconds=0.0),
    Event(kind=EventKind.STOP, wall=WALL, monotonic=0.0),
    Decision(rule="", action="", reason="", wall=WALL, monotonic=0.0),
    TreeMemory(KEY, (), (), (), ()),
    PsiStats("machine", PsiLine(0.0, 0.0, 0.0, 0.0), None),
    DirectoryUsage("/tmp", 0, 0, None, 0, 0, None),
    ProgramMemory(),
    LeakVerdict(LeakStage.NONE, "", None, None, None, None),
)
