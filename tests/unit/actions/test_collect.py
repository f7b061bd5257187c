"""Collecting garbage: its share of the time, its generation, and its outcome."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from memwarden.actions.collect import Collect
from memwarden.actions.rss_delta import noise
from memwarden.errors import ReadError, SettingsError
from memwarden.model.decisions import Decision
from memwarden.testing import FakeClock

DECISION = Decision(rule="r", action="collect", reason="HIGH", wall=0.0, monotonic=0.0)


class Collector:
    """Replaces the real one: takes 0.2 s, and frees as many objects as the test sets."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.seconds, self.freed = clock, 0.2, 100
        self.generations: list[int] = []

    def __call__(self, generation: int = 2) -> int:
        """``gc.collect``."""
        self.generations.append(generation)
        self.clock.advance(self.seconds)
        return self.freed


@pytest.fixture
def clock() -> FakeClock:
    """Time, of the test."""
    return FakeClock()


@pytest.fixture
def collector(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """In the place of ``gc.collect``."""
    made = Collector(clock)
    monkeypatch.setattr(gc, "collect", made)
    return made


@pytest.mark.contract("S1-26")
def test_no_more_than_its_share_of_the_time(clock: FakeClock, collector: Collector) -> None:
    """A collection of 0.2 s at one percent is followed by 19.8 s of rest, however often it is asked for."""
    action = Collect(share=0.01, monotonic=clock.monotonic)
    first = action.run(DECISION)
    assert (first.done, first.seconds) == (True, pytest.approx(0.2))
    for _ in range(19):
        clock.advance(1.0)
        refused = action.run(DECISION)
        assert not refused.done
        assert "1.00% of the time" in refused.message
    clock.advance(0.9)
    assert action.run(DECISION).done
    assert len(collector.generations) == 2


@pytest.mark.contract("S1-26", "S1-29")
@pytest.mark.parametrize(
    ("level", "generation"),
    [("MODERATE", 1), ("moderate", 1), ("LOW", 1), ("HIGH", 2), ("CRITICAL", 2), (None, 2)],
)
def test_gentle_at_moderate_and_full_from_high_on(
    collector: Collector, level: str | None, generation: int, clock: FakeClock
) -> None:
    """By the level of the decision; without one all generations."""
    details = {} if level is None else {"level": level}
    Collect(monotonic=clock.monotonic).run(DECISION._replace(details=details))
    assert collector.generations == [generation]


def test_the_generation_may_be_asked_for(collector: Collector, clock: FakeClock) -> None:
    """By number, whatever the level is."""
    outcome = Collect(generation=0, monotonic=clock.monotonic).run(DECISION)
    assert collector.generations == [0]
    assert "generations up to 0" in outcome.message


def test_repetitions_that_free_nothing_are_left_out(collector: Collector, clock: FakeClock) -> None:
    """Three in a row are enough for an episode; the next one tries again."""
    collector.freed = 0
    action = Collect(monotonic=clock.monotonic)
    text = []
    for repeat in range(6):
        text.append(action.run(DECISION._replace(repeat=repeat)).done)
        clock.advance(60.0)
    assert text == [True, True, True, False, False, False]
    assert "freed nothing" in action.run(DECISION._replace(repeat=9)).message
    assert action.run(DECISION).done


def test_a_program_that_switched_it_off_is_left_alone(collector: Collector, clock: FakeClock) -> None:
    """The outcome says why."""
    gc.disable()
    try:
        outcome = Collect(monotonic=clock.monotonic).run(DECISION)
        assert (outcome.done, collector.generations) == (False, [])
        assert "disabled the collector" in outcome.message
    finally:
        gc.enable()


@pytest.mark.contract("V-10", "W1-12")
@pytest.mark.parametrize(
    ("back", "text"),
    [
        pytest.param(300 << 20, "300.0 MiB came back", id="much"),
        pytest.param(1000, "nothing measurable came back", id="noise"),
        pytest.param(0, "nothing measurable came back", id="nothing"),
        pytest.param(-(50 << 20), "nothing measurable came back", id="others took more"),
    ],
)
def test_the_outcome_has_the_decrease_unless_it_is_noise(
    collector: Collector, clock: FakeClock, back: int, text: str
) -> None:
    """By the resident size before and after; less than noise is no gain, and neither is a loss."""
    sizes = iter([1 << 30, (1 << 30) - back])
    outcome = Collect(monotonic=clock.monotonic, resident=lambda: next(sizes)).run(DECISION)
    assert outcome.message == f"100 objects freed (all generations), {text}"


def test_what_could_not_be_measured_is_not_made_up(collector: Collector, clock: FakeClock) -> None:
    """Without a reader, or with one that fails."""

    def fails() -> int:
        raise ReadError("statm", "/proc/self/statm", "denied")

    for resident in (None, fails):
        outcome = Collect(monotonic=clock.monotonic, resident=resident).run(DECISION)
        assert outcome.done
        assert outcome.message.endswith("what came back was not measured")


def test_noise_is_a_mebibyte_at_least() -> None:
    """And more where many processors count for themselves."""
    assert noise() >= 1 << 20


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_that_is_none(share: float) -> None:
    """It is a part of the time."""
    with pytest.raises(SettingsError, match="share"):
        Collect(share=share)


def test_a_generation_that_there_is_not() -> None:
    """At construction, not in an emergency."""
    with pytest.raises(SettingsError, match="generation 3"):
        Collect(generation=3)
