"""The worker processes of an executor: spawned, received from, stopped and reaped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from memwarden.admission.pool.connection import READY, WorkerConnection
from memwarden.admission.pool.event_loop import EVENT_READ, EVENT_WRITE, EventLoop
from memwarden.admission.pool.worker_handle import WorkerHandle
from memwarden.errors import MemwardenError, ReadError
from memwarden.model.units import MIB
from memwarden.process.signals import KILL

if TYPE_CHECKING:
    from memwarden.admission.pool.connection import ResultItem
    from memwarden.admission.pool.fork_server import ForkServer
    from memwarden.protocols import IdentityProbe

#: Seconds that all workers together have to exit after they were stopped.
EXIT_SECONDS = 10.0


class WorkerPool:
    """All workers, each with its descriptors in the event loop. Used by the manager thread alone.

    ``on_message(handle, item)`` gets each result item; ``on_exit(handle, code)`` each worker that has ended and was
    reaped, with its exit code, a negative signal, or None where it is unknown.
    """

    def __init__(self, spawner: ForkServer, loop: EventLoop, probe: IdentityProbe) -> None:
        self._spawner, self._loop, self._probe = spawner, loop, probe
        self._handles: list[WorkerHandle] = []
        self.on_message: Callable[[WorkerHandle, ResultItem], None] = lambda handle, item: None
        self.on_exit: Callable[[WorkerHandle, int | None], None] = lambda handle, code: None

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[WorkerHandle]:
        return iter(list(self._handles))

    @property
    def idle(self) -> list[WorkerHandle]:
        """Workers that can start a task at once."""
        return [handle for handle in self._handles if handle.idle]

    @property
    def unready(self) -> WorkerHandle | None:
        """A worker that is not ready yet and has no task: the memory for its task was given to another."""
        return next((each for each in self if not each.ready and each.run is None and not each.leaving), None)

    @property
    def running(self) -> list[WorkerHandle]:
        """Workers with a task, as far as their memory can be sampled."""
        return [each for each in self._handles if each.run is not None and each.ready and not each.dying]

    @property
    def staying(self) -> int:
        """Number of workers that will take another task."""
        return sum(not handle.leaving for handle in self._handles)

    @property
    def working(self) -> bool:
        """True if a worker has a task."""
        return any(handle.run is not None for handle in self._handles)

    @property
    def dying(self) -> bool:
        """True if a worker was killed and is not reaped yet."""
        return any(handle.dying for handle in self._handles)

    @property
    def used(self) -> int:
        """Bytes that all workers use."""
        return sum(handle.used for handle in self._handles)

    @property
    def held(self) -> int:
        """Bytes that are not available to others."""
        return sum(handle.held for handle in self._handles)

    @property
    def overreserved(self) -> bool:
        """True if a worker has reserved what it does not use."""
        return any(handle.reserved > handle.used + MIB for handle in self._handles)

    def spawn(self) -> WorkerHandle:
        """Start a worker, which reports when it is ready. Raises OSError."""
        connection, theirs = WorkerConnection.open()
        try:
            self._spawner.start(theirs)
        except BaseException:
            connection.close()
            raise
        finally:
            theirs.close()
        handle = WorkerHandle(connection, self._probe)
        self._handles.append(handle)
        self._loop.register(connection, partial(self._on_connection, handle))
        return handle

    def send(self, handle: WorkerHandle, number: int, payload: bytes) -> None:
        """Send a call item as far as the socket takes it; the loop sends the rest."""
        if not handle.connection.send(number, payload):
            self._loop.modify(handle.connection, EVENT_READ | EVENT_WRITE)

    def _on_connection(self, handle: WorkerHandle, events: int) -> None:
        if events & EVENT_WRITE and handle.connection.flush():
            self._loop.modify(handle.connection, EVENT_READ)
        if events & EVENT_READ:
            self._receive(handle)

    def _on_process_end(self, handle: WorkerHandle, _: int) -> None:
        self._receive(handle, ended=True)

    def _receive(self, handle: WorkerHandle, *, ended: bool = False) -> None:
        for item in handle.connection.read(drain=ended):
            if item.kind == READY:
                with contextlib.suppress(ReadError):  # it has ended again; its connection reports it
                    handle.on_ready(item)
                if handle.pidfd >= 0:
                    self._loop.register(handle.pidfd, partial(self._on_process_end, handle))
            self.on_message(handle, item)
        if not (handle.connection.closed or ended):
            return
        if handle.leaving and not handle.dying and handle.pidfd >= 0 and not ended:
            self._loop.unregister(handle.connection)  # it exits: its process reports the end
        else:
            self._reap(handle)

    def _reap(self, handle: WorkerHandle) -> None:
        """Remove a worker that has ended, and kill its children."""
        if handle not in self._handles:
            return
        self._handles.remove(handle)
        self._loop.unregister(handle.connection)
        if handle.pidfd >= 0:
            self._loop.unregister(handle.pidfd)
        handle.signal(KILL)
        code = self._spawner.reap(handle.pid) if handle.ready else None
        handle.close()
        self.on_exit(handle, code)

    def close_connections(self) -> None:
        """Close a forked child's copies of the connections, so that workers notice the end of the parent."""
        for handle in self:
            handle.connection.close()

    def close(self, *, kill: bool) -> None:
        """Stop all workers, or with ``kill`` kill them, and wait until they have ended."""
        for handle in self:
            with contextlib.suppress(OSError, MemwardenError):
                if kill or handle.run is not None:
                    handle.kill("the executor was shut down")
                elif not handle.leaving:
                    handle.stop()
        until = time.monotonic() + EXIT_SECONDS
        while self._handles and (left := until - time.monotonic()) > 0:
            self._loop.run_once(left)
        for handle in self:
            handle.kill("it did not exit")
            self._reap(handle)
        self._spawner.close()
