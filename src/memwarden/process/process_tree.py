"""A process and what it started: who was once seen to belong to it stays a member, whoever its parent is now."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from memwarden.errors import ActionFailed, TargetChanged
from memwarden.model.facts import ProcessKey
from memwarden.process.signals import send
from memwarden.protocols import IdentityProbe


class ProcessTree:
    """Who descends from ``root``; ``spared`` and what they started do not belong to it.

    Members are found by their parents, and by the session where a member leads one: there those are found, too, whose
    parents have ended.

    Raises :class:`TargetChanged` when the root is gone, or another process now.
    """

    def __init__(self, root: ProcessKey, probe: IdentityProbe, spared: Collection[ProcessKey] = ()) -> None:
        self._probe, self._spared = probe, frozenset(spared)
        if not probe.alive(root):
            raise TargetChanged(f"pid {root.pid} is gone, or another process now")
        self.root = root
        self.members = [root]  # parents before their children
        #: What the system refused, in words: members of another user, for one.
        self.refused: dict[ProcessKey, str] = {}
        self.grow()

    def grow(self) -> list[ProcessKey]:
        """Look for members that were not there before; returns these."""
        spared = list(self._spared)
        for key in spared:  # grows meanwhile
            spared += [child for child in self._probe.children(key) if child not in spared]
        known, before = {*self.members, *spared}, len(self.members)
        for key in self.members:  # grows meanwhile
            fresh = self._probe.children(key)
            session = self._probe.session(key)
            if self._spared.isdisjoint(session):  # else what lost its parent there may be of the spared one
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
        """Signal these members; returns whom it reached. What the system refuses is remembered in ``refused``."""
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
        """How many there are beside the root, in words that follow its name."""
        others = len(self.members) - 1
        return f" and {others} more that it started" if others else ""
