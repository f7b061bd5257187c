"""Facts and what is computed from them."""

import pickle
from typing import Any

import pytest

from memwarden.model.facts import CgroupMemory, ProcessKey, ProcessMemory, SystemMemory, TreeMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel
from support.values import BARE, FULL, KEY, LIMIT, PROCESS, TREE


def test_used_is_what_is_not_available() -> None:
    """The machine's level is judged on it, not on MemFree."""
    assert SystemMemory(1000, 300, 50, 200, 0, 0).used == 700


@pytest.mark.parametrize(
    ("usage", "reclaimable", "counted"),
    [
        pytest.param(500, 200, 300, id="file cache does not count against the limit"),
        pytest.param(100, 120, 0, id="two counters read at two moments never give less than nothing"),
    ],
)
def test_a_working_set_leaves_out_what_can_be_reclaimed(usage: int, reclaimable: int, counted: int) -> None:
    """Usage minus what the kernel drops before it kills."""
    assert CgroupMemory("/a", 2, usage, 1000, reclaimable).working_set == counted


def test_a_tree_gives_rows_largest_first() -> None:
    """Columns become single facts on demand, each with its own identity; sums stay the same."""
    tree = TreeMemory(KEY, (KEY, ProcessKey(7, 1), ProcessKey(8, 2)), ("a", "b", "c"), (10, 30, 20), (1, 2, 3))
    rows = tree.rows()
    assert [(row.key.pid, row.name, row.rss, row.anon, row.shared) for row in rows] == [
        (7, "b", 30, 28, 2),
        (8, "c", 20, 17, 3),
        (4242, "a", 10, 9, 1),
    ]
    assert (tree.total, tree.anon) == (60, 54) == (sum(row.rss for row in rows), sum(row.anon or 0 for row in rows))


def test_what_is_watched_is_the_tree_before_the_process() -> None:
    """A process is a part of its tree; where neither was read nothing is invented."""
    sample = Sample(0.0, 0.0, process=PROCESS, tree=TREE)
    assert sample.used == TREE.total
    assert sample._replace(tree=None).used == PROCESS.rss
    assert Sample(0.0, 0.0).used is None


def test_a_limit_may_be_passed() -> None:
    """Headroom is then negative and the ratio above one; both can be shown."""
    passed = Constraint(Limit(100, "asked"), 130)
    assert (passed.headroom, passed.ratio) == (-30, 1.3)


def test_a_verdict_without_facts_has_no_ratio() -> None:
    """None, not zero percent."""
    assert Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, 0.0).ratio is None
    assert Assessment(PressureLevel.LOW, PressureLevel.LOW, Constraint(LIMIT, 500), LIMIT, 0, 0.0).ratio == 0.5


@pytest.mark.parametrize("value", FULL + BARE, ids=lambda value: type(value).__name__)
def test_values_cannot_be_changed(value: Any) -> None:
    """They are passed between threads, so none may be changed; no new attribute fits either."""
    field = next(iter(getattr(value, "_fields", None) or value.__dataclass_fields__))
    with pytest.raises(AttributeError):
        setattr(value, field, None)
    with pytest.raises((AttributeError, TypeError)):
        value.remark = "mine"


@pytest.mark.parametrize("value", FULL + BARE, ids=lambda value: type(value).__name__)
def test_values_can_be_sent_to_another_process(value: Any) -> None:
    """Pickle keeps them."""
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_process_is_more_than_its_pid() -> None:
    """The same pid with another start is another process."""
    assert ProcessMemory(ProcessKey(5, 1), "a", 1) != ProcessMemory(ProcessKey(5, 2), "a", 1)
