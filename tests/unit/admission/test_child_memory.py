"""What a worker's children hold of their own, from files of the test's own."""

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
    """What the kernel says of the child's own pages."""
    os.makedirs(folder / "6", exist_ok=True)
    (folder / "6" / "smaps_rollup").write_text(f"00-ff ---p 0\nPss: 1 kB\nPrivate_Dirty: {own >> 10} kB\n")


def test_inherited_pages_do_not_count(tmp_path):
    """A forked child that has written 2 MiB holds 2 MiB, though 300 are resident; what it adds counts at once."""
    heirs = ChildMemory(str(tmp_path), FakeClock().monotonic)
    walk(tmp_path, 2 * MIB)
    assert heirs.bytes(tree(300 * MIB)) == 0  # seen for the first time: perhaps before its exec
    assert heirs.bytes(tree(300 * MIB)) == 2 * MIB
    assert heirs.bytes(tree(350 * MIB)) == 52 * MIB


def test_one_that_becomes_another_program_counts_whole(tmp_path):
    """After exec nothing is inherited."""
    heirs = ChildMemory(str(tmp_path), FakeClock().monotonic)
    walk(tmp_path, 1 * MIB)
    heirs.bytes(tree(300 * MIB))
    heirs.bytes(tree(300 * MIB))
    walk(tmp_path, 40 * MIB)
    assert heirs.bytes(tree(40 * MIB)) == 40 * MIB


def test_inherited_pages_that_are_written_count_after_a_while(tmp_path):
    """They stay resident as they were, so only a walk tells."""
    clock = FakeClock()
    heirs = ChildMemory(str(tmp_path), clock.monotonic)
    walk(tmp_path, 0)
    heirs.bytes(tree(300 * MIB))
    assert heirs.bytes(tree(300 * MIB)) == 0
    walk(tmp_path, 200 * MIB)
    clock.advance(0.6)
    assert heirs.bytes(tree(300 * MIB)) == 200 * MIB


def test_a_child_that_is_gone_is_forgotten(tmp_path):
    """The root alone has no heirs; one that cannot be asked counts whole."""
    heirs = ChildMemory(str(tmp_path), FakeClock().monotonic)
    heirs.bytes(tree(30 * MIB))
    assert heirs.bytes(tree(30 * MIB)) == 30 * MIB
    assert heirs.bytes(TreeMemory(ROOT, (ROOT,), ("w",), (310 * MIB,), (10 * MIB,))) == 0
