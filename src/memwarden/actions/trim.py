"""Giving back to the system what the C library keeps of freed memory."""

from __future__ import annotations

import os
import time

from memwarden.actions.rss_delta import Resident, RssDelta, told
from memwarden.errors import ActionFailed
from memwarden.model.decisions import Decision, Outcome


def trim_allocator() -> None:
    """Have glibc return every free page of its heaps (``malloc_trim``). Other threads run on meanwhile.

    A thread that allocates from a heap under work waits for it: some milliseconds, more with a heap of
    gigabytes. Raises :class:`ActionFailed` where the allocator is not glibc's.
    """
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        version = None
    if not version:
        raise ActionFailed("nothing to trim: this system's C library is not glibc")
    try:
        import ctypes

        everybodys, glibc = ctypes.CDLL(None), ctypes.CDLL("libc.so.6")
        used, own = (ctypes.cast(library.malloc, ctypes.c_void_p).value for library in (everybodys, glibc))
        trim = glibc.malloc_trim
    except (ImportError, OSError, AttributeError) as error:
        raise ActionFailed(f"nothing to trim: glibc cannot be called ({error})") from None
    if used != own:
        raise ActionFailed("nothing to trim: another allocator has taken the place of glibc's (by LD_PRELOAD, say)")
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)


class Trim:
    """Trims the allocator; the outcome says what really came back.

    ``resident`` gives the resident size of this process in bytes. Where there is no glibc, or another
    allocator took its place, the outcome is not ``done`` and says so.
    """

    name = "trim"
    harms = False

    def __init__(self, *, resident: Resident | None = None) -> None:
        self._resident = resident

    def run(self, decision: Decision) -> Outcome:
        returned, begun = RssDelta(self._resident), time.monotonic()
        try:
            trim_allocator()
        except ActionFailed as error:
            return Outcome(decision=decision, done=False, message=str(error))
        took = time.monotonic() - begun
        return Outcome(decision=decision, done=True, message=f"trimmed, {told(returned.bytes())}", seconds=took)
