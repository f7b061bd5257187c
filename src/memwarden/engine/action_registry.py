"""The actions of a warden: those that it was given and those that ship, and the registers that these work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from memwarden.errors import SettingsError
from memwarden.protocols import Action

if TYPE_CHECKING:  # a watch without rules needs none of it
    from memwarden.actions.caches import Caches
    from memwarden.actions.gate import Gate
    from memwarden.actions.targets import Targets
    from memwarden.model.decisions import Decision, Outcome
    from memwarden.model.facts import CacheFill
    from memwarden.policy.rules import Policy, Rule


class ActionRegistry:
    """Actions by name. Those that ship are made when first used; ``given`` ones replace those of the same name."""

    def __init__(self, given: Sequence[Action], dry_run: bool) -> None:
        for action in given:
            if not hasattr(action, "name") or not hasattr(action, "run"):
                raise SettingsError(f"actions: {action!r} is no action; one has a name and run(decision)")
        self._dry_run = dry_run
        self._used: dict[str, Action] = {action.name: action for action in given}

    @cached_property
    def targets(self) -> Targets:
        """The processes that may be paused and terminated."""
        from memwarden.actions.targets import Targets
        from memwarden.readers.factory import identity_probe

        return Targets(identity_probe())

    @cached_property
    def caches(self) -> Caches:
        """The caches that may be cleared."""
        from memwarden.actions.caches import Caches

        return Caches(resident=self._resident)

    def fills(self) -> Sequence[CacheFill]:
        """Return the fill of the caches that were registered with a bound."""
        caches: Caches | None = vars(self).get("caches")  # not made for this
        return () if caches is None else caches.fills()

    @cached_property
    def gate(self) -> Gate:
        """The gate that is closed while no more work shall be accepted."""
        from memwarden.actions.gate import Gate

        return Gate()

    @cached_property
    def _resident(self) -> Callable[[], int] | None:
        from memwarden.readers.factory import rss_function

        return rss_function()

    @cached_property
    def _standard(self) -> dict[str, Action]:
        from memwarden.actions.registry import standard_actions
        from memwarden.readers.factory import identity_probe

        made = standard_actions(self.targets, identity_probe(), self.caches, self.gate, self._resident)
        return {action.name: action for action in made}

    def policy(self, rules: Sequence[Rule]) -> Policy:
        """A policy of these rules. Raises :class:`SettingsError` when one is no rule, or names an unknown action."""
        from memwarden.policy.rules import Policy, Rule

        if not isinstance(rules, Sequence):
            raise SettingsError(f"rules: must be a list of Rule, not {type(rules).__name__}; a preset has .rules")
        for rule in rules:
            if not isinstance(rule, Rule):
                raise SettingsError(f"rules: {rule!r} is no Rule")
            for name in rule.actions:
                if name not in self._used:
                    if name not in self._standard:
                        known = ", ".join(sorted({*self._used, *self._standard}))
                        raise SettingsError(f"rule {rule.name!r}: no action is called {name!r}; known: {known}")
                    self._used = {**self._used, name: self._standard[name]}
        reversible = [name for name, action in self._used.items() if hasattr(action, "undo")]
        brief = [name for name in reversible if getattr(self._used[name], "brief", False)]
        return Policy(rules, reversible=reversible, brief=brief, dry_run=self._dry_run)

    def perform(self, decision: Decision) -> Outcome:
        """Run or undo an action; in a dry run one that harms is only rehearsed."""
        from memwarden.model.decisions import Outcome

        action = self._used[decision.action]
        if decision.dry_run and getattr(action, "harms", True):
            rehearse = getattr(action, "rehearse", None)
            if rehearse is not None and not decision.undo:
                rehearsed: Outcome = rehearse(decision)
                return rehearsed
            what = "undo" if decision.undo else "run"
            return Outcome(decision=decision, done=False, message=f"dry run: would {what} {action.name}")
        if decision.undo:
            undone: Outcome = action.undo(decision)  # type: ignore[attr-defined]  # the policy knows which have one
            return undone
        return action.run(decision)

    @property
    def closing(self) -> list[Action]:
        """The actions that undo everything in the end."""
        return [action for action in self._used.values() if hasattr(action, "close")]
