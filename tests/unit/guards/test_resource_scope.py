"""Scopes: each releases its own resources once, in the reverse order, and none of another scope."""

import asyncio
import contextvars
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from memwarden.guards.resources.resource_scope import ResourceScope, current_scope, open_counts


class Thing:
    """Note when it is released."""

    def __init__(self, log, name, raises=None):
        self.log, self.name, self.raises = log, name, raises

    def go(self):
        self.log.append(self.name)
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def log():
    return []


@pytest.fixture
def hold(log):
    """Holds a thing of this name in the current scope."""

    def hold(name, raises=None, scope=None, **options):
        thing = Thing(log, name, raises)
        return (scope or current_scope()).add(thing, thing.go, name=name, **options)

    return hold


@pytest.fixture
def hold_all(hold):
    """Hold several, each with the error of its release; then raise."""

    def hold_all(*things, then=None):
        for name, raises in things:
            hold(name, raises)
        if then is not None:
            raise then

    return hold_all


def test_the_last_comes_first(hold, log):
    """What was made later may stand on what was made before."""
    with ResourceScope():
        for name in "abc":
            hold(name)
    assert log == ["c", "b", "a"]


def test_each_is_released_once(hold, log):
    """By the first of: its own block, a clean-up in between, the end of the scope."""
    with ResourceScope() as scope:
        held = hold("a")
        held.release()
        held.release()
        hold("b")
        scope.release()
        assert scope.release() == ({}, [])
    assert log == ["a", "b"]


def test_an_inner_job_ends_alone(hold, hold_all, log):
    """And the outer one is current again, also after an exception."""
    with ResourceScope("outer") as outer:
        hold("outer thing")
        with pytest.raises(KeyError), ResourceScope("inner"):
            hold_all(("inner thing", None), then=KeyError())
        assert log == ["inner thing"]
        assert current_scope() is outer
    assert log == ["inner thing", "outer thing"]


def test_a_job_may_be_entered_again(hold, log):
    """It ends with its outermost block; after that it can be used anew."""
    scope = ResourceScope()
    with scope:
        with scope:
            hold("a")
        assert log == []
        with ResourceScope("between"), scope:
            assert current_scope() is scope
    assert log == ["a"]
    with scope:
        hold("b")
    assert log == ["a", "b"]


def test_one_that_fails_does_not_keep_the_others(hold_all, log, caplog):
    """All are released; the first error is raised, the others are reported."""
    with pytest.raises(ValueError, match="last"), ResourceScope("encode"):
        hold_all(("a", None), ("b", ValueError("first")), ("c", ValueError("last")))
    assert log == ["c", "b", "a"]
    assert "scope encode: b was not released: ValueError('first')" in caplog.text


def test_the_block_s_own_exception_is_raised(hold_all, log, caplog):
    """What went wrong in the clean-up is reported, and hides nothing."""
    with pytest.raises(KeyError), ResourceScope("encode"):
        hold_all(("a", ValueError("too")), then=KeyError())
    assert "a was not released: ValueError('too')" in caplog.text


def test_an_interrupt_in_between_waits(hold_all, log):
    """Ctrl-C in the middle of a clean-up leaves nothing behind, and is not lost."""
    with pytest.raises(KeyboardInterrupt), ResourceScope():
        hold_all(("a", None), ("b", KeyboardInterrupt()), ("c", None))
    assert log == ["c", "b", "a"]


def test_a_thing_may_clean_up_itself(log):
    """A release may call the clean-up again, and may hold something new, which is released as well."""
    with ResourceScope() as scope:

        def again():
            log.append("again")
            scope.release()
            scope.add(None, lambda: log.append("new"))

        scope.add(None, lambda: log.append("first"))
        scope.add(None, again)
    assert log == ["again", "first", "new"]


def test_all_are_asked_before_the_first_is_waited_for(log):
    """Ten commands that each take their grace end in the time of one."""
    with ResourceScope() as scope:
        for name in "ab":
            scope.add(
                None, lambda name=name: log.append(f"end {name}"), request=lambda name=name: log.append(f"ask {name}")
            )
    assert log == ["ask a", "ask b", "end b", "end a"]


@pytest.mark.contract("W1-8")
def test_threads_do_not_touch_each_other(hold, log):
    """Outside of any scope each thread has its own: the clean-up of one leaves the others' things."""
    hold("main")
    ready, go = threading.Barrier(3, timeout=10), threading.Event()

    def work(name):
        hold(name)
        ready.wait()
        if name == "fails":
            current_scope().release()
            go.set()
        go.wait(10)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("fails", "works")]
    for each in threads:
        each.start()
    ready.wait()
    for each in threads:
        each.join()
    assert log == ["fails"]
    current_scope().release()
    assert log == ["fails", "main"]


