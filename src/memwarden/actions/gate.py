"""A gate that work passes before it begins, and the action that shuts it when memory is short."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from memwarden.errors import NotAdmitted
from memwarden.model.decisions import Decision, Outcome
from memwarden.process.fork_hooks import reset_after_fork


class Gate:
    """What runs goes on, what has not begun waits. Safe to use from any thread; open in a child after fork.

    Several may shut it, each by a name of its own; it is open when none of them holds it shut.

    ::

        for job in jobs:
            with gate.admitted(timeout=600):
                work(job)
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shut_by: set[str] = set()
        self._inside = 0
        reset_after_fork(self)

    @property
    def closed(self) -> bool:
        """Whether nothing new may begin."""
        return bool(self._shut_by)

    @property
    def shut_by(self) -> tuple[str, ...]:
        """Who holds it shut."""
        with self._changed:
            return tuple(sorted(self._shut_by))

    @property
    def inside(self) -> int:
        """How many are inside :meth:`admitted` now."""
        return self._inside

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, ``timeout`` seconds at most (None: for ever); whether it is open."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._shut_by, timeout)

    @contextmanager
    def admitted(self, timeout: float | None = None) -> Iterator[None]:
        """Wait until it is open, and count as inside; after ``timeout`` seconds raises :class:`NotAdmitted`."""
        changed = self._changed
        with changed:
            if not changed.wait_for(lambda: not self._shut_by, timeout):
                by = ", ".join(sorted(self._shut_by))
                raise NotAdmitted(f"no new work is admitted (by {by}), for {timeout:g} s; try again later")
            self._inside += 1
        try:
            yield
        finally:
            if changed is self._changed:  # else this is a child that was forked inside
                with changed:
                    self._inside -= 1

    def shut(self, by: str) -> None:
        """Let nobody pass until :meth:`open` with the same name."""
        with self._changed:
            self._shut_by.add(by)

    def open(self, by: str) -> bool:
        """Hold it shut no longer; whether it was this one who did."""
        with self._changed:
            held = by in self._shut_by
            self._shut_by.discard(by)
            self._changed.notify_all()
            return held

    def after_fork(self) -> None:
        """In a child: nobody watches, and the lock may be held by a thread of the parent."""
        self._changed = threading.Condition()
        self._shut_by = set()
        self._inside = 0


class StopAdmitting:
    """Shuts a gate; ``undo`` and ``close`` open it again, as far as this action has shut it.

    It counts as harming, though nothing is lost: work that waits is late, so a dry run only says so.
    """

    name = "stop-admitting"
    harms = True

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._rules: set[str] = set()

    def rehearse(self, decision: Decision) -> Outcome:
        """Says that it would shut the gate."""
        return Outcome(decision=decision, done=False, message="would admit no new work")

    def run(self, decision: Decision) -> Outcome:
        if decision.dry_run:
            return self.rehearse(decision)
        self._rules.add(decision.rule)
        self._gate.shut(decision.rule)
        message = f"no new work is admitted; what has begun goes on ({self._gate.inside} inside)"
        return Outcome(decision=decision, done=True, message=message)

    def undo(self, decision: Decision) -> Outcome:
        """Open it again, as far as this rule is concerned."""
        self._rules.discard(decision.rule)
        held = self._gate.open(decision.rule)
        others = ", ".join(self._gate.shut_by)
        message = f"still shut by {others}" if others else "new work is admitted"
        return Outcome(decision=decision, done=held, message=message)

    def close(self) -> None:
        """Open what this action has shut: nobody watches any more."""
        for rule in tuple(self._rules):
            self._gate.open(rule)
        self._rules.clear()
