"""The registry of caches, and what clearing them does."""

from __future__ import annotations

import functools
import gc
import threading

import pytest

from memwarden.actions.caches import Caches
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision
from memwarden.model.verdicts import PressureLevel

DECISION = Decision(rule="r", action="caches", reason="HIGH", wall=0.0, monotonic=0.0)


class Store:
    """An object with a cache."""

    def __init__(self) -> None:
        self.entries = {1: "a", 2: "b"}
        self.cleared = 0

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self.cleared += 1

    def __len__(self) -> int:
        return len(self.entries)


@pytest.mark.contract("S1-29", "V-10", "W1-12")
def test_what_is_registered_is_cleared_and_named() -> None:
    """A method, a function and an lru_cache, with how many entries each had."""

    @functools.lru_cache
    def square(number: int) -> int:
        return number * number

    square(2), square(3), square(4)
    store, kept = Store(), {"x": 1}
    caches = Caches(resident=iter([900 << 20, 600 << 20]).__next__)
    caches.register(store.clear, "thumbnails", size=store.__len__)
    caches.register_lru(square, "squares")
    caches.register(kept.clear, "plain")
    outcome = caches.run(DECISION)
    assert outcome.done
    assert outcome.message == "cleared thumbnails (2 entries), squares (3 entries), plain; 300.0 MiB came back"
    assert (len(store), square.cache_info().currsize, kept) == (0, 0, {})


def test_the_cheapest_first_and_the_dear_only_when_it_must_be() -> None:
    """The level of the decision selects the caches; without one all are cleared."""
    order: list[str] = []
    caches = Caches()
    for level in (PressureLevel.CRITICAL, PressureLevel.MODERATE, PressureLevel.HIGH):
        caches.register(functools.partial(order.append, level.name), level.name, level=level)
    assert caches.names == ("MODERATE", "HIGH", "CRITICAL")
    caches.run(DECISION._replace(details={"level": "HIGH"}))
    assert order == ["MODERATE", "HIGH"]
    caches.run(DECISION)
    assert order == ["MODERATE", "HIGH", "MODERATE", "HIGH", "CRITICAL"]


def test_one_that_raises_does_not_stop_the_others() -> None:
    """The outcome has its error and its name."""
    store = Store()
    caches = Caches()
    caches.register(lambda: 1 / 0, "broken")
    caches.register(store.clear, "fine")
    outcome = caches.run(DECISION)
    assert outcome.done
    assert "cleared fine" in outcome.message
    assert "broken raised ZeroDivisionError" in outcome.message
    assert store.cleared == 1


def test_an_object_that_is_registered_may_die() -> None:
    """Neither its method nor its size keeps it."""
    store, caches = Store(), Caches()
    caches.register(store.clear, "store", size=store.__len__)
    assert caches.names == ("store",)
    del store
    gc.collect()
    assert caches.names == ()
    assert caches.run(DECISION).message == "no registered cache has an entry to clear"


def test_a_local_lru_function_may_die() -> None:
    """The registry does not keep it alive."""
    caches = Caches()

    def register() -> None:
        caches.register_lru(functools.lru_cache(lambda number: number))

    register()
    gc.collect()
    assert caches.names == ()


def test_what_is_taken_off_is_left_alone() -> None:
    """The result of registering takes it off, any number of times."""
    store, caches = Store(), Caches()
    remove = caches.register(store.clear, "store")
    remove()
    remove()
    assert (caches.run(DECISION).done, store.cleared) == (False, 0)


def test_an_empty_cache_is_not_cleared() -> None:
    """If it has a size."""
    store, caches = Store(), Caches()
    store.entries.clear()
    caches.register(store.clear, "store", size=store.__len__)
    assert (caches.run(DECISION).done, store.cleared) == (False, 0)


def test_what_is_no_cache_is_refused() -> None:
    """With a word on what would be one."""
    with pytest.raises(SettingsError, match="cannot be called"):
        Caches().register({}, "dict")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="lru_cache"):
        Caches().register_lru(len)  # type: ignore[arg-type]


def test_registering_while_clearing_from_other_threads() -> None:
    """Nothing is lost, and nothing breaks."""
    caches, stores = Caches(), [Store() for _ in range(200)]

    def register(part: list[Store]) -> None:
        for store in part:
            caches.register(store.clear, "s")

    threads = [threading.Thread(target=register, args=(stores[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        caches.run(DECISION)
    caches.run(DECISION)
    assert len(caches.names) == 200
    assert all(store.cleared for store in stores)
