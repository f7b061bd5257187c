"""Objects are counted rarely, and what was counted shows how old it is."""

import gc

import pytest

from memwarden.readers.gc_objects import GcObjects


@pytest.mark.contract("S3-4", "W3-9")
def test_counting_takes_a_thousandth_of_the_time():
    """It took 31 ms: for 31 s the last count is returned, with its age."""
    now, counted = [0.0], []

    def count():
        now[0] += 0.031
        counted.append(now[0])
        return len(counted)

    reader = GcObjects(count=count, monotonic=lambda: now[0])
    assert reader.due
    assert reader.objects() == (1, 0.0)
    now[0] += 30.9
    assert not reader.due
    assert reader.objects() == (1, pytest.approx(30.9))
    now[0] += 0.2
    assert reader.objects() == (2, 0.0)
    assert len(counted) == 2


def test_it_counts_the_objects_of_the_collector():
    """All generations, once each."""
    kept = [[] for _ in range(1000)]
    before = len(gc.get_objects())
    assert GcObjects().objects()[0] == pytest.approx(before, rel=0.02)
    del kept
