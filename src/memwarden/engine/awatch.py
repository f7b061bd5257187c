"""Watching from asyncio, in a module of its own: asyncio costs 40 ms and 10 MiB, and most programs do without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from memwarden.engine.warden import Warden
from memwarden.model.events import Event, EventKind
from memwarden.model.findings import Reading

#: Readings that wait for a slow loop at most; then the oldest is dropped.
WAITING_READINGS = 256


class AsyncStop(Protocol):
    """Something that can be waited for: an ``asyncio.Event``, for one."""

    async def wait(self) -> Any: ...


async def awatch(
    interval: float | str = 1.0, stop: AsyncStop | None = None, *, warden: Warden | None = None
) -> AsyncIterator[Reading]:
    """Readings of this process, its memory group and the machine, one every ``interval`` seconds.

    Ends when ``stop`` is set, when the task is cancelled, or when the loop over it is left (close it with
    ``contextlib.aclosing`` where it must end at once). Looking happens on the warden's own thread and never blocks
    the event loop. With a ``warden`` of one's own its readings come; it is started where it does not run, and
    stopped again in the end. A loop that is slower than the readings loses the oldest that wait.
    """
    loop = asyncio.get_running_loop()
    readings: asyncio.Queue[Reading | None] = asyncio.Queue()
    watched = Warden(interval=interval) if warden is None else warden

    def put(reading: Reading | None) -> None:
        if readings.qsize() >= WAITING_READINGS:
            readings.get_nowait()
        readings.put_nowait(reading)

    def receive(event: Event) -> None:
        if event.kind in (EventKind.SAMPLE, EventKind.STOP):
            with suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(put, event.value if event.kind is EventKind.SAMPLE else None)

    end = watched.subscribe(receive)
    ours = not watched.running
    stopping = None if stop is None else asyncio.ensure_future(stop.wait())
    try:
        if ours:
            await asyncio.to_thread(watched.start)
        while True:
            getting = asyncio.ensure_future(readings.get())
            waiting: Sequence[asyncio.Future[Any]] = [getting] if stopping is None else [getting, stopping]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
            if stopping is not None and stopping.done():
                return
            reading = getting.result()
            if reading is None:
                return
            yield reading
    finally:
        end()
        if stopping is not None:
            stopping.cancel()
        if ours:
            # Not awaited: a generator that is closed may not wait, and a stop is short.
            watched.stop()
