"""Kernel files with any bytes in them: facts or a ReadError, and never another fact than the file's."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import PAGE, ProcessReader, Stat, parse_statm, read_pss
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import ProcTree
from support.trees import MACHINES, container_v1, container_v2, groups_of

STATM = b"765 397 369 5 0 123 0\n"
STAT_REST = b" S 17 4242 4242 0 -1 4194304 100 0 0 0 5 2 0 0 20 0 3 0 987654 12345678 2500 1 1 1 0 0 0\n"


@pytest.fixture(scope="module")
def tree() -> Iterator[ProcTree]:
    with tempfile.TemporaryDirectory() as folder:
        yield ProcTree(folder)


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    """Something like the real content: cut, spliced with any bytes, or nothing like it."""
    cut = st.integers(0, len(content))
    splice = st.tuples(cut, st.binary(max_size=12), cut).map(
        lambda parts: content[: parts[0]] + parts[1] + content[max(parts[0], parts[2]) :]
    )
    return st.one_of(cut.map(lambda at: content[:at]), splice, st.binary(max_size=60))


def facts_or_read_error(read: Callable[[], Any]) -> Any:
    """What was read, or None for a ReadError with all that it must show."""
    try:
        return read()
    except ReadError as error:
        raised = error
    assert raised.why in ReadError.REASONS
    assert raised.what
    assert raised.where
    return None


@given(mutations(STATM))
def test_statm(data: bytes) -> None:
    """Three sizes or a ReadError."""
    sizes = facts_or_read_error(lambda: parse_statm(data, "statm"))
    assert sizes is None or all(size % PAGE == 0 for size in sizes)


@given(st.binary(max_size=64).filter(lambda name: b"\0" not in name))
@example(b") S 1 (x")
@example(b"\n\n) Z")
@example(b")")
def test_stat_with_any_name(name: bytes) -> None:
    """The last closing parenthesis ends it: no name hides or forges a field."""
    stat = Stat(b"4242 (" + name + b")" + STAT_REST, "stat")
    assert (stat.pid, stat.state, stat.ppid, stat.start, stat.rss) == (4242, "S", 17, 987654, 2500 * PAGE)
    assert stat.name == name.decode("utf-8", "replace")


@given(mutations(b"4242 (a) b)" + STAT_REST))
def test_stat(data: bytes) -> None:
    """An identity or a ReadError."""
    stat = facts_or_read_error(lambda: Stat(data, "stat"))
    assert stat is None or (isinstance(stat.name, str) and isinstance(stat.start, int) and stat.state)


@given(st.data())
def test_meminfo(tree: ProcTree, data: st.DataObject) -> None:
    """Six figures or a ReadError."""
    tree.meminfo()
    content = (tree.folder / "proc/meminfo").read_bytes()
    tree.write("proc/meminfo", data.draw(mutations(content)))
    system = facts_or_read_error(MeminfoReader(tree.proc).memory)
    assert system is None or all(isinstance(figure, int) for figure in system)


@given(st.data())
def test_status(tree: ProcTree, data: st.DataObject) -> None:
    """A process or a ReadError; the identity is not status's to change."""
    tree.process(5, start=77)
    content = (tree.folder / "proc/5/status").read_bytes()
    tree.write("proc/5/status", data.draw(mutations(content)))
    reader = ProcessReader(5, tree.proc)
    process = facts_or_read_error(reader.memory)
    assert process is None or process.key == ProcessKey(5, 77)
    facts_or_read_error(reader.resident)
    reader.close()


@given(mutations(b"5566-7788 ---p 00000000 00:00 0 [rollup]\nRss:  1588 kB\nPss:  174 kB\nPss_Dirty: 9 kB\n"))
def test_smaps_rollup(tree: ProcTree, data: bytes) -> None:
    """A share or a ReadError."""
    tree.write("proc/5/smaps_rollup", data)
    share = facts_or_read_error(lambda: read_pss(5, tree.proc))
    assert share is None or isinstance(share, int)


@given(st.data(), st.sampled_from(sorted(MACHINES)), st.sampled_from(["cgroup", "mountinfo"]))
def test_cgroup_and_mountinfo(data: st.DataObject, machine: str, name: str) -> None:
    """Groups or a ReadError, for any machine with either file damaged."""
    with tempfile.TemporaryDirectory() as folder:
        tree = MACHINES[machine](ProcTree(folder))
        content = (tree.folder / "proc/self" / name).read_bytes()
        tree.write(f"proc/self/{name}", data.draw(mutations(content)))
        reader = groups_of(tree)
        facts_or_read_error(reader.sample)
        reader.close()


@given(st.data(), st.sampled_from([container_v1, container_v2]))
def test_files_of_a_group(data: st.DataObject, build: Callable[[ProcTree], ProcTree]) -> None:
    """Figures, or a gap that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        tree = build(ProcTree(folder))
        files = sorted(path for path in Path(tree.sys).rglob("memory.*"))
        file = data.draw(st.sampled_from(files))
        file.write_bytes(data.draw(mutations(file.read_bytes())))
        reader = groups_of(tree)
        groups, gaps = reader.sample()
        reader.close()
        assert len(groups) + len(gaps) == 1
        for gap in gaps:
            assert gap.why == "malformed"
            assert os.path.dirname(file) in gap.where or gap.where == str(file)


@given(st.data(), st.sampled_from(["stat", "statm", "task/11/children", "task/10/children"]), st.sampled_from([0, 8]))
def test_files_of_a_tree(data: st.DataObject, name: str, keep: int) -> None:
    """A tree with gaps or a ReadError, whichever member's file is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        tree = ProcTree(folder)
        tree.process(10, children=[11], start=1)
        tree.process(11, ppid=10, start=2, children=[12])
        tree.process(12, ppid=11, start=3)
        pid = 10 if "10" in name else 11
        file = Path(tree.proc) / str(pid) / name
        file.write_bytes(data.draw(mutations(file.read_bytes())))
        reader = TreeReader(10, tree.proc, keep=keep)
        for _ in range(2):
            facts_or_read_error(reader.sample)
            facts_or_read_error(reader.members)
        reader.close()


@given(st.binary(max_size=20))
def test_a_pid_has_any_groups(tree: ProcTree, data: bytes) -> None:
    """Also for another process than the own one."""
    tree.write("proc/9/cgroup", data)
    tree.write("proc/self/mountinfo", "")
    facts_or_read_error(CgroupReader(9, tree.proc, tree.sys).sample)
