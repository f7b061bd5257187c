"""Readings as an asynchronous iterator."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

import memwarden.engine.awatch as module
from memwarden import Reading, awatch
from memwarden.engine.warden import WAITING_READINGS, Warden
from memwarden.model.events import Event, EventKind
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import SOON, VAST, no_thread_is_left, our_threads


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture
def warden(clock: FakeClock) -> Iterator[Warden]:
    """A warden that was not started."""
    made = Warden([ScriptedReader(range(100_000), VAST)], interval=1.0, clock=clock)
    yield made
    made.stop()


def used(reading: Reading) -> int:
    """The figure of the script at that sample."""
    assert reading.sample.system is not None
    return reading.sample.system.used


async def soon(readings: AsyncIterator[Reading]) -> Reading:
    """The next reading, or a failure."""
    return await asyncio.wait_for(anext(readings), SOON)


async def until_asked(readings: AsyncIterator[Reading]) -> asyncio.Task[Reading]:
    """A task that waits for the next reading, waiting."""
    task = asyncio.ensure_future(anext(readings))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def give_up(waiting: asyncio.Task[Reading]) -> None:
    """Cancel a task that still waits."""
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_readings_come_at_the_asked_interval(warden: Warden, clock: FakeClock) -> None:
    """The first at once, then one a second; nothing runs before the first is asked for, and nothing afterwards."""

    async def main() -> list[Reading]:
        readings = awatch(warden=warden)
        assert our_threads() == []
        got = [await soon(readings)]
        for _ in range(3):
            clock.advance(1.0)
            got.append(await soon(readings))
        await readings.aclose()  # type: ignore[attr-defined]
        assert no_thread_is_left()
        return got

    got = asyncio.run(main())
    assert [each.sample.monotonic for each in got] == [1000.0, 1001.0, 1002.0, 1003.0]
    assert [used(each) for each in got] == [0, 1, 2, 3]


def test_the_loop_goes_on_while_it_waits(warden: Warden) -> None:
    """Other tasks run between two readings."""

    async def main() -> None:
        async with aclosing(awatch(warden=warden)) as readings:  # type: ignore[type-var]
            await soon(readings)
            waiting = await until_asked(readings)
            for _ in range(100):
                await asyncio.sleep(0)
            await give_up(waiting)

    asyncio.run(main())


@pytest.mark.parametrize("while_waiting", [False, True])
def test_the_loop_ends_when_it_is_reported_to_stop(warden: Warden, clock: FakeClock, while_waiting: bool) -> None:
    """Between two readings, where others wait, and while it waits for one."""

    async def main() -> int:
        stop, got = asyncio.Event(), 0
        async for _ in awatch(stop=stop, warden=warden):
            got += 1
            if while_waiting:
                asyncio.get_running_loop().call_later(0.01, stop.set)
            else:
                stop.set()
                clock.advance(5.0)
                assert warden.flush()
                await asyncio.sleep(0.01)
        assert no_thread_is_left()
        return got

    assert asyncio.run(asyncio.wait_for(main(), SOON)) == 1


def test_a_stop_that_was_set_before_yields_nothing(warden: Warden) -> None:
    """And leaves nothing behind."""

    async def main() -> list[Reading]:
        stop = asyncio.Event()
        stop.set()
        return [each async for each in awatch(stop=stop, warden=warden)]

    assert asyncio.run(asyncio.wait_for(main(), SOON)) == []
    assert no_thread_is_left()


def test_an_error_of_stop_is_raised(warden: Warden) -> None:
    """Its error is raised where readings are awaited."""

    class Broken:
        async def wait(self) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        async for _ in awatch(stop=Broken(), warden=warden):
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(main(), SOON))
    assert no_thread_is_left()


def test_cancelling_the_task_ends_the_watch(warden: Warden) -> None:
    """While it waits for a reading; the cancellation goes through."""

    async def main() -> None:
        entered = asyncio.Event()

        async def loop() -> None:
            async for _ in awatch(warden=warden):
                entered.set()

        task = asyncio.ensure_future(loop())
        await asyncio.wait_for(entered.wait(), SOON)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not warden.running
        assert no_thread_is_left()

    asyncio.run(main())


def test_cancelling_while_it_starts_leaves_no_warden_running(warden: Warden, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that starts it finds that its caller was cancelled."""
    starting, go_on, started = threading.Event(), threading.Event(), threading.Event()
    start = warden.start

    def slow() -> Warden:
        starting.set()
        assert go_on.wait(SOON)
        try:
            return start()
        finally:
            started.set()

    monkeypatch.setattr(warden, "start", slow)

    async def main() -> None:
        task = asyncio.ensure_future(anext(awatch(warden=warden)))
        assert await asyncio.to_thread(starting.wait, SOON)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main())  # waits for the threads that to_thread took
    assert started.is_set()
    assert not warden.running
    assert no_thread_is_left()


def test_leaving_the_loop_ends_the_threads(warden: Warden) -> None:
    """By break in a closing block at once; without one when the loop ends; by an exception, too."""

    async def broken() -> None:
        async with aclosing(awatch(warden=warden)) as readings:  # type: ignore[type-var]
            async for _ in readings:
                assert warden.running
                break
        assert no_thread_is_left()

    async def without() -> None:
        async for _ in awatch(warden=warden):
            break

    async def failing() -> None:
        async for _ in awatch(warden=warden):
            raise ZeroDivisionError

    asyncio.run(broken())
    asyncio.run(without())
    assert no_thread_is_left()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(failing())
    assert no_thread_is_left()


