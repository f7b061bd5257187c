"""The contract of every reader, whichever facts it reads."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import Gap
from memwarden.model.sample import Sample
from memwarden.model.serialize import from_dict, to_dict
from memwarden.protocols import Reader
from memwarden.readers.collect import collect
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.readers.linux.machine import MachineReader
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import ProcessReader
from memwarden.readers.linux.psi import PsiReader
from memwarden.readers.linux.pss import PssReader
from memwarden.readers.linux.tree import TreeReader
from memwarden.readers.multi_tree import MultiTreeReader
from memwarden.readers.portable import PortableMachine, PortableReader, PortableTree
from memwarden.readers.tempdir import TempdirReader
from memwarden.testing import ProcTree, ScriptedReader
from support.trees import container_v1, descriptors, nested


@dataclass
class Case:
    """A reader, the field that it gives, and how its world ends."""

    reader: Reader
    field: str
    vanish: Callable[[], object] | None = None
    #: It reads the process that it is used in.
    own: bool = False


def _tree(folder: Path) -> ProcTree:
    tree = nested(ProcTree(folder))
    tree.process(10, children=[11])
    tree.process(11, ppid=10)
    tree.write("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    for pid in (10, 11):
        tree.write(f"proc/{pid}/smaps_rollup", "\nPss: 2 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: 1 kB\n")
    return tree


def _gone(tree: ProcTree) -> Callable[[], object]:
    return lambda: shutil.rmtree(tree.proc)


CASES: dict[str, Callable[[Path], Case]] = {
    "meminfo, real": lambda folder: Case(MeminfoReader(), "system"),
    "meminfo": lambda folder: Case(MeminfoReader((t := _tree(folder)).proc), "system", _gone(t)),
    "process, real": lambda folder: Case(ProcessReader(), "process", own=True),
    "process, real, by pid": lambda folder: Case(ProcessReader(os.getpid()), "process"),
    "process": lambda folder: Case(ProcessReader(10, (t := _tree(folder)).proc), "process", _gone(t)),
    "cgroup, real": lambda folder: Case(CgroupReader(), "cgroups"),
    "cgroup v2": lambda folder: Case(CgroupReader(None, (t := _tree(folder)).proc, t.sys), "cgroups", _gone(t)),
    "cgroup v1": lambda folder: Case(
        CgroupReader(None, (t := container_v1(ProcTree(folder))).proc, t.sys), "cgroups", _gone(t)
    ),
    "tree, real": lambda folder: Case(TreeReader(os.getpid()), "tree"),
    "tree": lambda folder: Case(TreeReader(10, (t := _tree(folder)).proc), "tree", _gone(t)),
    "tree, nothing kept": lambda folder: Case(TreeReader(10, (t := _tree(folder)).proc, keep=0), "tree", _gone(t)),
    "forest, real": lambda folder: Case(MultiTreeReader([os.getpid()]), "tree"),
    # Nothing kept: on a real machine others start and end while descriptors are counted.
    "machine, real": lambda folder: Case(MachineReader(keep=0), "top"),
    "machine": lambda folder: Case(MachineReader(5, (t := _tree(folder)).proc), "top", _gone(t)),
    "machine, nothing kept": lambda folder: Case(MachineReader(5, (t := _tree(folder)).proc, keep=0), "top", _gone(t)),
    "psi, real": lambda folder: Case(PsiReader(), "psi"),
    "psi": lambda folder: Case(PsiReader(None, (t := _tree(folder)).proc, t.sys), "psi", _gone(t)),
    "shares, real": lambda folder: Case(PssReader(), "shares"),
    "shares": lambda folder: Case(PssReader([10, 11], proc=(t := _tree(folder)).proc), "shares", _gone(t)),
    "tempdir, real": lambda folder: Case(TempdirReader(folder), "directories"),
    "tempdir": lambda folder: Case(
        TempdirReader((t := _tree(folder)).proc), "directories", lambda: shutil.rmtree(t.proc)
    ),
    "portable": lambda folder: Case(PortableReader(), "process"),
    "portable, by pid": lambda folder: Case(PortableReader(os.getpid()), "process"),
    "portable, machine": lambda folder: Case(PortableReader(), "system"),
    "portable tree": lambda folder: Case(PortableTree(os.getpid()), "tree"),
    "portable top": lambda folder: Case(PortableMachine(), "top"),
    "scripted": lambda folder: Case(ScriptedReader([500]), "system"),
}


def _where_it_can(name: str) -> Any:
    anywhere = name.startswith(("portable", "scripted"))
    marks = pytest.mark.skipif(sys.platform != "linux" and not anywhere, reason="reads /proc")
    return pytest.param(name, marks=marks)


@pytest.fixture(params=map(_where_it_can, CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = CASES[request.param](tmp_path)
    yield made
    made.reader.close()


RECORDED = [
    "meminfo",
    "process",
    "cgroup v2",
    "cgroup v1",
    "tree",
    "tree, nothing kept",
    "machine",
    "psi",
    "shares",
    "tempdir",
]


@pytest.fixture(params=map(_where_it_can, RECORDED))
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """A reader of files that a test may take away."""
    made = CASES[request.param](tmp_path)
    yield made
    made.reader.close()


def read(case: Case) -> Mapping[str, Any]:
    """The facts of the reader; the kernel that runs the tests may have no memory controller."""
    try:
        return case.reader.read()
    except ReadError as error:
        if case.field in ("cgroups", "psi") and error.why == "absent" and case.vanish is None:
            pytest.skip("no memory controller here, or no count of stalls")
        raise


def test_it_has_the_interface_of_a_reader(case: Case) -> None:
    """A name, ``read`` and ``close``."""
    assert isinstance(case.reader, Reader)
    assert case.reader.name.isidentifier()


def test_it_gives_fields_of_a_sample_only(case: Case) -> None:
    """So that all facts of a sample fit together, and each has its value's type."""
    facts = read(case)
    assert case.field in facts
    assert set(facts) <= set(Sample._fields) - {"wall", "monotonic", "late", "asked"}
    assert all(isinstance(gap, Gap) for gap in facts.get("gaps", ()))
    sample = Sample(1_700_000_000.0, 1.0, **collect([case.reader]))
    assert getattr(sample, case.field) is not None
    assert from_dict(json.loads(json.dumps(to_dict(sample)))) == sample


