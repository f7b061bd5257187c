"""Start of worker processes.

With ``fork``, by a process that was forked once in the thread that submitted the first task: a fork in the manager
thread, beside threads that hold locks, may deadlock the child. The fork server has one thread. When the program ends,
however it ends, the fork server kills the workers and their children.

With ``spawn`` and ``forkserver`` by :mod:`multiprocessing`; there a small shell waits for the program's end.
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
from memwarden.process.watchdog import Watchdog
from memwarden.readers.linux.identity import ProcProbe

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

#: A request or reply of the fork server: what, and a pid or an exit code.
_MESSAGE = struct.Struct("<cq")
_START, _REAP, _EXIT_CODE, _UNKNOWN = b"s", b"r", b"c", b"?"


def create_spawner(context: BaseContext | None, config: WorkerConfig) -> DirectSpawner | ForkServer:
    """Return the spawner of a context (None: the default of this Python). Call it in the thread that submits."""
    if context is None:
        from multiprocessing import get_context

        context = get_context()
    if context.get_start_method() == "fork":
        return ForkServer(context, config)
    return DirectSpawner(context, config)


#: Kill the workers (``$words``: PID:START words), all processes in their sessions (the kernel gives no new process the
#: number of a session in use), and the children of those.
_KILL_TREES = """
read_stat() {
    line=
    while read -r part; do line="$line$part "; done 2>/dev/null <"$1/stat"
    numbers=${line##*) }
}
all=; more=' '; sessions=' '
for key in $words; do
    pid=${key%:*}
    read_stat "/proc/$pid"
    set -- $numbers
    [ $# -eq 0 ] || { [ "${20}" = "${key#*:}" ] && more="$more$pid "; } || continue
    sessions="$sessions$pid "
done
while [ "$all" != "$more" ]; do
    all=$more
    for folder in /proc/[0-9]*; do
        read_stat "$folder"
        set -- $numbers
        [ $# -gt 20 ] || continue
        case "$sessions,$all" in *" $4 "*|*" $2 "*) pid=${folder#/proc/} ;; *) continue ;; esac
        case $more in *" $pid "*) ;; *) more="$more$pid " ;; esac
    done
done
for pid in $all; do kill -9 $pid; done
"""


class DirectSpawner:
    """Starts workers by ``spawn`` or ``forkserver``."""

    def __init__(self, context: BaseContext, config: WorkerConfig) -> None:
        self._context: Any = context
        self._config = config
        self._processes: dict[int, BaseProcess] = {}
        self._watchdog, self._watched = Watchdog(_KILL_TREES), dict[int, str]()

    def start(self, sock: socket.socket) -> None:
        """Start a worker at a copy of this socket; it reports when it is ready. Raises OSError."""
        process = self._context.Process(target=work, args=(sock, self._config), name="memwarden-worker")
        process.start()
        self._processes[process.pid] = process
        with contextlib.suppress(ReadError):
            self._watched[process.pid] = word = "{}:{}".format(*ProcProbe().key_of(process.pid))
            self._watchdog.send(word)

    def reap(self, pid: int) -> int | None:
        """Wait for a worker and return its exit code, a negative signal, or None where it is unknown."""
        process = self._processes.pop(pid, None)
        if process is None:
            return None
        process.join()
        code = process.exitcode
        process.close()
        if (word := self._watched.pop(pid, None)) is not None:
            self._watchdog.send(f"-{word}")
        return code

    def close(self) -> None:
        """End; no worker is left."""
        _kill_trees(self._processes)  # never ready
        for pid in list(self._processes):
            self.reap(pid)
        self._watchdog.dismiss()


class ForkServer:
    """Starts workers by ``fork`` in a child without threads."""

    def __init__(self, context: BaseContext, config: WorkerConfig) -> None:
        self._control, theirs = socket.socketpair()
        maker: Any = context
        self._process: BaseProcess = maker.Process(
            target=_serve, args=(theirs, self._control, config), name="memwarden-fork-server"
        )
        self._process.start()
        theirs.close()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Close a forked child's copy of the connection: with it the server would not notice the program's end."""
        self._control.close()

    def start(self, sock: socket.socket) -> None:
        socket.send_fds(self._control, [_MESSAGE.pack(_START, 0)], [sock.fileno()])

    def reap(self, pid: int) -> int | None:
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
        self._control.close()
        self._process.join()


def _serve(control: socket.socket, theirs: socket.socket, config: WorkerConfig) -> None:
    """Run the fork server. A worker is waited for only on request, so that its pid stays its own until then."""
    theirs.close()  # else the end of the program would not be noticed
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = config._replace(parent=os.getpid())
    from multiprocessing import get_context

    context = get_context("fork")
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
                child = context.Process(target=_run_worker, args=(sock, control, config), name="memwarden-worker")
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


def _run_worker(sock: socket.socket, control: socket.socket, config: WorkerConfig) -> None:
    control.close()
    work(sock, config)


def _kill_trees(pids: Iterable[int]) -> None:
    """Kill children of this process and their children. They were not waited for, so no pid was reused."""
    probe = ProcProbe()
    for pid in pids:
        with contextlib.suppress(ActionFailed, ReadError, OSError):
            tree = ProcessTree(probe.key_of(pid), probe)
            tree.signal(KILL, tree.members)
