"""What goes into a record comes out of it."""

import dataclasses
import json
import types
import typing
from datetime import datetime
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwarden.errors import SettingsError
from memwarden.model.serialize import TYPES, from_dict, iso, to_dict

#: From 1970 to 2100.
walls = st.floats(0, 4_102_444_800, allow_nan=False)
texts = st.text(st.characters(exclude_categories=()), max_size=20)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def strategy(hint: Any, field: str = "") -> st.SearchStrategy[Any]:
    """Values of an annotated field."""
    origin, args = get_origin(hint), get_args(hint)
    if field == "wall":
        return walls
    if hint is Any:
        return st.none() | st.sampled_from(sorted(TYPES)).flatmap(lambda name: of_type(TYPES[name]))
    if origin in (types.UnionType, typing.Union):
        (inner,) = (each for each in args if each is not type(None))
        return st.none() | strategy(inner)
    if origin is tuple:
        return st.lists(strategy(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(texts, plain_values, max_size=3)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    simple: dict[Any, st.SearchStrategy[Any]] = {int: st.integers(), str: texts, bool: st.booleans()}
    return simple[hint] if hint in simple else of_type(hint)


def of_type(cls: Any) -> st.SearchStrategy[Any]:
    """Values of one of our types, every field drawn."""
    names = getattr(cls, "_fields", None) or [field.name for field in dataclasses.fields(cls)]
    hints = get_type_hints(cls)
    return st.fixed_dictionaries({name: strategy(hints[name], name) for name in names}).map(lambda made: cls(**made))


def rounded(value: Any) -> Any:
    """The value with its wall clocks as microseconds can show them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_fields"):
        made = value._asdict()
    else:
        return tuple(rounded(each) for each in value) if isinstance(value, tuple) else value
    for name, each in made.items():
        made[name] = datetime.fromisoformat(iso(each)).timestamp() if name == "wall" else rounded(each)
    return type(value)(**made)


@pytest.mark.parametrize("name", sorted(TYPES))
@given(st.data())
def test_every_type_survives_json(name: str, data: st.DataObject) -> None:
    """Any value of it, through the text of a line, with the wall clock to the microsecond."""
    value = data.draw(of_type(TYPES[name]))
    text = json.dumps(to_dict(value), allow_nan=False, ensure_ascii=False)
    assert "\n" not in text
    assert from_dict(json.loads(text)) == rounded(value)


@given(walls)
def test_a_time_is_exact_to_the_microsecond(wall: float) -> None:
    """And always 32 characters, so that lines sort."""
    text = iso(wall)
    assert len(text) == 32
    assert abs(datetime.fromisoformat(text).timestamp() - wall) <= 1e-6


KEYS = ("time", "value", "system", "process", "gaps", "kind", "bytes", "level", "cgroups", "key")
near_records = st.fixed_dictionaries(
    {"schema": st.just(1) | plain_values, "type": st.sampled_from(sorted(TYPES)) | plain_values},
    optional=dict.fromkeys(KEYS, plain_values),
)


@given(near_records | plain_values)
def test_any_json_is_a_value_or_a_settings_error(plain: Any) -> None:
    """A record may have been written by any program."""
    try:
        value = from_dict(plain)
    except SettingsError:
        return
    assert type(value) in TYPES.values()
