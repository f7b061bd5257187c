"""Readings as an asynchronous iterator, in a module of its own: asyncio costs 40 ms and 10 MiB, and most programs do
without it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

from memwarden.engine.warden import WAITING_READINGS, Warden
from memwarden.model.events import Event, EventKind
from memwarden.model.verdicts import Reading

#: Seconds after which a loop that waits for a reading checks that the warden runs: behind a receiver that hangs it gets
#: no STOP.
CHECK_SECONDS = 1.0


class AsyncStop(Protocol):
    """An object with an asynchronous wait: an ``asyncio.Event``, for one."""

    async def wait(self) -> Any: ...


async def awatch(
    interval: float | str = 1.0, stop: AsyncStop | None = None, *, warden: Warden | None = None
) -> AsyncIterator[Reading]:
    """Readings of this process, its memory group and the machine, one every ``interval`` seconds.

    Ends when ``stop`` is set, when the task is cancelled, or when the loop over it is left (close it with
    ``contextlib.aclosing`` where it must end at once). Samples are taken on the warden's own thread, which never
    blocks the event loop. With a ``warden`` of your own its readings come; it is started where it does not run, and
    stopped again in the end. A loop that is slower than the readings loses the oldest that wait.
    """
    loop = asyncio.get_running_loop()
    readings: deque[Reading | None] = deque(maxlen=WAITING_READINGS)
    come, called, left = asyncio.Event(), False, False
    watched = Warden(interval=interval) if warden is None else warden
    ours = not watched.running

    def call() -> None:
        nonlocal called
        called = False
        come.set()

    def receive(event: Event) -> None:
        nonlocal called
        if event.kind not in (EventKind.SAMPLE, EventKind.STOP):
            return
        readings.append(event.value if event.kind is EventKind.SAMPLE else None)
        if not called:  # one call for all that wait: a loop that is blocked would pile up the others
            called = True
            try:
                loop.call_soon_threadsafe(call)
            except RuntimeError:  # the loop was closed before this iterator
                end()
                if ours:
                    watched.stop()

    def start() -> None:
        watched.start()
        if left:  # cancelled meanwhile
            watched.stop()

    end = watched.subscribe(receive)
    stopping = None if stop is None else asyncio.ensure_future(stop.wait())
    try:
        if stopping is not None:
            stopping.add_done_callback(lambda _: come.set())
        if ours:
            await asyncio.to_thread(start)
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await come.wait()
            except TimeoutError:
                if not watched.running:
                    return
            come.clear()
            while True:
                if stopping is not None and stopping.done():
                    stopping.result()
                    return
                if not readings:
                    break
                reading = readings.popleft()
                if reading is None:
                    return
                yield reading
    finally:
        left = True
        end()
        if stopping is not None:
            stopping.cancel()
        if ours:
            # Not awaited: a generator that is closed may not wait, and a stop is short.
            watched.stop()
