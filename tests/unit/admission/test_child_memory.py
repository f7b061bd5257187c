"""Memory of a worker's children without inherited pages, from files of the test's own."""

import os

from memwarden.admission.pool.child_memory import ChildMemory
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.testing import FakeClock

MIB = 1 << 20
ROOT, CHILD = ProcessKey(5, 1), ProcessKey(6, 2)


def tree(anonymous):
    """The root with 300 MiB, and a child."""
    return TreeMemory(ROOT, (ROOT, CHILD), ("w", "c"), (310 * MIB, anonymous + 10 * MIB), (10 * MIB, 10 * MIB))


def walk(folder, own):
    """Write the kernel's figure of the child's own pages."""
    os.makedirs(folder / "6", exist_ok=True)
    (folder / "6" / "smaps_rollup").write_text(f"00-ff ---p 0\nPss: 1 kB\nPrivate_Dirty: {own >> 10} kB\n")


def test_inherited_pages_do_not_count(tmp_path):
    """A forked child that has written 2 MiB uses 2 MiB, though 300 are resident; growth counts at once."""
    children = ChildMemory(str(tmp_path), FakeClock().monotonic)
    walk(tmp_path, 2 * MIB)
    assert children.bytes(tree(300 * MIB)) == 0  # first sample: perhaps before its exec
    assert children.bytes(tree(300 * MIB)) == 2 * MIB
    assert children.bytes(tree(350 * MIB)) == 52 * MIB


def test_one_that_becomes_another_program_counts_whole(tmp_path):
    """After exec nothing is inherited."""
    children = ChildMemory(str(tmp_path), FakeClock().monotonic)
    walk(tmp_path, 1 * MIB)
    children.bytes(tree(300 * MIB))
    children.bytes(tree(300 * MIB))
    walk(tmp_path, 40 * MIB)
    assert children.bytes(tree(40 * MIB)) == 40 * MIB


def test_inherited_pages_that_are_written_count_after_a_while(tmp_path):
    """They stay resident as they were, so only a walk finds them."""
    clock = FakeClock()
    children = ChildMemory(str(tmp_path), clock.monotonic)
    walk(tmp_path, 0)
    children.bytes(tree(300 * MIB))
    assert children.bytes(tree(300 * MIB)) == 0
    walk(tmp_path, 200 * MIB)
    clock.advance(0.6)
    assert children.bytes(tree(300 * MIB)) == 200 * MIB


def test_a_child_that_has_ended_is_forgotten(tmp_path):
    """The root alone has no children; one that cannot be read counts whole."""
    children = ChildMemory(str(tmp_path), FakeClock().monotonic)
    children.bytes(tree(30 * MIB))
    assert children.bytes(tree(30 * MIB)) == 30 * MIB
    assert children.bytes(TreeMemory(ROOT, (ROOT,), ("w",), (310 * MIB,), (10 * MIB,))) == 0


def test_a_child_before_its_exec_does_not_count_twice(tmp_path):
    """Between vfork and exec it uses its parent's memory itself, for as long as the group lacks memory for the exec."""
    children = ChildMemory(str(tmp_path), FakeClock().monotonic)
    walk(tmp_path, 300 * MIB)  # the same pages are the parent's own
    thread = tmp_path / "5" / "task" / "5"
    thread.mkdir(parents=True)
    (thread / "wchan").write_text("kernel_clone")
    for _ in range(3):
        assert children.bytes(tree(300 * MIB)) == 0
    walk(tmp_path, 40 * MIB)
    assert children.bytes(tree(40 * MIB)) == 40 * MIB


def test_a_forked_child_that_has_written_all_pages_counts(tmp_path):
    """It looks like one before its exec, but its parent does not wait for it."""
    children = ChildMemory(str(tmp_path), FakeClock().monotonic)
    walk(tmp_path, 300 * MIB)
    thread = tmp_path / "5" / "task" / "5"
    thread.mkdir(parents=True)
    (thread / "wchan").write_text("do_wait")
    assert children.bytes(tree(300 * MIB)) == 0
    assert children.bytes(tree(300 * MIB)) == 300 * MIB
