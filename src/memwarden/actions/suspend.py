"""A family that stands still because we stopped it, and that never stays so when we are gone."""

from __future__ import annotations

import time
from collections.abc import Callable

from memwarden.model.facts import ProcessKey
from memwarden.process.process_tree import ProcessTree
from memwarden.process.signals import CONTINUE, STOP
from memwarden.process.watchdog import Watchdog
from memwarden.protocols import IdentityProbe

#: How long a family may take to stand still: a process that waits for a slow disk stops when it has been served.
FREEZE_SECONDS = 1.0

#: Lets run on whoever was told of as PID:START, where the pid still has that start time. A name may hold
#: parentheses and line ends, so the fields are counted from the last closing one.
_RESUME = """
set -f
for each in $told; do
    stat=
    while IFS= read -r line || [ -n "$line" ]; do
        stat="$stat $line"
    done 2>/dev/null <"/proc/${each%%:*}/stat" || continue
    set -- ${stat##*) }
    [ "${20}" = "${each##*:}" ] && kill -CONT "${each%%:*}"
done
"""


class SuspendedTree:
    """Stops a family by SIGSTOP, and lets run on whom it stopped.

    Who stood still before was stopped by somebody else, and is left to them. When this process is killed a
    shell lets the family run on (see :class:`Sentinel`); ``guarded`` says whether it is there.
    """

    def __init__(self, family: ProcessTree, probe: IdentityProbe) -> None:
        self.family, self._probe = family, probe
        #: Whom we stopped.
        self.stopped: list[ProcessKey] = []
        self._sentinel = Watchdog(_RESUME)

    @property
    def guarded(self) -> bool:
        return self._sentinel.standing

    def freeze(self, patience: float = FREEZE_SECONDS, pause: Callable[[float], None] = time.sleep) -> bool:
        """Stop every member, and who is forked meanwhile; whether all stood still within ``patience`` seconds.

        Who stands still forks nobody. So the family is whole once a search that began when all stood still
        found nobody new. Two such searches in a row: somebody may have been forked, forked another and ended
        while the first went over the lists.
        """
        if STOP is None:
            return False
        family, until = self.family, time.monotonic() + patience
        fresh, quiet = list(family.members), 0
        while True:
            for key in fresh:
                if key not in self.stopped and not self._probe.stopped(key):
                    self._sentinel.tell(f"{key.pid}:{key.start}")  # before it is stopped: we may die in between
                    self.stopped += family.signal(STOP, [key])
            still = all(key in family.refused or self._probe.stopped(key) for key in family.alive())
            fresh = family.grow()
            quiet = quiet + 1 if still and not fresh else 0
            if quiet == 2:
                return True
            if time.monotonic() >= until:
                return False
            if not still and not fresh:
                pause(0.001)

    def thaw(self) -> None:
        """Let run on whom we stopped, children before their parents, and send the shell home."""
        if CONTINUE is not None:
            self.family.signal(CONTINUE, list(reversed(self.stopped)))
        self.stopped = []
        self._sentinel.dismiss()
