"""A tree that is held: who belongs to it now, what they hold, and how it is brought to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from memwarden.contain.ceiling import Ceiling
from memwarden.contain.kernel import alive, send
from memwarden.contain.launcher import Launched
from memwarden.errors import ActionFailed, ReadError
from memwarden.model.exits import Evidence
from memwarden.model.facts import ProcessKey, ProcessMemory
from memwarden.readers.linux.process import ProcessReader
from memwarden.readers.linux.tree import TreeReader

#: Kills are repeated this long before giving up (a process in uninterruptible sleep).
_KILL_SECONDS = 10.0


class ContainedTree:
    """The tree of a launched command. ``steps`` tells, in words, what was done to it.

    ``adopt``: this process is given orphans, and collects them. All calls come from the guard's thread.
    """

    def __init__(self, launched: Launched, ceiling: Ceiling | None, *, adopt: bool, grace: float) -> None:
        self._launched, self._ceiling, self._adopt, self._grace = launched, ceiling, adopt, grace
        self._helpers = ceiling.helpers if ceiling is not None else ()
        self._reader = TreeReader(
            launched.pid, adopter=os.getpid() if adopt else None, strangers=self._helpers, keep=16
        )
        self.steps: list[str] = []

    def members(self) -> list[ProcessKey]:
        """Who lives in the tree: by the group where there is one, and by descent."""
        found: dict[int, ProcessKey] = {}
        if self._ceiling is not None:
            found = {key.pid: key for key in self._ceiling.members()}
        with contextlib.suppress(ReadError):
            found.update((key.pid, key) for key in self._reader.members())
        return [key for key in found.values() if alive(key)]

    def measured(self) -> tuple[ProcessMemory, ...]:
        """What each member holds, largest first."""
        found = []
        for key in self.members():
            reader = ProcessReader(key.pid)
            with contextlib.suppress(ReadError):
                found.append(reader.memory())
            reader.close()
        return tuple(sorted(found, key=lambda process: -process.rss))

    def evidence(self, ceiling: Ceiling) -> Evidence:
        """What is read at the limit, while the tree stands still."""
        moment = time.monotonic()
        processes = self.measured()
        used, counted_by = ceiling.used()
        return Evidence(monotonic=moment, used=used, counted_by=counted_by, processes=processes)

    def collect(self) -> None:
        """Reap what has ended: the command, and orphans that were given to us."""
        self._launched.poll()
        while self._adopt:
            try:
                told = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if told is None or told.si_pid == self._launched.pid or told.si_pid in self._helpers:
                return  # those are waited for by name
            with contextlib.suppress(ChildProcessError):
                os.waitpid(told.si_pid, os.WNOHANG)

    # --- ending -----------------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """SIGTERM to everybody, the grace, SIGKILL; returns when nobody is left (or the kernel cannot end them)."""
        ceiling = self._ceiling
        begun = time.monotonic()

        def step(words: str) -> None:
            self.steps.append(f"+{time.monotonic() - begun:.3f} s {words}")

        step(f"the tree {why}")
        asked: set[ProcessKey] = set()
        parted = False
        while members := self.members():
            if fresh := [key for key in members if key not in asked]:
                for key in fresh:
                    with contextlib.suppress(ActionFailed):
                        send(key, signal.SIGTERM)
                    if ceiling is None:  # a stopped process cannot answer; a ceiling lets its own go in part()
                        with contextlib.suppress(ActionFailed):
                            send(key, signal.SIGCONT)
                asked.update(fresh)
            if ceiling is not None and not parted:
                ceiling.part()
                parted = True
            stays = not self._leaving(begun + self._grace)
            if fresh:
                step(f"SIGTERM to {named(fresh)}")
            if stays:
                overdrawn = ceiling is not None and ceiling.overdrawn()
                step("it went on growing" if overdrawn else f"{named(members)} did not end within {self._grace:g} s")
                break
        if members := self.members():
            step(f"SIGKILL to {named(members)}")
            self.kill()
        left = self.members()
        step("nobody is left" if not left else f"{named(left)} cannot be ended by the kernel yet")

    def _leaving(self, until: float) -> bool:
        """Wait a little; False when the patience with the tree is over: the grace, or the parting reserve."""
        pause = time.monotonic() + 0.010
        while time.monotonic() < pause:
            if time.monotonic() >= until or (self._ceiling is not None and self._ceiling.overdrawn()):
                return False
            time.sleep(0.001)
            self.collect()
        return True

    def kill(self) -> None:
        """End every member now, and those that are forked meanwhile."""
        until = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < until:
            if self._ceiling is not None:
                self._ceiling.kill()
            members = self.members()
            for key in members:
                with contextlib.suppress(ActionFailed):
                    send(key, signal.SIGKILL)
            self.collect()
            if not members:
                return
            time.sleep(0.002)  # the kernel takes some 40 ms to free 500 MiB

    def close(self) -> None:
        """Give descriptors back."""
        self._reader.close()


def named(keys: Sequence[ProcessKey]) -> str:
    """A few pids in words."""
    shown = ", ".join(str(key.pid) for key in keys[:5])
    return f"pid {shown}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