@pytest.mark.contract("W1-8")
def test_tasks_do_not_touch_each_other(hold, log):
    """Two asyncio tasks of one thread, with a scope each or without: each releases its own."""

    async def work(name, fails):
        hold(name)
        await asyncio.sleep(0)
        if fails:
            current_scope().release()
        await asyncio.sleep(0)
        return name in log

    async def within(name, fails):
        with ResourceScope(name):
            return await work(name, fails)

    async def main():
        hold("main")
        first = await asyncio.gather(work("a", True), work("b", False))
        second = await asyncio.gather(within("c", True), within("d", False))
        return first, second

    assert asyncio.run(main()) == ([True, False], [True, False])
    assert log == ["a", "c", "d"]


def test_tasks_started_in_a_scope_belong_to_it(hold, log):
    """And so does what they send to a thread."""

    async def main():
        with ResourceScope("encode") as scope:
            tasks = [asyncio.create_task(asyncio.to_thread(current_scope)), asyncio.create_task(part())]
            assert await asyncio.gather(*tasks) == [scope, scope]
            assert log == []

    async def part():
        hold("part")
        return current_scope()

    asyncio.run(main())
    assert log == ["part"]


def test_a_pool_s_thread_can_work_for_a_job(hold, log):
    """By ``scope.run``; after that the thread has no scope again."""
    with ThreadPoolExecutor(1) as pool, ResourceScope("encode") as scope:
        pool.submit(scope.run, hold, "part").result()
        assert pool.submit(current_scope).result() is not scope
        with pytest.raises(KeyError):
            pool.submit(scope.run, {}.__getitem__, "nothing").result()
        assert pool.submit(current_scope).result() is not scope
    assert log == ["part"]


def test_one_job_entered_by_several_threads(hold, log):
    """It ends with the last of them, and each thread is outside of it again."""
    scope, inside, leave = ResourceScope(), threading.Barrier(2, timeout=10), threading.Event()
    outside = []

    def work():
        with scope:
            hold("thread's")
            inside.wait()
            leave.wait(10)
        outside.append(current_scope())

    thread = threading.Thread(target=work)
    thread.start()
    with scope:
        inside.wait()
    assert log == []
    assert current_scope() is not scope
    leave.set()
    thread.join()
    assert log == ["thread's"]
    assert outside[0] is not scope


def test_a_generator_that_is_closed_elsewhere(hold, log):
    """Its scope ends, whatever context it is closed in, and no other scope is taken off."""

    def generator():
        with ResourceScope("inner"):
            hold("inner thing")
            yield current_scope()

    with ResourceScope("outer") as outer:
        steps = generator()
        next(steps)
        contextvars.copy_context().run(steps.close)
        assert log == ["inner thing"]
        steps = generator()
        next(steps)
        with ResourceScope("later") as later:
            steps.close()
            assert current_scope() is later
        assert current_scope() is outer


def test_what_is_held_lives_and_what_is_not_dies(hold, log):
    """A thread's own scope outlives it while it holds something; empty scopes leave nothing behind."""
    scope = ResourceScope()
    gone = weakref.ref(scope)
    held = hold("a", scope=scope)
    before = open_counts()
    del scope
    gc.collect()
    assert gone() is not None
    held.release()
    del held
    gc.collect()
    assert gone() is None
    assert before["closable"] - open_counts().get("closable", 0) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_s_jobs_are_empty(hold, log):
    """It leaves its parent's blocks and releases nothing; its own things are released as everywhere."""
    with ResourceScope() as scope:
        hold("parent's")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with scope:
                    hold("child's")
                scope.__exit__(None, None, None)
                code = 0 if log == ["child's"] and open_counts() == {} else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert log == []
    assert log == ["parent's"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_does_not_write_what_its_parent_holds(tmp_path):
    """A file that is only held must not be closed in the child: its buffer would be written twice."""
    path = tmp_path / "out"
    with ResourceScope() as scope:
        file = open(path, "w")  # noqa: SIM115 - the scope closes it
        scope.add(file, file.close)
        file.write("once")
        del file
        child = os.fork()
        if child == 0:
            code = 1
            try:
                gc.collect()
                code = 0 if path.read_text() == "" else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert path.read_text() == "once"
