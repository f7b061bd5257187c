"""A guard's budget, checkpoints and steps, over a scripted process."""

# ruff: noqa: PT012 - the block that a guard is over is what is tested

import pickle

import pytest

from memwarden.actions.caches import Caches
from memwarden.errors import LimitExceeded, SettingsError
from memwarden.guards.budget.memory_guard import memory_guard, reserve_of
from memwarden.model.units import GIB, MIB
from support.guards import Scene


@pytest.fixture
def scene():
    return Scene()


@pytest.mark.contract("W1-4", "X-29")
def test_it_raises_at_a_checkpoint_and_lists_what_was_tried(scene):
    """Growth is what counts, not the size that the process had; the error is a MemoryError with figures."""
    with pytest.raises(MemoryError) as caught, scene.guard("100MiB") as monitor:
        scene.take(100)
        monitor.check()
        assert (monitor.used, monitor.left) == (100 * MIB, 0)
        scene.take(1)
        monitor.check()
    error = caught.value
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.used) == (100 * MIB, 101 * MIB)
    for word in ("load", "took 101.0 MiB", "100.0 MiB", "objects freed", "cache", "Process less at a time"):
        assert word in str(error)
    assert pickle.loads(pickle.dumps(error)).used == 101 * MIB
    assert scene.monitor.inside == []
    assert scene.tree.closed


def test_the_end_is_a_checkpoint(scene):
    """A block without any checkpoint that ends over its budget does not pass for one that kept it."""
    with pytest.raises(LimitExceeded), scene.guard():
        scene.take(101)
    with scene.guard("200MiB"):
        scene.take(101)


