"""Where workers come from.

With ``fork``, from a process of its own that was forked once, in the thread that submitted the first task, and has no
other thread: to fork from the supervising thread, beside threads that hold locks, may deadlock the child. It also
watches: when the program is gone, however it ended, it ends the workers and what they started.

With ``spawn`` and ``forkserver`` from :mod:`multiprocessing` directly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from memwarden.admission.worker import Orders, work

_WORD = struct.Struct("<cq")


class Nursery(Protocol):
    """Starts workers and learns how they ended."""

    def start(self) -> socket.socket:
        """Begin a worker; returns the socket on which it will say that it is ready. Raises OSError."""
        ...

    def bury(self, pid: int) -> int | None:
        """How the worker that has ended did: its exit code, or a negative signal. None: nobody knows."""
        ...

    def close(self) -> None:
        """When no worker is left."""
        ...


def nursery(context: BaseContext | None, orders: Orders) -> Nursery:
    """The one for this context (None: the usual of this Python). To be called in the thread that begins the work."""
    if context is None:
        context = get_context()
    if context.get_start_method() == "fork":
        return _ForkNursery(context, orders)
    return _DirectNursery(context, orders)


class _DirectNursery:
    """``spawn`` and ``forkserver``."""

    def __init__(self, context: BaseContext, orders: Orders) -> None:
        self._context: Any = context
        starter = os.getpid() if context.get_start_method() == "spawn" else 0
        self._orders = orders._replace(starter=starter)
        self._processes: dict[int, BaseProcess] = {}

    def start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            process = self._context.Process(target=work, args=(theirs, self._orders), name="memwarden-worker")
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._processes[process.pid] = process
        return ours

    def bury(self, pid: int) -> int | None:
        process = self._processes.pop(pid, None)
        if process is None:
            return None
        process.join()
        code = process.exitcode
        process.close()
        return code

    def close(self) -> None:
        for process in self._processes.values():
            process.join()
        self._processes.clear()


class _ForkNursery:
    """``fork``: workers are children of a child without threads."""

    def __init__(self, context: BaseContext, orders: Orders) -> None:
        self._control, theirs = socket.socketpair()
        maker: Any = context
        self._process: BaseProcess = maker.Process(
            target=_nurse, args=(theirs, self._control, orders, os.getpid()), name="memwarden-nursery"
        )
        self._process.start()
        theirs.close()

    def start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [_WORD.pack(b"s", 0)], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def bury(self, pid: int) -> int | None:
        try:
            self._control.sendall(_WORD.pack(b"b", pid))
            data = self._control.recv(_WORD.size, socket.MSG_WAITALL)
        except OSError:
            return None
        if len(data) < _WORD.size:
            return None
        known, code = _WORD.unpack(data)
        return code if known == b"c" else None

    def close(self) -> None:
        self._control.close()
        self._process.join()


def _nurse(control: socket.socket, theirs: socket.socket, orders: Orders, program: int) -> None:
    """The nursery's own life. Its only thread is this one, so workers may be forked, and die with it."""
    theirs.close()  # else its end would never come
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = orders._replace(starter=os.getpid())
    context = get_context("fork")
    children: dict[int, BaseProcess] = {}
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, _WORD.size, 1)
            if not data:
                break
            while len(data) < _WORD.size:
                data += control.recv(_WORD.size - len(data))
        except OSError:
            break
        word, pid = _WORD.unpack(data)
        if word == b"s":
            sock = socket.socket(fileno=descriptors[0])
            child = context.Process(target=_begin, args=(sock, control, orders), name="memwarden-worker")
            with contextlib.suppress(OSError):  # no more processes: the socket closes, which says it
                child.start()
                assert child.pid is not None
                children[child.pid] = child
            sock.close()
        elif (known := children.pop(pid, None)) is not None:
            known.join()
            control.sendall(_WORD.pack(b"c", known.exitcode or 0))
        else:
            control.sendall(_WORD.pack(b"?", 0))
    _end(list(children))


def _begin(sock: socket.socket, control: socket.socket, orders: Orders) -> None:
    control.close()
    work(sock, orders)


def _end(pids: list[int]) -> None:
    """The program is gone, or has no more use for them: the workers end, with all that they started.

    They are children of this process and not waited for yet, so that their numbers are theirs.
    """
    from memwarden.actions.family import Family
    from memwarden.actions.signals import KILL
    from memwarden.errors import ActionFailed, ReadError
    from memwarden.readers.identity import ProcProbe

    probe = ProcProbe()
    for pid in pids:
        with contextlib.suppress(ActionFailed, ReadError, OSError):
            family = Family(probe.key_of(pid), probe)
            family.signal(KILL, family.members)
    os._exit(0)  # not Python's own end, which would wait for them
