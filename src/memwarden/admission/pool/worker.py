"""What runs in a worker process: one task after the other, each with its own exact peak.

The resident high-water mark is set back before each task (``clear_refs``, Linux 4.0) and read after it, some 20 µs
together. So a peak between two looks from outside is seen, too; this process's ``ru_maxrss`` says less than it did in
its whole life.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memwarden.admission.pool.connection import (
    ERROR,
    NO_MEMORY,
    PROGRAM,
    READY,
    REFUSED,
    RESULT,
    UNFIT,
    Answer,
    Ends,
    answer,
    insist,
    next_task,
)
from memwarden.process.death_signal import die_with_parent

#: A kernel that must kill takes a worker, whose task can be put back, before anything that was not told to be preferred
#: (0 is usual, 1000 the most; raising one's own needs no privilege).
OOM_SCORE = 500
#: A chain of errors is followed so far; a hand-made one may be a ring.
_LONGEST_CHAIN = 32


class WorkerConfig(NamedTuple):
    """How a worker is to begin."""

    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    #: ``cgroup.procs`` files of the groups that it joins once it is ready.
    joins: Sequence[str]
    #: Its worker's memory is given back to the system after a task that left more than so many bytes.
    trim: int
    #: The process that starts it, as it sees itself; when that is gone, nobody needs this one.
    starter: int


def work(ends: Ends, orders: WorkerConfig) -> None:
    """Do what comes, until told to end or nobody is there any more."""
    _settle(orders.starter)
    sock = ends.sock
    try:
        if orders.initializer is not None:
            orders.initializer(*orders.initargs)
        marks = _Marks()  # before it may lack memory
        for procs in orders.joins:
            with open(procs, "wb", buffering=0) as file:
                insist(file.write, memoryview(b"0"))
    except BaseException as error:  # noqa: BLE001 - told to the executor, which ends
        _say(sock, Answer(UNFIT, 0, 0.0, 0, 0, 0, failure(error)))
        return
    _say(sock, Answer(READY, os.getpid(), 0.0, 0, *marks.read()[1:], b""))
    base = marks.anonymous
    while True:
        try:
            number, payload = next_task(ends)
        except (EOFError, OSError):
            return
        if not number:
            return
        marks.reset()
        begun = time.perf_counter()
        what, said = _do(payload)
        seconds = time.perf_counter() - begun
        del payload
        peak, anonymous, other = marks.read()
        if not _say(sock, Answer(what, number, seconds, peak, anonymous, other, said)):
            return
        del said
        if anonymous > base + orders.trim:
            _trim()


def _do(payload: bytearray) -> tuple[int, bytes]:
    try:
        function, args, kwargs = pickle.loads(payload)
        payload.clear()
        return RESULT, pickle.dumps(function(*args, **kwargs), protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        return _what(error), failure(error)


def _what(error: BaseException | None) -> int:
    """Whether memory may be behind an error: a system call that found none, or a program that failed."""
    programs = sys.modules.get("subprocess")
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            break
        if isinstance(error, OSError) and error.errno in NO_MEMORY:
            return REFUSED
        if programs is not None and isinstance(error, programs.CalledProcessError):
            return PROGRAM
        error = error.__cause__ or error.__context__
    return ERROR


def failure(error: BaseException) -> bytes:
    """An exception and its traceback as text, pickled; one that cannot be pickled is told of."""
    lines = "".join(traceback.format_exception(error))
    try:
        whole = pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as trouble:  # noqa: BLE001 - any __reduce__ may run
        words = f"the task raised {_said(error)}, which cannot be pickled ({_said(trouble)})"
        whole = pickle.dumps(pickle.PicklingError(words))
    return pickle.dumps((whole, lines))


def _said(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()  # also of one that cannot be put into words


def _say(sock: socket.socket, said: Answer) -> bool:
    try:
        answer(sock, said)
    except OSError:
        return False
    return True


def _settle(starter: int) -> None:
    """A session of its own, so that it can be stopped with what it starts, and no Ctrl-C of a terminal gets here."""
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) < OOM_SCORE:
            file.write(b"%d" % OOM_SCORE)
    if starter:
        die_with_parent(starter)


def _trim() -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


class _Marks:
    """This process's resident high-water mark and what it holds, by kept descriptors."""

    def __init__(self) -> None:
        self._status = self._clear = -1
        self.anonymous = 0
        with contextlib.suppress(OSError):
            self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
            self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)

    def reset(self) -> None:
        """The mark falls to what is resident now."""
        if self._clear >= 0:
            try:
                insist(lambda part: os.write(self._clear, part), memoryview(b"5"))
            except OSError:
                os.close(self._clear)
                self._clear = -1

    def read(self) -> tuple[int, int, int]:
        """High-water mark (0: unknown), anonymous bytes, other resident bytes."""
        if self._status < 0:
            return 0, 0, 0
        text = bytearray(4096)
        insist(lambda part: os.preadv(self._status, [part], 0), memoryview(text))
        at = text.find(b"VmHWM:")
        if at < 0:
            return 0, 0, 0
        fields = text[at:].split(None, 15)  # VmHWM: N kB VmRSS: N kB RssAnon: N kB RssFile: N kB RssShmem: N kB
        peak, self.anonymous, file, shared = (int(fields[each]) << 10 for each in (1, 7, 10, 13))
        return peak if self._clear >= 0 else 0, self.anonymous, file + shared
