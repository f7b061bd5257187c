"""Main function of a worker process: one task after the other, each with its exact peak.

The resident high-water mark is reset before each task (``clear_refs``, Linux 4.0) and read after it, together some
20 µs. So peaks between two samples from outside are known; ``ru_maxrss`` would be that of the worker's whole life.
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
    NO_MEMORY_ERRNOS,
    NOT_STARTED,
    PROGRAM_FAILED,
    READY,
    RESULT,
    ResultItem,
    receive_call,
    retry_no_memory,
    send_result,
)
from memwarden.process.death_signal import die_with_parent

#: A kernel that must kill takes a worker before other processes, because its task can be requeued (0 is usual, 1000
#: the most; raising one's own needs no privilege).
OOM_SCORE = 500
#: Length to which a chain of errors is followed; a hand-made one may be a cycle.
_LONGEST_CHAIN = 32


class WorkerConfig(NamedTuple):
    """Configuration of a worker."""

    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    #: ``cgroup.procs`` files of the groups that it joins once it is ready.
    cgroup_procs: Sequence[str]
    #: Bytes kept after a task from which freed memory is returned to the system.
    trim: int
    #: Pid of the process that starts it and with which it dies; 0: none.
    parent: int


def work(sock: socket.socket, config: WorkerConfig) -> None:
    """Run tasks until the executor stops this worker or is gone."""
    _prepare(config.parent)
    try:
        if config.initializer is not None:
            config.initializer(*config.initargs)
        memory = _OwnMemory()  # before there may be no memory for it
        for procs in config.cgroup_procs:
            with open(procs, "wb", buffering=0) as file:
                retry_no_memory(file.write, memoryview(b"0"))
    except BaseException as error:  # noqa: BLE001 - reported to the executor, which breaks
        _send(sock, ResultItem(NOT_STARTED, 0, 0.0, 0, 0, 0, pickle_error(error)))
        return
    _send(sock, ResultItem(READY, os.getpid(), 0.0, 0, *memory.read()[1:], b""))
    base = memory.anonymous
    while True:
        try:
            number, payload = receive_call(sock)
        except (EOFError, OSError):
            return
        if not number:
            return
        memory.reset_peak()
        started = time.perf_counter()
        kind, result = _call(payload)
        seconds = time.perf_counter() - started
        del payload
        peak, anonymous, other = memory.read()
        if not _send(sock, ResultItem(kind, number, seconds, peak, anonymous, other, result)):
            return
        del result
        if anonymous > base + config.trim:
            _trim()


def _call(payload: bytearray) -> tuple[int, bytes]:
    try:
        function, args, kwargs = pickle.loads(payload)
        payload.clear()
        return RESULT, pickle.dumps(function(*args, **kwargs), protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 - raised by the future
        return error_kind(error), pickle_error(error)


def error_kind(error: BaseException | None) -> int:
    """Return whether memory may be the cause of an error: a system call that found none, or a failed program."""
    subprocess = sys.modules.get("subprocess")
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            break
        if isinstance(error, OSError) and error.errno in NO_MEMORY_ERRNOS:
            return NO_MEMORY
        if subprocess is not None and isinstance(error, subprocess.CalledProcessError):
            return PROGRAM_FAILED
        error = error.__cause__ or error.__context__
    return ERROR


def pickle_error(error: BaseException) -> bytes:
    """Return an exception and its traceback as text, pickled; a PicklingError for one that cannot be pickled."""
    lines = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as trouble:  # noqa: BLE001 - any __reduce__ may run
        message = f"the task raised {_describe(error)}, which cannot be pickled ({_describe(trouble)})"
        pickled = pickle.dumps(pickle.PicklingError(message))
    return pickle.dumps((pickled, lines))


def _describe(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()  # also where str(error) raises


def _send(sock: socket.socket, item: ResultItem) -> bool:
    try:
        send_result(sock, item)
    except OSError:
        return False
    return True


def _prepare(parent: int) -> None:
    """Start a session, so that no Ctrl-C of a terminal arrives and the worker is stopped with its children."""
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) < OOM_SCORE:
            file.write(b"%d" % OOM_SCORE)
    if parent:
        die_with_parent(parent)


def _trim() -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


class _OwnMemory:
    """This process's resident high-water mark and memory, by descriptors that stay open."""

    def __init__(self) -> None:
        self._status = self._clear = -1
        self.anonymous, self._text = 0, bytearray(4096)
        with contextlib.suppress(OSError):
            self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
            self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)

    def reset_peak(self) -> None:
        """Set the high-water mark to the resident bytes of now."""
        if self._clear >= 0:
            try:
                retry_no_memory(lambda part: os.write(self._clear, part), memoryview(b"5"))
            except OSError:
                os.close(self._clear)
                self._clear = -1

    def read(self) -> tuple[int, int, int]:
        """Return the high-water mark (0: unknown), anonymous bytes and other resident bytes."""
        if self._status < 0:
            return 0, 0, 0
        retry_no_memory(lambda part: os.preadv(self._status, [part], 0), memoryview(self._text))
        at = self._text.find(b"VmHWM:")
        if at < 0:
            return 0, 0, 0
        fields = bytes(
            self._text[at : at + 160]
        ).split()  # VmHWM: N kB VmRSS: N kB RssAnon: N kB RssFile: N kB RssShmem: N kB
        peak, self.anonymous, file, shared = (int(fields[each]) << 10 for each in (1, 7, 10, 13))
        return peak if self._clear >= 0 else 0, self.anonymous, file + shared
