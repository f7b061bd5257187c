"""Claims on the soft limit of the process."""

import pytest

from memwarden.guards.limit import data_rlimit
from memwarden.guards.limit.data_rlimit import DataRlimit

resource = pytest.importorskip("resource")
FOUND = 50 << 30


class Limits:
    """The limits of a process, with the names of the module ``resource``."""

    RLIMIT_DATA, RLIM_INFINITY = 2, -1

    def __init__(self, soft, hard=-1):
        self.now = soft, hard

    def getrlimit(self, which):
        assert which == self.RLIMIT_DATA
        return self.now

    def setrlimit(self, which, limits):
        assert which == self.RLIMIT_DATA
        soft, hard = limits
        if hard not in (-1,) and (soft == -1 or soft > hard):
            raise ValueError("above the hard limit")
        self.now = limits


@pytest.fixture(params=[-1, FOUND], ids=["unlimited", "limited"])
def limits(request, monkeypatch):
    """A process that has a limit, or none."""
    limits = Limits(request.param)
    monkeypatch.setattr(data_rlimit, "resource", limits)
    return limits


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_lowest_claim_holds_and_the_first_limit_comes_back(limits, order):
    """In any order of release."""
    before, rlimit, claims = limits.now, DataRlimit(), {0: 3 << 30, 1: 1 << 30, 2: 2 << 30}
    for owner, data in claims.items():
        assert rlimit.claim(owner, data)
    for owner in order:
        assert limits.now[0] == min(claims.values())
        del claims[owner]
        rlimit.release(owner)
        assert not rlimit.binds(owner)
    assert limits.now == before


def test_a_limit_that_other_code_sets_stays(limits):
    """Then and later; only a block that starts afterwards sets another, and restores theirs."""
    rlimit = DataRlimit()
    rlimit.claim("a", 1 << 30)
    rlimit.claim("b", 2 << 30)
    limits.now = 7 << 30, -1
    rlimit.release("b")
    assert limits.now == (7 << 30, -1)
    assert not rlimit.binds("a")
    rlimit.release("a")
    assert limits.now == (7 << 30, -1)
    rlimit.claim("c", 4 << 30)
    assert limits.now[0] == 4 << 30
    rlimit.release("c")
    assert limits.now == (7 << 30, -1)


def test_a_lower_limit_is_not_raised(monkeypatch):
    """A block with a higher limit does not lift the process's own."""
    limits = Limits(1 << 30)
    monkeypatch.setattr(data_rlimit, "resource", limits)
    mine = DataRlimit()
    assert mine.claim("a", 5 << 30)
    assert limits.now[0] == 1 << 30
    mine.release("a")
    assert limits.now[0] == 1 << 30


def test_a_limit_that_cannot_be_set_is_no_claim(monkeypatch):
    """The system refuses: nothing is set, nothing is raised."""
    limits = Limits(1 << 30, 1 << 30)
    monkeypatch.setattr(data_rlimit, "resource", limits)
    monkeypatch.setattr(limits, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError()))
    mine = DataRlimit()
    assert not mine.claim("a", 1 << 20)
    assert not mine.binds("a")
    mine.release("a")
    mine.clear()
