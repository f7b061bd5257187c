"""Objects on their way through a pipe, in pieces, so that none is ever there as bytes as a whole.

Each piece is its length (four bytes, network order) and its bytes. A piece of length 0 ends the object; the length
``0xFFFFFFFF`` says that it could not be written to its end, and the next piece says why.
"""

from __future__ import annotations

import io
import os
from typing import Any

_FAILED = b"\xff\xff\xff\xff"
_MOST = 1 << 20


class NotSent(Exception):
    """The other side could not write the object; why, in its words."""


class Outgoing:
    """A file to pickle into."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: Any) -> int:
        """Send a part of the object; large ones are not copied."""
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _MOST):
            piece = view[at : at + _MOST]
            self._send(len(piece).to_bytes(4, "big"))
            self._send(piece)
        return len(view)

    def finish(self) -> None:
        """That was all."""
        self._send(bytes(4))

    def fail(self, why: str) -> None:
        """There will be no more of it."""
        self._send(_FAILED)
        self.write((why.encode("utf-8", "replace") or b"?")[:_MOST])

    def _send(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


class Incoming(io.BufferedReader):
    """A file to unpickle from. Raises :class:`NotSent`, and EOFError where the other side ended in the middle."""

    def __init__(self, fd: int) -> None:
        super().__init__(_Pieces(fd), 1 << 16)


class _Pieces(io.RawIOBase):
    def __init__(self, fd: int) -> None:
        self._fd, self._left, self._ended = fd, 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._ended:
            self._next()
        if self._ended:
            return 0
        piece = os.read(self._fd, min(len(buffer), self._left))
        if not piece:
            raise EOFError
        self._left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)

    def _next(self) -> None:
        length = self._exactly(4)
        if length == _FAILED:
            raise NotSent(self._exactly(int.from_bytes(self._exactly(4), "big")).decode("utf-8", "replace"))
        self._left = int.from_bytes(length, "big")
        self._ended = not self._left

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = os.read(self._fd, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
