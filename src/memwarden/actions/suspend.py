"""Suspension of a process tree by SIGSTOP, which never outlasts this process."""

from __future__ import annotations

import time
from collections.abc import Callable

from memwarden.model.facts import ProcessKey
from memwarden.process.process_tree import ProcessTree
from memwarden.process.signals import CONTINUE, STOP
from memwarden.process.watchdog import Watchdog
from memwarden.protocols import IdentityProbe

#: Seconds that a tree may take to stop: a process that waits for a slow disk stops when the disk has answered.
FREEZE_SECONDS = 1.0

#: Resumes each reported PID:START if the pid still has that start time. A name may contain parentheses and line ends,
#: so the fields are counted from the last closing one.
_RESUME = """
set -f
for each in $words; do
    stat=
    while IFS= read -r line || [ -n "$line" ]; do
        stat="$stat $line"
    done 2>/dev/null <"/proc/${each%%:*}/stat" || continue
    set -- ${stat##*) }
    [ "${20}" = "${each##*:}" ] && kill -CONT "${each%%:*}"
done
"""


class SuspendedTree:
    """Stops a tree by SIGSTOP, and resumes the members that it stopped.

    A member that another process had stopped stays stopped. When this process is killed, a :class:`Watchdog` resumes
    the tree; ``guarded`` says whether it runs.
    """

    def __init__(self, tree: ProcessTree, probe: IdentityProbe) -> None:
        self.tree, self._probe = tree, probe
        #: Members that we stopped.
        self.stopped: list[ProcessKey] = []
        self._watchdog = Watchdog(_RESUME)

    @property
    def guarded(self) -> bool:
        return self._watchdog.running

    def freeze(self, patience: float = FREEZE_SECONDS, pause: Callable[[float], None] = time.sleep) -> bool:
        """Stop every member, and those that are forked meanwhile; return whether all stopped within ``patience`` s.

        A stopped process cannot fork. So the tree is complete after a search that started when all were stopped and
        found no new member. Two such searches in a row: during the first, a process may have been forked, forked
        another and exited.
        """
        if STOP is None:
            return False
        tree, until = self.tree, time.monotonic() + patience
        fresh, quiet = list(tree.members), 0
        while True:
            for key in fresh:
                if key not in self.stopped and not self._probe.stopped(key):
                    self._watchdog.send(f"{key.pid}:{key.start}")  # first: we may be killed in between
                    self.stopped += tree.signal(STOP, [key])
            still = all(key in tree.refused or self._probe.stopped(key) for key in tree.alive())
            fresh = tree.grow()
            quiet = quiet + 1 if still and not fresh else 0
            if quiet == 2:
                return True
            if time.monotonic() >= until:
                return False
            if not still and not fresh:
                pause(0.001)

    def thaw(self) -> None:
        """Resume the members that we stopped, children before their parents, and stop the watchdog."""
        if CONTINUE is not None:
            self.tree.signal(CONTINUE, list(reversed(self.stopped)))
        self.stopped = []
        self._watchdog.dismiss()
