"""A gate before new work, and the action that shuts it when memory is short."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from memwarden.errors import NotAdmitted
from memwarden.model.decisions import Decision, Outcome
from memwarden.process.fork_hooks import reset_after_fork


class Gate:
    """Running work continues, new work waits. Safe to use from any thread; open in a child after fork.

    Several callers may shut it, each under a name of its own; it opens when the last one has opened it.

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
        """True while new work has to wait."""
        return bool(self._shut_by)

    @property
    def shut_by(self) -> tuple[str, ...]:
        """Names under which it is shut."""
        with self._changed:
            return tuple(sorted(self._shut_by))

    @property
    def inside(self) -> int:
        """Number of threads inside :meth:`admitted`."""
        return self._inside

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, ``timeout`` seconds at most (None: forever); return whether it is open."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._shut_by, timeout)

    @contextmanager
    def admitted(self, timeout: float | None = None) -> Iterator[None]:
        """Wait until it is open, and count as inside; raise :class:`NotAdmitted` after ``timeout`` seconds."""
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
        """Shut it until :meth:`open` is called with the same name."""
        with self._changed:
            self._shut_by.add(by)

    def open(self, by: str) -> bool:
        """Undo :meth:`shut` with this name; return whether there was one."""
        with self._changed:
            known = by in self._shut_by
            self._shut_by.discard(by)
            self._changed.notify_all()
            return known

    def after_fork(self) -> None:
        """In a child: open, because the warden is stopped there; the lock may be held by a thread of the parent."""
        self._changed = threading.Condition()
        self._shut_by = set()
        self._inside = 0


class StopAdmitting:
    """Shuts a gate; ``undo`` and ``close`` open it again, as far as this action has shut it.

    It counts as harmful, because it delays work: a dry run does not shut the gate.
    """

    name = "stop-admitting"
    harms = True

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._rules: set[str] = set()

    def rehearse(self, decision: Decision) -> Outcome:
        """Report without shutting the gate."""
        return Outcome(decision=decision, done=False, message="would admit no new work")

    def run(self, decision: Decision) -> Outcome:
        if decision.dry_run:
            return self.rehearse(decision)
        self._rules.add(decision.rule)
        self._gate.shut(decision.rule)
        message = f"no new work is admitted; running work continues ({self._gate.inside} inside)"
        return Outcome(decision=decision, done=True, message=message)

    def undo(self, decision: Decision) -> Outcome:
        """Open it for this rule."""
        self._rules.discard(decision.rule)
        known = self._gate.open(decision.rule)
        others = ", ".join(self._gate.shut_by)
        message = f"still shut by {others}" if others else "new work is admitted"
        return Outcome(decision=decision, done=known, message=message)

    def close(self) -> None:
        """Open what this action has shut."""
        for rule in tuple(self._rules):
            self._gate.open(rule)
        self._rules.clear()
