"""The error tree: drawn where errors live, caught as expected, sent between processes."""

import copy
import inspect
import pickle
import re

import pytest

from memwarden import errors
from memwarden.errors import (
    ActionFailed,
    CeilingUnavailable,
    DoesNotFit,
    ExtraMissing,
    IsolationFailed,
    LaunchError,
    LimitExceeded,
    MemwardenError,
    NotAdmitted,
    ReadError,
    RecordError,
    SettingsError,
    TargetChanged,
    TaskTooLarge,
    WorkerLost,
)

#: One of each, with the attributes that it must keep.
EXAMPLES: list[tuple[MemwardenError, dict[str, object]]] = [
    (MemwardenError("m"), {}),
    (SettingsError("size 'x': not understood"), {}),
    (
        ReadError("statm", "/proc/1/statm", "gone", "no such process"),
        {"what": "statm", "where": "/proc/1/statm", "why": "gone", "detail": "no such process"},
    ),
    (LimitExceeded("too much", limit=100, used=130), {"limit": 100, "used": 130}),
    (LimitExceeded("too much", limit=100), {"limit": 100, "used": None}),
    (
        TaskTooLarge("too large", predicted=7, used=9, limit=8, attempts=2),
        {"predicted": 7, "used": 9, "limit": 8, "attempts": 2},
    ),
    (WorkerLost("it is gone", code=-9), {"code": -9}),
    (ActionFailed("no"), {}),
    (TargetChanged("pid 5 belongs to another process now"), {}),
    (NotAdmitted("no new work"), {}),
    (DoesNotFit("too large", asked=9, budget=5, source="machine"), {"asked": 9, "budget": 5, "source": "machine"}),
    (LaunchError("no such command", errno=2, stage="exec"), {"errno": 2, "stage": "exec"}),
    (CeilingUnavailable("no cgroups"), {}),
    (IsolationFailed("it crashed", signal=11), {"code": None, "signal": 11}),
    (RecordError("disk full", path="/a/b"), {"path": "/a/b"}),
    (ExtraMissing("the dashboard", "web"), {"extra": "web", "msg": str(ExtraMissing("the dashboard", "web"))}),
]
BUILTIN = {each.__name__: each for each in (ValueError, MemoryError, ImportError, RuntimeError)}


def classes() -> list[type[MemwardenError]]:
    """Every error that the module defines, as it stands in the file."""
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, MemwardenError)]


def drawn() -> list[tuple[int, str, str | None]]:
    """The tree of the docstring: depth, name and the built-in error that it also is."""
    found = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ├└─]*)([A-Z]\w+)(?: \((\w+)\))?", line)
        if match:
            found.append((len(match[1]) // 4, match[2], match[3]))
    return found


def actual(cls: type[MemwardenError] = MemwardenError, depth: int = 0) -> list[tuple[int, str, str | None]]:
    """The tree of the classes, in the same shape."""
    also = [base.__name__ for base in cls.__bases__ if not issubclass(base, MemwardenError) and base is not Exception]
    rows = [(depth, cls.__name__, also[0] if also else None)]
    for child in classes():
        if cls in child.__bases__:
            rows += actual(child, depth + 1)
    return rows


def test_the_drawn_tree_is_the_tree() -> None:
    """Names, places and the built-in errors in brackets."""
    assert drawn() == actual()


def test_no_error_is_left_out_of_these_tests() -> None:
    """Each has an example."""
    assert {type(error) for error, _ in EXAMPLES} == set(classes())


@pytest.mark.parametrize(("error", "kept"), EXAMPLES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_the_way_to_another_process(
    error: MemwardenError, kept: dict[str, object], protocol: int
) -> None:
    """Type, message, attributes and notes: task queues pickle them."""
    copied = copy.copy(error)
    copied.add_note("while chunk 3 was encoded")
    again = pickle.loads(pickle.dumps(copied, protocol))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
    assert {name: getattr(again, name) for name in kept} == kept
    assert again.__notes__ == ["while chunk 3 was encoded"]


@pytest.mark.parametrize(("error", "kept"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_one_name_catches_them_all(error: MemwardenError, kept: dict[str, object]) -> None:
    """And the built-in name that a program already catches still works."""
    also = next(row[2] for row in drawn() if row[1] == type(error).__name__)
    with pytest.raises(BUILTIN.get(also or "", MemwardenError)):
        raise error
    assert isinstance(error, MemwardenError)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_error_explains_itself(cls: type[MemwardenError]) -> None:
    """A sentence of its own, not an inherited one."""
    assert cls.__doc__
    assert cls.__doc__ not in {base.__doc__ for base in cls.__bases__}


def test_a_read_error_reads_like_a_sentence() -> None:
    """What, why, where, and the system's words where there are some."""
    assert str(ReadError("statm", "/proc/1/statm", "gone")) == "statm: gone at /proc/1/statm"
    assert str(ReadError("statm", "/x", "broken", "I/O error")) == "statm: broken at /x (I/O error)"


def test_a_missing_extra_has_the_command_to_type() -> None:
    """With quotes, because a shell would take the brackets for a pattern."""
    assert "pip install 'memwarden[web]'" in str(ExtraMissing("the dashboard", "web"))
