"""Where workers come from.

With ``fork``, from a process of its own that was forked once, in the thread that submitted the first task, and has no
other thread: to fork from the supervising thread, beside threads that hold locks, may deadlock the child. It also
watches: when the program is gone, however it ended, it ends the workers and what they started.

With ``spawn`` and ``forkserver`` from :mod:`multiprocessing` directly; a small shell waits there for the program's end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from memwarden.admission.pool.connection import Ends
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

_WORD = struct.Struct("<cq")


class Spawner(Protocol):
    """Starts workers and learns how they ended."""

    def start(self, ends: Ends) -> None:
        """Begin a worker at these ends, of which it gets copies; it will say that it is ready. Raises OSError."""
        ...

    def bury(self, pid: int) -> int | None:
        """How the worker that has ended did: its exit code, or a negative signal. None: nobody knows."""
        ...

    def close(self) -> None:
        """When no worker is left."""
        ...


def spawner(context: BaseContext | None, orders: WorkerConfig) -> Spawner:
    """The one for this context (None: the usual of this Python). To be called in the thread that begins the work."""
    if context is None:
        from multiprocessing import get_context

        context = get_context()
    if context.get_start_method() == "fork":
        return _ForkServer(context, orders)
    return _DirectSpawner(context, orders)


#: The program is gone: SIGKILL to the workers, told as PID:START, to who is in their sessions (a number that leads one
#: is not given out again while anybody is in it), and to what those have started.
_END_FAMILIES = """
look() {
    line=
    while read -r part; do line="$line$part "; done 2>/dev/null <"$1/stat"
    numbers=${line##*) }
}
all=; more=' '; sessions=' '
for key in $told; do
    pid=${key%:*}
    look "/proc/$pid"
    set -- $numbers
    [ $# -eq 0 ] || { [ "${20}" = "${key#*:}" ] && more="$more$pid "; } || continue
    sessions="$sessions$pid "
done
while [ "$all" != "$more" ]; do
    all=$more
    for folder in /proc/[0-9]*; do
        look "$folder"
        set -- $numbers
        [ $# -gt 20 ] || continue
        case "$sessions,$all" in *" $4 "*|*" $2 "*) pid=${folder#/proc/} ;; *) continue ;; esac
        case $more in *" $pid "*) ;; *) more="$more$pid " ;; esac
    done
done
for pid in $all; do kill -9 $pid; done
"""


class _DirectSpawner:
    """``spawn`` and ``forkserver``."""

    def __init__(self, context: BaseContext, orders: WorkerConfig) -> None:
        self._context: Any = context
        self._orders = orders
        self._processes: dict[int, BaseProcess] = {}
        self._sentinel, self._told = Watchdog(_END_FAMILIES), dict[int, str]()

    def start(self, ends: Ends) -> None:
        process = self._context.Process(target=work, args=(ends, self._orders), name="memwarden-worker")
        process.start()
        self._processes[process.pid] = process
        with contextlib.suppress(ReadError):
            self._told[process.pid] = word = "{}:{}".format(*ProcProbe().key_of(process.pid))
            self._sentinel.tell(word)

    def bury(self, pid: int) -> int | None:
        process = self._processes.pop(pid, None)
        if process is None:
            return None
        process.join()
        code = process.exitcode
        process.close()
        if (word := self._told.pop(pid, None)) is not None:
            self._sentinel.tell(f"-{word}")
        return code

    def close(self) -> None:
        _kill(self._processes)  # they were never ready
        for pid in list(self._processes):
            self.bury(pid)
        self._sentinel.dismiss()


class _ForkServer:
    """``fork``: workers are children of a child without threads."""

    def __init__(self, context: BaseContext, orders: WorkerConfig) -> None:
        self._control, theirs = socket.socketpair()
        maker: Any = context
        self._process: BaseProcess = maker.Process(
            target=_nurse, args=(theirs, self._control, orders, os.getpid()), name="memwarden-nursery"
        )
        self._process.start()
        theirs.close()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """In a child of the program: with a copy of the connection the nursery would not notice the program's end."""
        self._control.close()

    def start(self, ends: Ends) -> None:
        socket.send_fds(self._control, [_WORD.pack(b"s", 0)], [each.fileno() for each in ends])

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


def _nurse(control: socket.socket, theirs: socket.socket, orders: WorkerConfig, program: int) -> None:
    """The nursery's own life. Its only thread is this one, so workers may be forked, and die with it."""
    theirs.close()  # else its end would never come
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = orders._replace(starter=os.getpid())
    from multiprocessing import get_context

    context = get_context("fork")
    children: dict[int, BaseProcess] = {}
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, _WORD.size, 2)
            if not data:
                break
            while len(data) < _WORD.size:
                data += control.recv(_WORD.size - len(data))
        except OSError:
            break
        word, pid = _WORD.unpack(data)
        if word == b"s":
            ends = Ends(*(socket.socket(fileno=each) for each in descriptors))
            child = context.Process(target=_begin, args=(ends, control, orders), name="memwarden-worker")
            with contextlib.suppress(OSError):  # no more processes: the socket closes, which says it
                child.start()
                assert child.pid is not None
                children[child.pid] = child
            ends.close()
        elif (known := children.pop(pid, None)) is not None:
            known.join()
            control.sendall(_WORD.pack(b"c", known.exitcode or 0))
        else:
            control.sendall(_WORD.pack(b"?", 0))
    _end(list(children))


def _begin(ends: Ends, control: socket.socket, orders: WorkerConfig) -> None:
    control.close()
    work(ends, orders)


def _end(pids: list[int]) -> None:
    """The program is gone, or has no more use for them: the workers end, with all that they started."""
    _kill(pids)
    os._exit(0)  # not Python's own end, which would wait for them


def _kill(pids: Iterable[int]) -> None:
    """These are children of this process and not waited for yet, so that their numbers are theirs."""
    probe = ProcProbe()
    for pid in pids:
        with contextlib.suppress(ActionFailed, ReadError, OSError):
            family = ProcessTree(probe.key_of(pid), probe)
            family.signal(KILL, family.members)
