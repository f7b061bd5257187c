"""Call items and result items between an executor and its workers: frames on a stream socket.

A frame is a header of fixed size and a payload. The executor's end never blocks, because a stopped worker would block
the sampling of all others; a worker's end blocks.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: To a worker: number of the task (0: exit), length of the payload.
_CALL = struct.Struct("<QQ")
#: From a worker: kind, number, seconds, resident high-water mark, anonymous and other resident bytes, payload length.
_RESULT = struct.Struct("<BQdQQQQ")

#: Kinds of result items: the worker is ready; a result; an error; an error caused by a system call that found no
#: memory; an error of a program that the task started; the worker could not start.
READY, RESULT, ERROR, NO_MEMORY, PROGRAM_FAILED, NOT_STARTED = range(6)
#: Errors of system calls for which the kernel had no memory.
NO_MEMORY_ERRNOS = (errno.ENOMEM, errno.ENOBUFS, errno.EFAULT)
#: Bytes of one read: a large result comes in parts, between samples.
_PART = 1 << 16
#: Larger payloads are sent without a copy.
_COPIED = 65536


class ResultItem(NamedTuple):
    """A message of a worker; ``peak`` is the task's resident high-water mark, 0 where unknown."""

    kind: int
    number: int
    seconds: float
    peak: int
    anonymous: int
    other: int
    payload: bytes


def retry_no_memory(call: Callable[[memoryview], int], data: memoryview) -> int:
    """Repeat ``call(data)`` while the kernel has no memory for it.

    In a version 1 group with its killer off a page fault waits for memory, but a system call fails with nothing done.
    It succeeds after the executor has killed a worker.
    """
    while True:
        try:
            return call(data)
        except OSError as error:
            if error.errno not in NO_MEMORY_ERRNOS:
                raise
            time.sleep(0.01)


def receive(sock: socket.socket, count: int) -> bytearray:
    """Wait for ``count`` bytes. Raises EOFError."""
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        got = retry_no_memory(lambda part: sock.recv_into(part), view[at:])
        if not got:
            raise EOFError
        at += got
    return data


def receive_call(sock: socket.socket) -> tuple[int, bytearray]:
    """Wait for the next call item of a worker: number and payload. Raises EOFError when the executor is gone."""
    number, length = _CALL.unpack(receive(sock, _CALL.size))
    return number, receive(sock, length)


def send_result(sock: socket.socket, item: ResultItem) -> None:
    """Send a result item of a worker."""
    for data in _frame(_RESULT.pack(*item[:6], len(item.payload)), item.payload):
        view = data
        while view:
            view = view[retry_no_memory(sock.send, view) :]


def _frame(head: bytes, payload: bytes) -> list[memoryview]:
    if len(payload) < _COPIED:
        return [memoryview(head + payload)]
    return [memoryview(head), memoryview(payload)]


class WorkerConnection:
    """The executor's end of a connection to a worker; it never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._in = bytearray()
        self._out: deque[memoryview] = deque()
        #: Nothing more will be received.
        self.closed = False

    @classmethod
    def open(cls) -> tuple[WorkerConnection, socket.socket]:
        """Return a new connection and its end for a worker. Raises OSError."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def send(self, number: int, payload: bytes = b"") -> bool:
        """Send a call item as far as the socket takes it; False where :meth:`flush` has to send the rest."""
        self._out += _frame(_CALL.pack(number, len(payload)), payload)
        return self.flush()

    def flush(self) -> bool:
        """Send as much as the socket takes; return whether that was all."""
        try:
            while self._out:
                sent = self._sock.send(self._out[0])
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:  # closed; read() reports it
            self._out.clear()
        return not self._out

    def read(self, *, drain: bool = False) -> list[ResultItem]:
        """Return the items that are complete after one read, or with ``drain`` after reading everything there is."""
        try:
            while True:
                part = self._sock.recv(_PART)
                self._in += part
                self.closed = not part
                if self.closed or not drain:
                    break
        except BlockingIOError:
            pass
        except OSError:  # reset by a killed worker
            self.closed = True
        return list(self._complete())

    def _complete(self) -> Iterator[ResultItem]:
        while len(self._in) >= _RESULT.size:
            kind, number, seconds, peak, anonymous, other, length = _RESULT.unpack_from(self._in)
            end = _RESULT.size + length
            if len(self._in) < end:
                return
            with memoryview(self._in) as view:
                payload = bytes(view[_RESULT.size : end])
            del self._in[:end]
            yield ResultItem(kind, number, seconds, peak, anonymous, other, payload)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._sock.close()