@pytest.mark.contract("W3-4")
def test_the_blocks_own_error_is_not_hidden(scene):
    """Whatever goes wrong in the block reaches its caller, however much it has taken."""
    for error in (ValueError("own"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()):
        with pytest.raises(type(error)) as caught, scene.guard():
            scene.take(500)
            raise error
        assert caught.value is error
        assert scene.monitor.inside == []


def test_children_count(scene):
    """A budget of 100 MiB is passed by 60 in this process and 60 in a child."""
    with pytest.raises(LimitExceeded, match=r"took 120\.0 MiB"), scene.guard() as monitor:
        scene.take(60)
        scene.tree.sizes[200] = 70, 10
        monitor.check()
        scene.now += 1
        monitor.check()


def test_shared_pages_are_no_alarm_and_asked_for_once(scene):
    """Forked children that only share are confirmed to have taken nothing; the next sample does not ask again."""
    asked = []
    with scene.guard() as monitor:
        for pid in range(200, 204):
            scene.tree.sizes[pid] = 50, 10
            scene.parts[pid] = 8
        scene.parts[100] = 8
        monitor.check()
        scene.now += 1
        taken = monitor._usage
        confirm, taken.confirm = taken.confirm, lambda: asked.append(1) or confirm()
        for _ in range(5):
            monitor.check()
        assert monitor.used == 160 * MIB
    assert len(asked) == 1


@pytest.mark.contract("V-10")
def test_it_frees_before_it_raises_and_stops_when_that_helped(scene):
    """Garbage, the allocator, then registered caches, with a fresh sample after each; nothing is raised then."""
    caches = Caches()
    caches.register(lambda: scene.take(-50), "thumbnails")
    never = []
    with scene.guard(caches=caches) as monitor:
        scene.take(120)
        monitor.check()
        done = list(monitor.steps)
        assert monitor.used == 70 * MIB
        caches.register(lambda: never.append(1), "others")
        monitor.check()
    assert [
        word for step, word in zip(done, ("objects freed", "trim", "cleared thumbnails"), strict=True) if word in step
    ]
    assert "cleared thumbnails" in done[-1]
    assert never == []
    assert monitor.peak == 120 * MIB


@pytest.mark.contract("W1-4")
def test_where_the_container_ends_the_budget_does_not_help(scene):
    """64 MiB of which 3 are left: a block with a budget of 1 GiB is over, and the error says whose limit it is."""
    scene.left.limit, scene.left.headroom = 64 * MIB, 48 * MIB
    with pytest.raises(LimitExceeded) as caught, scene.guard("1GiB") as monitor:
        scene.take(45)
        monitor.check()
        scene.left.headroom = 3 * MIB
        scene.now += 1
        monitor.check()
    assert caught.value.limit == 64 * MIB
    assert "cgroup /here has 3.0 MiB left of 64.0 MiB, and this block took 45.0 MiB" in str(caught.value)


def test_a_block_that_uses_nothing_is_not_stopped(scene):
    """Others have filled the container: a block that uses next to nothing continues."""
    scene.left.limit, scene.left.headroom = 64 * MIB, 1 * MIB
    with scene.guard("1GiB") as monitor:
        scene.take(1)
        monitor.check()


@pytest.mark.parametrize(
    ("limit", "reserve"), [(64 * MIB, 4 * MIB), (GIB, 32 * MIB), (4 * GIB, 128 * MIB), (512 * GIB, 256 * MIB)]
)
def test_the_reserve_is_a_part_in_bounds(limit, reserve):
    """A small container keeps 4 MiB, a large machine no more than 256."""
    assert reserve_of(limit) == reserve


@pytest.mark.parametrize(("asked", "limit"), [(None, 800), ("50%", 1000), (5 * MIB, 5), ("1GiB", 1024)])
def test_what_a_budget_may_be(scene, asked, limit):
    """Bytes, a size, a share of the limit here; without one 80 % of what is there."""
    scene.left.limit, scene.left.headroom = 2000 * MIB, 1000 * MIB
    with scene.guard(asked) as monitor:
        assert monitor.limit == limit * MIB


@pytest.mark.parametrize("bad", ["much", 0, -1, "0", "120%", 1.5, True])
def test_a_bad_budget_is_reported_at_once(bad):
    """And not when the block begins."""
    with pytest.raises(SettingsError):
        memory_guard(bad)


def test_one_guard_is_for_one_block(scene):
    """Entered again, inside or afterwards, it says so, and the block that goes on keeps its budget."""
    guard = scene.guard()
    with guard:
        with pytest.raises(RuntimeError, match="memory_guard"):
            guard.__enter__()
        assert guard.active
    with pytest.raises(RuntimeError):
        guard.__enter__()
    assert scene.monitor.inside == []


def test_what_goes_wrong_at_the_beginning_leaves_nothing(scene):
    """No thread, no registration, no descriptor."""

    def refuse(watched):
        raise KeyboardInterrupt

    scene.monitor.add = refuse
    with pytest.raises(KeyboardInterrupt):
        scene.guard().__enter__()
    assert scene.tree.closed


def test_a_cache_that_comes_by_the_checkpoint_is_let_through(scene):
    """A clearer that checks the same guard does not go round for ever."""
    caches = Caches()
    with pytest.raises(LimitExceeded), scene.guard(caches=caches) as monitor:
        caches.register(monitor.check, "checks itself")
        scene.take(101)
        monitor.check()


def test_code_that_swallows_the_error_is_reported_again(scene):
    """At each checkpoint, and at the end."""
    with pytest.raises(LimitExceeded), scene.guard() as monitor:
        scene.take(101)
        for _ in range(3):
            with pytest.raises(LimitExceeded):
                monitor.check()


def test_guards_nest(scene):
    """The inner one is passed first; the outer one counts the same memory, and stands."""
    with scene.guard("300MiB", "outer") as outer:
        scene.take(50)
        with pytest.raises(LimitExceeded, match="inner"), scene.guard("100MiB", "inner") as inner:
            scene.take(150)
            assert (inner.used, outer.used) == (150 * MIB, 200 * MIB)
            inner.check()
        outer.check()
        assert scene.monitor.inside == [outer]


def test_after_the_block_a_checkpoint_does_nothing(scene):
    """What it shows is what it was."""
    with scene.guard() as monitor:
        scene.take(10)
        monitor.check()
    scene.take(1000)
    monitor.check()
    assert (monitor.active, monitor.used, monitor.peak) == (False, 10 * MIB, 10 * MIB)


def test_shared_pages_that_were_written_to_are_found(scene):
    """The sum stays as it is while a forked child makes its parent's pages its own: asked again a moment later."""
    passed = []
    with pytest.raises(LimitExceeded, match=r"took 120\.0 MiB"), scene.guard() as monitor:
        for pid in range(200, 203):
            scene.tree.sizes[pid] = 50, 10
            scene.parts[pid] = 10
        scene.parts[100] = 10
        monitor.check()
        scene.now += 1
        monitor.check()
        scene.parts = dict.fromkeys((100, 200, 201, 202), 40)
        monitor.check()
        scene.now += 0.2
        monitor.check()
        passed.append(1)
        scene.now += 0.1
        monitor.check()
    assert passed


@pytest.mark.parametrize("where", ["measure", "confirm"])
def test_a_finalizer_or_a_signal_handler_may_run_during_a_sample(scene, where):
    """On the same thread: it gets the last figure, and does not wait for itself."""
    seen = []
    with pytest.raises(LimitExceeded), scene.guard() as monitor:
        scene.take(10)
        assert monitor.used == 10 * MIB
        scene.take(110)
        if where == "measure":
            scene.tree.on_read = lambda: seen.append(monitor.used)
        else:
            confirm = monitor._usage.confirm
            monitor._usage.confirm = lambda: seen.append(monitor.used) or confirm()
        monitor.check()
    assert seen[0] == (10 if where == "measure" else 120) * MIB
