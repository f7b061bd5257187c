"""Start of worker processes, by a child without threads, the fork server.

The thread that submits the first task starts it: a fork in the manager thread, beside threads that hold locks, may
deadlock the child. The fork server is the workers' parent. When the program ends, however it ends, the fork server
kills the workers and their children.

With ``spawn`` and ``forkserver`` the server itself is started so; it spawns the workers, or forks them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from memwarden.admission.pool.worker import WorkerConfig, work
from memwarden.errors import ActionFailed, ReadError
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.process.process_tree import ProcessTree
from memwarden.process.signals import KILL
from memwarden.readers.linux.identity import ProcProbe

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

#: A request or reply of the fork server: what, and a pid or an exit code.
_MESSAGE = struct.Struct("<cq")
_START, _REAP, _EXIT_CODE, _UNKNOWN = b"s", b"r", b"c", b"?"


class ForkServer:
    """Starts and reaps workers."""

    def __init__(self, context: BaseContext | None, config: WorkerConfig) -> None:
        """``context`` as of ``ProcessPoolExecutor``. Call it in the thread that submits."""
        if context is None:
            from multiprocessing import get_context

            context = get_context()
        maker: Any = context
        method = context.get_start_method()
        self._control, theirs = socket.socketpair()
        inherited = self._control if method == "fork" else None
        self._process: BaseProcess = maker.Process(
            target=_serve, args=(theirs, inherited, method, config), name="memwarden-fork-server"
        )
        self._process.start()
        theirs.close()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Close a forked child's copy of the connection: with it the server would not notice the program's end."""
        self._control.close()

    def start(self, sock: socket.socket) -> None:
        """Start a worker at a copy of this socket; it reports when it is ready. Raises OSError."""
        socket.send_fds(self._control, [_MESSAGE.pack(_START, 0)], [sock.fileno()])

    def reap(self, pid: int) -> int | None:
        """Wait for a worker and return its exit code, a negative signal, or None where it is unknown."""
        try:
            self._control.sendall(_MESSAGE.pack(_REAP, pid))
            data = self._control.recv(_MESSAGE.size, socket.MSG_WAITALL)
        except OSError:
            return None
        if len(data) < _MESSAGE.size:
            return None
        kind, code = _MESSAGE.unpack(data)
        return code if kind == _EXIT_CODE else None

    def close(self) -> None:
        """End the server; it kills what is left."""
        self._control.close()
        self._process.join()


def _serve(control: socket.socket, theirs: socket.socket | None, method: str, config: WorkerConfig) -> None:
    """Run the fork server. A worker is waited for only on request, so that its pid stays its own until then."""
    if theirs is not None:
        theirs.close()  # else the end of the program would not be noticed
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = config._replace(parent=os.getpid())
    from multiprocessing import get_context

    maker: Any = get_context("spawn" if method == "spawn" else "fork")
    inherited = None if method == "spawn" else control
    children: dict[int, BaseProcess] = {}
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, _MESSAGE.size, 1)
            if not data:
                break
            while len(data) < _MESSAGE.size:
                data += control.recv(_MESSAGE.size - len(data))
        except OSError:
            break
        kind, pid = _MESSAGE.unpack(data)
        if kind == _START:
            with socket.socket(fileno=descriptors[0]) as sock, contextlib.suppress(OSError):
                # Where no process can be started the socket closes, which reports it.
                child: BaseProcess = maker.Process(
                    target=_run_worker, args=(sock, inherited, config), name="memwarden-worker"
                )
                child.start()
                assert child.pid is not None
                children[child.pid] = child
        elif (known := children.pop(pid, None)) is not None:
            known.join()
            control.sendall(_MESSAGE.pack(_EXIT_CODE, known.exitcode or 0))
        else:
            control.sendall(_MESSAGE.pack(_UNKNOWN, 0))
    _kill_trees(children)
    os._exit(0)  # the interpreter's own exit would wait for them


def _run_worker(sock: socket.socket, control: socket.socket | None, config: WorkerConfig) -> None:
    if control is not None:
        control.close()
    work(sock, config)


def _kill_trees(pids: Iterable[int]) -> None:
    """Kill children of this process and their children. They were not waited for, so no pid was reused."""
    probe = ProcProbe()
    for pid in pids:
        with contextlib.suppress(ActionFailed, ReadError, OSError):
            tree = ProcessTree(probe.key_of(pid), probe)
            tree.signal(KILL, tree.members)
