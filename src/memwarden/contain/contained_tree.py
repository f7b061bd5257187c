"""The process tree of a contained command: its members, their memory use, and its shutdown."""

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
    """The tree of a launched command. ``steps`` logs its shutdown.

    ``adopt``: orphans become children of this process, which reaps them. All calls come from the guard thread;
    ``grace`` and ``patience`` may be set from another one; ``grace`` 0 means SIGKILL without SIGTERM.
    """

    def __init__(self, launched: Launched, ceiling: Ceiling | None, *, adopt: bool, grace: float) -> None:
        self._launched, self._ceiling, self._adopt, self.grace = launched, ceiling, adopt, grace
        self._helpers = ceiling.helpers if ceiling is not None else ()
        self._reader = TreeReader(
            launched.pid, adopter=os.getpid() if adopt else None, strangers=self._helpers, keep=16
        )
        self.patience = 0.0
        self.steps: list[str] = []

    def members(self) -> list[ProcessKey]:
        """Return the live members: of the control group, if there is one, and by descent."""
        found: dict[int, ProcessKey] = {}
        if self._ceiling is not None:
            found = {key.pid: key for key in self._ceiling.members()}
        with contextlib.suppress(ReadError):
            found.update((key.pid, key) for key in self._reader.members())
        return [key for key in found.values() if alive(key)]

    def measured(self) -> tuple[ProcessMemory, ...]:
        """Return the memory use of each member, largest first."""
        found = []
        for key in self.members():
            reader = ProcessReader(key.pid)
            with contextlib.suppress(ReadError):
                found.append(reader.memory())
            reader.close()
        return tuple(sorted(found, key=lambda process: -process.rss))

    def evidence(self, ceiling: Ceiling) -> Evidence:
        """Read the memory use at the limit, while the tree is stopped."""
        moment = time.monotonic()
        processes = self.measured()
        used, counted_by = ceiling.used()
        return Evidence(monotonic=moment, used=used, counted_by=counted_by, processes=processes)

    def reap(self) -> None:
        """Reap the command and adopted orphans, where they have exited."""
        self._launched.process.poll()
        while self._adopt:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None or exited.si_pid == self._launched.pid or exited.si_pid in self._helpers:
                return  # those are waited for by pid
            with contextlib.suppress(ChildProcessError):
                os.waitpid(exited.si_pid, os.WNOHANG)

    def terminate(self, why: str, first: int | None = None) -> None:
        """Send SIGTERM to every member, and SIGKILL after the grace; return when none is left.

        Before that the command alone gets the signal ``first``, and has ``patience`` seconds to exit.
        A member in uninterruptible sleep may be left after 10 s; ``steps`` names it.
        """
        ceiling = self._ceiling
        start = time.monotonic()

        def log(step: str) -> None:
            self.steps.append(f"+{time.monotonic() - start:.3f} s {step}")

        log(f"the tree {why}")
        if first is not None:
            self.members()  # children that outlive the command could not be found afterwards
            log(f"signal {first} ({signal.strsignal(first)}) to {named([self._launched.key])}")
            with contextlib.suppress(ActionFailed):
                send(self._launched.key, first)
            while self._launched.process.poll() is None and time.monotonic() < start + self.patience:
                if ceiling is not None and ceiling.reached():
                    break
                time.sleep(0.010)
                self.members()
            start = time.monotonic()
        signaled: set[ProcessKey] = set()
        resumed = False
        while self.grace > 0 and (members := self.members()):
            if fresh := [key for key in members if key not in signaled]:
                for key in fresh:
                    with contextlib.suppress(ActionFailed):
                        send(key, signal.SIGTERM)
                    if ceiling is None:  # a stopped process cannot handle SIGTERM; a ceiling resumes it in part()
                        with contextlib.suppress(ActionFailed):
                            send(key, signal.SIGCONT)
                signaled.update(fresh)
            if ceiling is not None and not resumed:
                ceiling.part()
                resumed = True
            over = not self._wait_a_little(start)
            if fresh:
                log(f"SIGTERM to {named(fresh)}")
            if over:
                overdrawn = ceiling is not None and ceiling.overdrawn()
                log("it went on growing" if overdrawn else f"{named(members)} still ran after {self.grace:g} s")
                break
        if members := self.members():
            log(f"SIGKILL to {named(members)}")
            self.kill()
        left = self.members()
        log("no process left" if not left else f"{named(left)} cannot be killed yet (uninterruptible sleep)")

    def _wait_a_little(self, start: float) -> bool:
        """Wait 10 ms; False as soon as the grace or the parting reserve is used up."""
        pause = time.monotonic() + 0.010
        while time.monotonic() < pause:
            if time.monotonic() >= start + self.grace or (self._ceiling is not None and self._ceiling.overdrawn()):
                return False
            time.sleep(0.001)
            self.reap()
        return True

    def kill(self) -> None:
        """Send SIGKILL to every member, also to those that are forked meanwhile."""
        until = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < until:
            if self._ceiling is not None:
                self._ceiling.kill()
            members = self.members()
            for key in members:
                with contextlib.suppress(ActionFailed):
                    send(key, signal.SIGKILL)
            self.reap()
            if not members:
                return
            time.sleep(0.002)  # the kernel takes some 40 ms to free 500 MiB

    def close(self) -> None:
        """Close descriptors."""
        self._reader.close()


def named(keys: Sequence[ProcessKey]) -> str:
    """Return a few of the pids as text."""
    shown = ", ".join(str(key.pid) for key in keys[:5])
    return f"pid {shown}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