def test_a_loop_that_is_slower_than_the_readings_loses_the_oldest(warden: Warden, clock: FakeClock) -> None:
    """The newest are kept, and for what a blocked loop missed it is called once, not for each."""
    calls = 0

    async def main() -> list[int]:
        nonlocal calls
        loop = asyncio.get_running_loop()
        call_soon = loop.call_soon_threadsafe

        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            return call_soon(*arguments, **more)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        async with aclosing(awatch(warden=warden)) as readings:  # type: ignore[type-var]
            first = used(await soon(readings))
            calls = 0
            for _ in range(20):
                clock.advance(20.0)  # the loop is blocked meanwhile
                assert warden.flush()
            seen = calls
            late = [used(await soon(readings)) for _ in range(WAITING_READINGS)]
            await give_up(await until_asked(readings))
        return [seen, first, *late]

    seen, first, *late = asyncio.run(main())
    assert first == 0
    assert late == list(range(401 - WAITING_READINGS, 401))
    assert seen == 1


def test_a_warden_that_ran_runs_on(warden: Warden) -> None:
    """It is its owner's: only the subscription ends."""

    async def main() -> None:
        for _ in range(2):
            async with aclosing(awatch(warden=warden)) as readings:  # type: ignore[type-var]
                waiting = await until_asked(readings)
                clock.advance(1.0)
                await asyncio.wait_for(waiting, SOON)
        assert warden.running

    clock = warden._clock
    assert isinstance(clock, FakeClock)
    with warden:
        receivers = len(warden._dispatcher._all)
        asyncio.run(main())
        assert len(warden._dispatcher._all) == receivers
    assert no_thread_is_left()


@pytest.mark.parametrize("reported", [True, False])
def test_the_loop_ends_with_the_warden(warden: Warden, monkeypatch: pytest.MonkeyPatch, reported: bool) -> None:
    """Stopped elsewhere, it gives no more readings; also if a hanging receiver held the STOP event up."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.02)

    async def main() -> list[Reading]:
        got = []
        async for reading in awatch(warden=warden):
            got.append(reading)
            if not reported:
                warden._dispatcher._all.clear()
                warden._dispatcher._change(lambda now: now)
            await asyncio.to_thread(warden.stop)
        return got

    warden.start()
    warden.flush()

    async def asked() -> list[Reading]:
        receivers = len(warden._dispatcher._all)
        task = asyncio.ensure_future(main())
        while len(warden._dispatcher._all) == receivers:  # until it listens
            await asyncio.sleep(0)
        clock = warden._clock
        assert isinstance(clock, FakeClock)
        clock.advance(1.0)
        return await asyncio.wait_for(task, SOON)

    assert len(asyncio.run(asked())) == 1


def test_after_the_loop_is_closed_nothing_raises_and_nothing_runs_on(
    warden: Warden, clock: FakeClock, recwarn: pytest.WarningsRecorder
) -> None:
    """Closing the loop and never the generator raises no error in a thread, and the watch ends by itself."""
    troubles: list[Event] = []
    warden.subscribe(lambda event: troubles.append(event) if event.kind is EventKind.TROUBLE else None)
    loop = asyncio.new_event_loop()
    readings = awatch(warden=warden)
    loop.run_until_complete(soon(readings))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    clock.advance(1.0)
    assert no_thread_is_left()
    assert not warden.running
    assert troubles == []
    del readings
    gc.collect()
    assert [str(each.message) for each in recwarn] == []


def test_two_event_loops_watch_at_once(warden: Warden, clock: FakeClock) -> None:
    """Each gets every reading of one warden, on its own thread."""
    got: dict[str, list[int]] = {"one": [], "two": []}
    ready = threading.Barrier(3)

    def watching(name: str) -> None:
        async def main() -> None:
            async with aclosing(awatch(warden=warden)) as readings:  # type: ignore[type-var]
                waiting = await until_asked(readings)
                ready.wait(SOON)
                got[name].append(used(await asyncio.wait_for(waiting, SOON)))
                for _ in range(4):
                    got[name].append(used(await soon(readings)))

        asyncio.run(main())

    with warden:
        threads = [threading.Thread(target=watching, args=(name,)) for name in got]
        for thread in threads:
            thread.start()
        ready.wait(SOON)
        clock.advance(5.0)
        for thread in threads:
            thread.join(SOON)
    assert got == {"one": [1, 2, 3, 4, 5], "two": [1, 2, 3, 4, 5]}


def test_without_a_warden_the_own_process_is_watched() -> None:
    """Real readers, at a short interval."""

    async def main() -> list[Reading]:
        async with aclosing(awatch("10ms")) as readings:  # type: ignore[type-var]
            return [await soon(readings) for _ in range(3)]

    got = asyncio.run(main())
    assert all(each.sample.process is not None and each.sample.process.rss > 1 << 20 for each in got)
    assert no_thread_is_left()
