"""A process and its descendants: once seen, one stays a member, even with another parent."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from memwarden.errors import ActionFailed, TargetChanged
from memwarden.model.facts import ProcessKey
from memwarden.process.signals import send
from memwarden.protocols import IdentityProbe


class ProcessTree:
    """The descendants of ``root``, without ``spared`` and their descendants.

    Members are found by their parents, and by the session where a member leads one: that also finds orphans.

    Raises :class:`TargetChanged` when the root is gone, or another process now.
    """

    def __init__(self, root: ProcessKey, probe: IdentityProbe, spared: Collection[ProcessKey] = ()) -> None:
        self._probe, self._spared = probe, frozenset(spared)
        if not probe.alive(root):
            raise TargetChanged(f"pid {root.pid} is gone, or another process now")
        self.root = root
        self.members = [root]  # parents before their children
        #: Members that could not be signalled, with the system's message: those of another user, for one.
        self.refused: dict[ProcessKey, str] = {}
        self.grow()

    def grow(self) -> list[ProcessKey]:
        """Find new members; returns these."""
        spared = list(self._spared)
        for key in spared:  # grows meanwhile
            spared += [child for child in self._probe.children(key) if child not in spared]
        known, before = {*self.members, *spared}, len(self.members)
        for key in self.members:  # grows meanwhile
            fresh = self._probe.children(key)
            session = self._probe.session(key)
            if self._spared.isdisjoint(session):  # else an orphan there may be a descendant of the spared one
                fresh += session
            for each in fresh:
                if each not in known:
                    known.add(each)
                    self.members.append(each)
        return self.members[before:]

    def alive(self) -> list[ProcessKey]:
        """The members that still run."""
        return [key for key in self.members if self._probe.alive(key)]

    def signal(self, number: int, keys: Iterable[ProcessKey]) -> list[ProcessKey]:
        """Signal these members; returns those that got it. Refusals of the system are kept in ``refused``."""
        reached = []
        for key in keys:
            try:
                send(key, number, self._probe)
                reached.append(key)
            except TargetChanged:
                continue
            except ActionFailed as error:
                self.refused[key] = str(error)
        return reached

    def others(self) -> str:
        """Return the number of descendants, as text that follows the root's name."""
        others = len(self.members) - 1
        return f" and {others} descendant{'s' if others > 1 else ''}" if others else ""
