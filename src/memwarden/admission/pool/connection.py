"""What an executor and its workers say to each other: frames on a stream socket.

A frame is a header of fixed size and a payload. The executor's side never blocks: a worker that is stopped, or slow
to read, would else stop the looking. A worker's side blocks, because it has nothing else to do.

Whose turn it is stands on a second socket, a task's number in each message. The worker takes the next one when it is
done; until then the executor can take it back, since it kept a copy of the worker's end. One read takes one message, so
a task is begun by the worker or belongs to the executor again, and never both.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

#: To a worker: the task's number (0: end) and the payload's length.
_TASK = struct.Struct("<QQ")
_TURN = struct.Struct("<Q")
#: From a worker: what, the task's number, seconds, the resident high-water mark, anonymous and other resident bytes,
#: and the payload's length.
_ANSWER = struct.Struct("<BQdQQQQ")

#: What a worker says: that it is ready, a result, an error; one behind which a system call is that found no memory, one
#: of a program that the task started and that failed; or that it could not begin.
READY, RESULT, ERROR, REFUSED, PROGRAM, UNFIT = range(6)
#: What a system call fails with that the kernel had no memory for.
NO_MEMORY = (errno.ENOMEM, errno.ENOBUFS, errno.EFAULT)
#: Read at once: a large result comes in parts, between looks.
_PART = 1 << 20


class Answer(NamedTuple):
    """What a worker said. ``peak`` is the resident high-water mark of the task, 0 where it is not known."""

    what: int
    number: int
    seconds: float
    peak: int
    anonymous: int
    other: int
    payload: bytes


class Ends(NamedTuple):
    """A worker's ends of a connection."""

    sock: socket.socket
    turns: socket.socket

    def close(self) -> None:
        """Give both back."""
        self.sock.close()
        self.turns.close()


def receive(sock: socket.socket, count: int) -> bytearray:
    """So many bytes, waiting for them. Raises EOFError."""
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        got = insist(lambda part: sock.recv_into(part), view[at : at + _PART])
        if not got:
            raise EOFError
        at += got
    return data


def next_task(ends: Ends) -> tuple[int, bytearray]:
    """A worker waits for what it is to do. Raises EOFError when the executor is gone."""
    turn = bytearray(_TURN.size)
    if not insist(lambda part: ends.turns.recv_into(part), memoryview(turn)):
        raise EOFError
    (wanted,) = _TURN.unpack(turn)
    while True:
        number, length = _TASK.unpack(receive(ends.sock, _TASK.size))
        payload = receive(ends.sock, length)
        if number == wanted:
            return number, payload
        # Its turn was taken back: somebody else does it.


def answer(sock: socket.socket, said: Answer) -> None:
    """A worker says something."""
    payload = said.payload
    head = _ANSWER.pack(*said[:6], len(payload))
    for data in (head + payload,) if len(payload) < 65536 else (head, payload):
        view = memoryview(data)
        while view:
            view = view[insist(sock.send, view) :]


def insist(call: Callable[[memoryview], int], data: memoryview) -> int:
    """``call(data)``, again and again where the kernel has no memory for it.

    In a group of version 1 whose killer is off a page fault waits for memory, but a system call that needs some fails,
    with nothing done. That passes: whoever watches the group ends somebody.
    """
    while True:
        try:
            return call(data)
        except OSError as error:
            if error.errno not in NO_MEMORY:
                raise
            time.sleep(0.01)


class WorkerConnection:
    """The executor's end of a connection; it never blocks."""

    def __init__(self, sock: socket.socket, turns: socket.socket, given: socket.socket) -> None:
        for each in (sock, turns):
            each.setblocking(False)
        #: Ours, and a copy of the worker's end of the turns.
        self._sock, self._turns, self._given = sock, turns, given
        self._head = b""
        self._payload = bytearray()
        self._wanted = 0
        self._out: deque[memoryview] = deque()
        self.ended = False

    @classmethod
    def open(cls) -> tuple[WorkerConnection, Ends]:
        """A new connection, and its ends for a worker. Raises OSError."""
        with contextlib.ExitStack() as opened:
            ours, theirs = map(opened.enter_context, socket.socketpair())
            turns, given = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            ends = Ends(theirs, given.dup())
            opened.pop_all()
        return cls(ours, turns, given), ends

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    @property
    def full(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    def send(self, number: int, payload: bytes = b"") -> None:
        """Send as much as goes now, and the rest when :meth:`flush` is called."""
        head = _TASK.pack(number, len(payload))
        if len(payload) < 65536:
            self._out.append(memoryview(head + payload))
        else:
            self._out += (memoryview(head), memoryview(payload))
        with contextlib.suppress(OSError):  # it is gone; reading will say so
            self._turns.send(_TURN.pack(number))
        self.flush()

    def take_back(self) -> list[int]:
        """The numbers of those tasks that were sent and have not begun; now they never will."""
        numbers: list[int] = []
        with contextlib.suppress(OSError):
            while turn := self._given.recv(_TURN.size, socket.MSG_DONTWAIT):
                numbers += _TURN.unpack(turn)
        return numbers

    def flush(self) -> None:
        """Send what goes now."""
        try:
            while self._out:
                sent = self._sock.send(self._out[0])
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:  # it is gone; reading will say so
            self._out.clear()

    def read(self, *, whole: bool = False) -> list[Answer]:
        """What has come. Sets ``ended`` when nothing more will come. At most about ``_PART`` bytes at a time, where not
        the ``whole`` is wanted."""
        answers: list[Answer] = []
        left = _PART
        try:
            while True:
                if not self._wanted:
                    part = self._sock.recv(_ANSWER.size - len(self._head))
                    if not part:
                        self.ended = True
                        break
                    self._head += part
                    if len(self._head) < _ANSWER.size:
                        continue
                    self._wanted = _ANSWER.unpack(self._head)[-1]
                if self._wanted:
                    part = self._sock.recv(min(self._wanted - len(self._payload), left if left > 0 else _PART))
                    if not part:
                        self.ended = True
                        break
                    self._payload += part
                    left -= len(part)
                    if len(self._payload) < self._wanted:
                        if left <= 0 and not whole:
                            break  # others want to be looked at, too
                        continue
                what, number, seconds, peak, anonymous, other, _ = _ANSWER.unpack(self._head)
                answers.append(Answer(what, number, seconds, peak, anonymous, other, bytes(self._payload)))
                self._head, self._payload, self._wanted = b"", bytearray(), 0
        except BlockingIOError:
            pass
        except OSError:  # it was ended while it spoke
            self.ended = True
        return answers

    def close(self) -> None:
        """Give the descriptors back."""
        for each in (self._sock, self._turns, self._given):
            with contextlib.suppress(OSError):
                each.close()
