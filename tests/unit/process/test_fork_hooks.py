"""The one registration for forks: its order, and that no hook keeps the others from being called."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memwarden.process import fork_hooks


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the hooks that were called; three are registered, out of order."""
    called: list[str] = []
    monkeypatch.setattr(fork_hooks, "_all", [])

    def hook(name: str) -> Callable[[], None]:
        return lambda: called.append(name)

    for order, name in ((fork_hooks.COMPAT, "compat"), (fork_hooks.RECORDS, "records"), (fork_hooks.ENGINE, "engine")):
        fork_hooks.at_fork(order, before=hook(name), parent=hook(f"{name} parent"), child=hook(f"{name} child"))
    return called


def test_lower_packages_come_first_in_parent_and_child_and_last_before(registered: list[str]) -> None:
    """A package is renewed after those that it uses, and prepared before them."""
    fork_hooks._call([each.before for each in reversed(fork_hooks._all)])
    assert registered == ["compat", "engine", "records"]
    fork_hooks._call([each.child for each in fork_hooks._all])
    assert registered[3:] == ["records child", "engine child", "compat child"]


def test_a_hook_that_raises_keeps_no_other_from_being_called() -> None:
    """Its exception is raised in the end, for Python to report."""
    called: list[int] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fork_hooks._call([lambda: called.append(1), interrupted, None, lambda: called.append(2)])
    assert called == [1, 2]


def test_hooks_of_one_order_keep_that_of_their_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions cannot be compared, and need not be."""
    called: list[int] = []
    monkeypatch.setattr(fork_hooks, "_all", [])
    for number in range(3):
        fork_hooks.at_fork(fork_hooks.GUARDS, child=lambda number=number: called.append(number))  # type: ignore[misc]
    fork_hooks._call([each.child for each in fork_hooks._all])
    assert called == [0, 1, 2]
