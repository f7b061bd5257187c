"""A ceiling by polling: where no control group can be created.

The tree is measured from outside (a program that holds its interpreter's lock cannot delay it), by the sum of
resident sizes, which is an upper bound. When the sum passes the limit, the tree is stopped, measured once by PSS
(which counts shared pages once), and then terminated or resumed. Between two polls a tree can pass its limit a
little: measured 1 to 3 MB at 1 GB/s.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

from memwarden.contain.ceiling import PARTING_RESERVE, Ceiling
from memwarden.contain.kernel import send
from memwarden.errors import ActionFailed, CeilingUnavailable, ReadError
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.readers.linux.process import read_pss, read_stat
from memwarden.readers.linux.tree import TreeReader

#: Assumed growth in bytes a second: of a tree that grew lately, and of one at rest (one thread faults in 1.3 GB/s
#: in 4 KiB pages; each wake-up costs some 0.1 ms of a core).
FASTEST, FASTEST_FROM_REST = 16e9, 4e9
#: Seconds between polls: while the tree grows (with 2 MiB pages it can outrun any rate), at least, and at most.
GROWING, SHORTEST, LONGEST = 0.001, 0.001, 0.020
#: Nice value of the guard thread, so that it polls in time beside busy processes (ADR 2).
NICE = -10
#: Seconds that growth is remembered: for the interval of a growing tree, and before a tree counts as at rest.
GROWTH_MEMORY, REST_AFTER = 0.5, 5.0
#: Seconds before a false alarm (shared pages) is checked again.
RECOUNT_SECONDS = 0.25


class PollingCeiling(Ceiling):
    """Ceiling of ``limit`` bytes by polling. ``adopter`` is the parent of orphans (see :class:`TreeReader`)."""

    kind = "polling"
    if_killed = "the command is killed, and its descendants run on without a limit"

    def __init__(
        self,
        limit: int,
        *,
        adopter: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not os.path.exists("/proc/self/statm"):
            raise CeilingUnavailable("there is no /proc to read")
        self._limit, self._adopter = limit, adopter
        self._monotonic = monotonic
        self._reader: TreeReader | None = None
        self._bound = self._peak = 0
        self._grew_at = self._cost = 0.0
        self._stopped: list[ProcessKey] = []
        self._recount_at, self._recount_bound = 0.0, 0
        self._counted: tuple[int, str] | None = None
        self._allowed = limit + PARTING_RESERVE
        #: By how much the sum of resident sizes exceeded the PSS at the last count.
        self._shared_twice = 0

    def attach(self, root: ProcessKey) -> None:
        if self._adopter is not None:  # the process is entirely ours (`memwarden run`), not a guest in a host's
            with contextlib.suppress(OSError):  # only where it is granted
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self._reader = TreeReader(root.pid, adopter=self._adopter)

    def pace(self) -> float:
        at_rest = self._monotonic() - self._grew_at
        wait = max(0, self._limit - self._bound) / 2 / (FASTEST if at_rest < REST_AFTER else FASTEST_FROM_REST)
        if at_rest < GROWTH_MEMORY:
            wait = min(wait, GROWING)
        # Reading a large tree takes at most half of the time.
        return min(LONGEST, max(SHORTEST, wait, self._cost))

    def _sample(self) -> TreeMemory | None:
        assert self._reader is not None
        start = self._monotonic()
        try:
            tree, _ = self._reader.sample()
        except ReadError:
            return None
        now = self._monotonic()
        self._cost = now - start
        bound = tree.total
        if bound > self._bound:
            self._grew_at = now
        self._bound = bound
        if bound < self._limit:  # else it is counted first
            self._note_peak()
        return tree

    def _note_peak(self) -> None:
        self._peak = max(self._peak, self._bound - self._shared_twice)

    def reached(self) -> bool:
        self._sample()
        if self._bound < self._limit:
            return False
        now = self._monotonic()
        # At the last count, shared pages explained the difference. Until the bound has grown by what was left then,
        # only less sharing can have used it up, and that is checked now and then.
        if self._bound < self._recount_bound and now < self._recount_at:
            self._note_peak()
            return False
        self._freeze()
        pss = self._count()
        self._counted = pss, "pss"
        self._shared_twice = max(0, self._bound - pss)
        self._note_peak()
        if pss >= self._limit:
            return True
        self._recount_bound = self._bound + (self._limit - pss)
        took = self._monotonic() - now
        self._recount_at = self._monotonic() + max(RECOUNT_SECONDS, 20 * took)
        self._thaw()
        return False

    def _freeze(self) -> None:
        """Stop every member, also those that are forked meanwhile."""
        assert self._reader is not None
        done: set[ProcessKey] = set()
        for _ in range(16):
            fresh = [key for key in self._reader.members() if key not in done]
            if not fresh:
                return
            for key in fresh:
                done.add(key)
                with contextlib.suppress(ActionFailed, ReadError):
                    if read_stat(key.pid).state not in "TtZX":  # already stopped by another process: stays so
                        send(key, signal.SIGSTOP)
                        self._stopped.append(key)

    def _thaw(self) -> None:
        for key in self._stopped:
            with contextlib.suppress(ActionFailed):
                send(key, signal.SIGCONT)
        self._stopped = []

    def _count(self) -> int:
        """Return the tree's PSS; a member without a readable PSS counts with its resident size."""
        tree = self._sample()
        if tree is None:
            return 0
        total = 0
        for key, rss in zip(tree.keys, tree.rss, strict=True):
            try:
                total += read_pss(key.pid)
            except ReadError as error:
                total += 0 if error.why == "gone" else rss
        return total

    def used(self) -> tuple[int, str]:
        return self._counted or (self._bound, "rss")

    def peak(self) -> tuple[int, str]:
        return self._peak, self.used()[1]

    def members(self) -> list[ProcessKey]:
        return [] if self._reader is None else self._reader.members()

    def part(self) -> None:
        self._allowed = max(self._limit, self._bound) + PARTING_RESERVE
        self._thaw()

    def overdrawn(self) -> bool:
        self._sample()
        self._note_peak()
        if self._bound <= self._allowed:
            return False
        self._freeze()
        return True

    def kill(self) -> None:
        self._freeze()  # a stopped process cannot fork away from the signal
        for key in self.members():
            with contextlib.suppress(ActionFailed):
                send(key, signal.SIGKILL)

    def close(self) -> None:
        if self._reader is not None:
            self._thaw()
            self._reader.close()
