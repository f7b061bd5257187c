"""What counts as usage by a block, over a tree that the test sets."""

import pytest

from memwarden.errors import ReadError
from memwarden.model.units import MIB
from support.guards import OWN, Scene


@pytest.fixture
def scene():
    return Scene()


def test_it_begins_at_zero_and_counts_growth(scene):
    """What the process had before is not the block's; what it takes is, files and shared segments are not."""
    usage = scene.usage()
    assert usage.measure() == 0
    scene.take(30)
    assert usage.measure() == 30 * MIB
    rss, shared = scene.tree.sizes[OWN.pid]
    scene.tree.sizes[OWN.pid] = rss + 500, shared + 500
    assert usage.measure() == 30 * MIB


def test_what_is_freed_of_before_is_no_credit_for_children(scene):
    """The process gives back 40 MiB of the time before, a child takes 60: the block has usage 60."""
    usage = scene.usage()
    scene.take(-40)
    scene.take(60, pid=200)
    usage.measure()
    scene.now += 1
    assert usage.measure() == 60 * MIB


def test_a_child_of_before_counts_with_its_growth(scene):
    """And one that ends takes nothing along that it had before."""
    scene.take(300, pid=200)
    usage = scene.usage()
    assert usage.measure() == 0
    scene.take(20, pid=200)
    assert usage.measure() == 20 * MIB
    del scene.tree.sizes[200]
    assert usage.measure() == 0


def test_the_same_memory_seen_twice_does_not_count(scene):
    """vfork shows the parent's memory twice for a moment: no subprocess may look like a doubling. One that stays as
    large as its parent is a fork, and is asked for what it shares."""
    usage = scene.usage()
    scene.tree.sizes[200] = scene.tree.sizes[OWN.pid]
    assert usage.measure() == 0
    scene.now += 0.9
    assert (usage.measure(), usage.confirm()) == (0, 0)
    scene.now += 0.2
    assert (usage.measure(), usage.confirm()) == (40 * MIB, 40 * MIB)
    scene.parts = {OWN.pid: 20, 200: 20}
    assert (usage.measure(), usage.confirm()) == (40 * MIB, 0)


def test_a_command_counts_from_the_first_look(scene):
    """It has called exec, and is of another size."""
    usage = scene.usage()
    scene.tree.sizes[200] = 90, 5
    assert usage.measure() == 85 * MIB


@pytest.mark.parametrize("children", [1, 4])
def test_forked_children_share_what_they_inherited(scene, children):
    """Of a parent with 40 MiB, n children with 1 MiB of their own: n MiB are confirmed, not n times 41."""
    usage = scene.usage()
    for pid in range(200, 200 + children):
        scene.tree.sizes[pid] = 51, 10
        scene.parts[pid] = 40 / (children + 1) + 1
    scene.parts[OWN.pid] = 40 / (children + 1)
    usage.measure()
    scene.now += 1
    assert usage.measure() == children * 41 * MIB
    assert usage.confirm() == pytest.approx(children * MIB, abs=1024)


def test_a_command_is_counted_whole_where_the_process_shares_with_its_own_parent(scene):
    """A preloaded worker shares 30 of its 40 MiB with others; that is no discount for the 500 MiB of a command."""
    usage = scene.usage()
    scene.parts[OWN.pid] = 20
    scene.tree.sizes[200] = 510, 10
    usage.measure()
    scene.now += 1
    usage.measure()
    assert usage.confirm() == 500 * MIB


def test_what_cannot_be_divided_counts_whole(scene):
    """A child of another user does not show its share; one that has just ended has none."""
    usage = scene.usage()
    scene.tree.sizes[200] = 90, 10
    usage.measure()
    scene.now += 1
    usage.measure()

    def refuse(why):
        def proportional(pid):
            raise ReadError("smaps_rollup", "/proc/200/smaps_rollup", why)

        return proportional

    usage._proportional = refuse("denied")
    assert usage.confirm() == 80 * MIB
    usage._proportional = refuse("gone")
    assert usage.confirm() == 0


def test_a_tree_that_cannot_be_read_keeps_its_last_figure(scene):
    """A sample that fails invents nothing."""
    usage = scene.usage()
    scene.take(30)
    assert usage.measure() == 30 * MIB

    def fail():
        raise ReadError("tree", "/proc", "denied")

    scene.tree.on_read = fail
    assert usage.measure() == 30 * MIB


def test_numbers_that_come_and_go_are_forgotten(scene):
    """A program that starts a thousand commands in a block does not remember them all."""
    usage = scene.usage()
    for pid in range(1000, 2000):
        scene.tree.sizes = {OWN.pid: (50, 10), pid: (1, 0)}
        usage.measure()
    assert len(usage._first_seen) < 100
