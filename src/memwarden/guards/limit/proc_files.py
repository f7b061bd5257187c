"""Files of ``/proc/self``, read without releasing the interpreter lock.

``os.read`` releases it, and a thread that computes in Python then keeps it for 5 ms (``sys.getswitchinterval()``): a
sample of three files would come 15 ms late, and other threads would allocate between two of its reads.
"""

from __future__ import annotations

import os
from typing import Any

from memwarden.readers.linux.process import PAGE

_libc: Any = None


def can_hold_interpreter() -> bool:
    """Return True where ``ctypes.PyDLL`` is available; without it the lock is released at each read."""
    global _libc
    if _libc is None:
        try:
            import ctypes

            _libc = ctypes.PyDLL(None)
            _libc.read.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
        except (ImportError, OSError, AttributeError):
            _libc = False
    return bool(_libc)


def read_proc(path: bytes) -> bytes:
    """Return the content of a file in ``/proc``; empty when it cannot be read."""
    if not can_hold_interpreter():
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read()
        except OSError:
            return b""
    fd = _libc.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if fd < 0:
        return b""
    data = b""
    while True:  # a file of many records gives one page per read
        buffer = bytes(4096)
        size = _libc.read(fd, buffer, len(buffer))
        if size <= 0:
            break
        data += buffer[:size]
    _libc.close(fd)
    return data


def read_memory() -> tuple[int, int]:
    """Return the private memory of this process and its data as ``RLIMIT_DATA`` counts it, in bytes.

    Private is resident minus shared: maps that are shared or file-backed do not count, nor do untouched pages.
    Raises OSError without a ``/proc``.
    """
    return read_sizes()[:2]


def read_sizes() -> tuple[int, int, int]:
    """Return the same, and the resident bytes of shared and file-backed maps. Raises OSError."""
    fields = read_proc(b"/proc/self/statm").split(None, 6)
    if len(fields) < 6:
        raise OSError("/proc/self/statm cannot be read")
    shared = int(fields[2])
    return (int(fields[1]) - shared) * PAGE, int(fields[5]) * PAGE, shared * PAGE
