"""Values as JSON text."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import to_dict, to_json
from support.values import BARE, DECISION, EVENT, FULL, GROUP, PROCESS, PSI, READING, SAMPLE, WALL


@pytest.mark.parametrize("value", FULL + BARE, ids=lambda value: type(value).__name__)
def test_the_text_is_that_of_the_plain_value(value: Any) -> None:
    """For every type in full, and with nothing but what it must have."""
    assert json.loads(to_json(value)) == to_dict(value)


@pytest.mark.parametrize(
    "value",
    [
        EVENT._replace(message='a "quote", a \\, a \n, a \x00, an é, a \U0001f600 and a \ud800'),
        PROCESS._replace(name="{not} a %s format {0}"),
        PROCESS._replace(rss=1.5),
        PROCESS._replace(rss=math.nan),
        PROCESS._replace(rss=True),
        PROCESS._replace(swap="lots"),
        GROUP._replace(usage=1 << 80, path=b"bytes"),
        PSI._replace(some=PSI.some._replace(avg10=math.inf)),
        PSI._replace(some=PSI.some._replace(avg10=0)),
        SAMPLE._replace(monotonic=math.nan, late=-0.0),
        SAMPLE._replace(gaps=[("a", "tuple"), "words"]),
        SAMPLE._replace(monotonic=1e300, late=5e-324),
        READING._replace(assessment=None),
        DECISION._replace(repeat=None, details={"nan": math.nan, "inner": SAMPLE}),
        Event(kind=EventKind.TROUBLE, wall=WALL, monotonic=1.0, value={"any": [PROCESS, 1.5, None]}),
        Event(kind=EventKind.TROUBLE, wall=WALL, monotonic=1.0, value=(1, "a")),
        Event(kind=EventKind.TROUBLE, wall=WALL, monotonic=1.0, value=object),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_type_allows_is_written_all_the_same(value: Any) -> None:
    """Readers and rules of others may put anything into a field: the text stays JSON, on one line."""
    text = to_json(value)
    assert json.loads(text) == to_dict(value)
    assert "\n" not in text