@pytest.mark.contract("S3-45")
def test_it_reads_anew_each_time(case: Case) -> None:
    """Many samples on the same descriptors."""
    read(case)
    before = descriptors()
    for _ in range(20):
        assert set(read(case)) >= {case.field}
    assert descriptors() == before


def test_it_may_be_closed_twice_and_goes_on(case: Case) -> None:
    """After a fork the child closes what the parent goes on using, and may start again."""
    before = descriptors()
    case.reader.close()
    first = read(case)
    case.reader.close()
    case.reader.close()
    assert descriptors() == before
    assert set(read(case)) == set(first)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_it_is_read_in_a_child_after_a_fork(case: Case) -> None:
    """The child closes, reads its own facts, and the parent's reader is not disturbed."""
    read(case)
    pid = os.fork()
    if pid == 0:  # no assertion may leave this branch
        code = 1
        try:
            case.reader.close()
            facts = case.reader.read()
            code = 2 if case.own and facts["process"].key.pid != os.getpid() else 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    read(case)


@pytest.mark.contract("W1-10", "S2-58")
def test_when_its_files_vanish_it_reports_it(recorded: Case) -> None:
    """A ReadError with a reason, each time; never a figure."""
    case = recorded
    assert case.vanish is not None
    case.vanish()
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            case.reader.read()
        assert caught.value.why in ("absent", "gone")
        assert caught.value.where
        case.reader.close()


@pytest.mark.contract("W1-10", "S2-58")
def test_what_may_not_be_read_is_denied(recorded: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every opening fails with EACCES: no facts, and the gap shows why."""
    case = recorded

    def refuse(path: object, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    facts = collect([case.reader])
    monkeypatch.undo()
    assert case.field not in facts
    assert {gap.why for gap in facts["gaps"]} == {"denied"}
