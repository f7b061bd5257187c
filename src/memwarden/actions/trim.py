"""The action that returns freed memory, which the C library keeps, to the system."""

from __future__ import annotations

import os
import time

from memwarden.actions.rss_delta import Resident, RssDelta, as_text
from memwarden.errors import ActionFailed
from memwarden.model.decisions import Decision, Outcome


def trim_allocator() -> None:
    """Return every free page of glibc's heaps to the system (``malloc_trim``). Other threads run on meanwhile.

    A thread that allocates from the heap that is being trimmed waits: some milliseconds, more with gigabytes. Raises
    :class:`ActionFailed` if the allocator is not glibc's.
    """
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        version = None
    if not version:
        raise ActionFailed("nothing to trim: this system's C library is not glibc")
    try:
        import ctypes

        process, glibc = ctypes.CDLL(None), ctypes.CDLL("libc.so.6")
        used, own = (ctypes.cast(library.malloc, ctypes.c_void_p).value for library in (process, glibc))
        trim = glibc.malloc_trim
    except (ImportError, OSError, AttributeError) as error:
        raise ActionFailed(f"nothing to trim: glibc cannot be called ({error})") from None
    if used != own:
        raise ActionFailed("nothing to trim: another allocator replaces glibc's (by LD_PRELOAD, for example)")
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)


class Trim:
    """Trims the allocator; the outcome has the decrease of the resident size.

    ``resident`` returns the resident size of this process in bytes. Without glibc, or with another allocator, the
    outcome is not ``done`` and gives the reason.
    """

    name = "trim"
    harms = False

    def __init__(self, *, resident: Resident | None = None) -> None:
        self._resident = resident

    def run(self, decision: Decision) -> Outcome:
        returned, start = RssDelta(self._resident), time.monotonic()
        try:
            trim_allocator()
        except ActionFailed as error:
            return Outcome(decision=decision, done=False, message=str(error))
        took = time.monotonic() - start
        return Outcome(decision=decision, done=True, message=f"trimmed, {as_text(returned.bytes())}", seconds=took)
