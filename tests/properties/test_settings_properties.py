"""Settings, whatever is written."""

from __future__ import annotations

import json
import string
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memwarden.errors import SettingsError
from memwarden.settings import OPTIONS, RULE_KEYS, Option, read, resolve
from memwarden.settings.options import Choice, Duration, Kind, Size, Switch
from memwarden.settings.options import Path as PathKind
from support.json_schema import allows

FILED = [option for option in OPTIONS if option.in_file]
words = st.text(string.ascii_letters + string.digits + "/._- #'\"\\", min_size=1).filter(
    lambda text: text.strip() == text
)


def texts(option: Option) -> st.SearchStrategy[str]:
    """What may be written for an option, as text that a file and a variable can both hold."""
    match option.kind:
        case Switch():
            return st.sampled_from(["true", "false"])
        case Choice(known):
            return st.sampled_from(known)
        case Duration(least, most):
            return st.integers(max(1, int(least * 1000)), int(most * 1000)).map(lambda number: f"{number}ms")
        case Size():
            return st.builds("{}{}".format, st.integers(1, 10**6), st.sampled_from(["", "K", "MiB", "GB", "Ti"]))
        case PathKind():
            return words.map(lambda text: "/" + text)
    return words


def value_of(option: Option, text: str) -> Any:
    """What the text means."""
    return option.kind.parse(text)


def file_text(values: dict[str, str]) -> str:
    """A settings file that shows so (a JSON text is a TOML text, too)."""
    said = {name: text if text in ("true", "false") else json.dumps(text) for name, text in values.items()}
    return "".join(f"{name} = {text}\n" for name, text in said.items())


given_values = st.fixed_dictionaries({}, optional={option.name: texts(option) for option in FILED})


@pytest.mark.contract("X-28")
@given(st.tuples(given_values, given_values, given_values, given_values))
def test_the_nearest_source_wins_for_each_option(layers: tuple[dict[str, str], ...]) -> None:
    """Whatever is given where: each option has the value of the nearest source that names it, and shows which."""
    arguments, flags, variables, filed = layers
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memwarden.toml"
        path.write_text(file_text(filed), encoding="utf-8")
        settings = resolve(
            flags,
            {"HOME": folder, **{f"MEMWARDEN_{name.upper()}": text for name, text in variables.items()}},
            arguments={
                name: value_of(by_name(name), text) if by_name(name).is_switch else text
                for name, text in arguments.items()
            },
            directory=folder,
        )
    for option in FILED:
        name = option.name
        kind, value = "default", option.default
        for source, said in (("argument", arguments), ("flag", flags), ("environment", variables), ("file", filed)):
            if name in said:
                kind, value = source, value_of(option, said[name])
                break
        assert (settings.sources[name].kind, getattr(settings, name)) == (kind, value)
        if kind == "file":
            assert settings.sources[name].where == str(path)


def by_name(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)


plain = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
almost = st.from_regex(r"\s*[0-9.]{1,8}\s*[kmgtKMGT]?i?[bBsShHdD]?%?\s*", fullmatch=True) | plain


#: Each kind once, by its name and figures.
KINDS = {f"{type(row.kind).__name__}: {row.kind.allowed}": row.kind for row in (*OPTIONS, *RULE_KEYS)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(value=almost)
@example(value=0)
@example(value=0.01)
@example(value="1Ki")
@example(value="10min")
def test_the_schema_allows_what_is_understood(kind: Kind, value: Any) -> None:
    """Nothing that is taken is marked by an editor; of what is refused, only a text out of its range is not."""
    reported = ""
    try:
        kind.take(value)
    except SettingsError as error:
        reported = str(error)
    if not reported:
        assert allows(kind.schema(), value)
    elif allows(kind.schema(), value):
        assert isinstance(value, str)
        assert any(word in reported for word in ("range", "must be more than", "more than 100%", "digits"))


@given(st.text(max_size=200) | st.binary(max_size=200))
@example('a = """\n')
@example("[[rules]]\n[[rules]]\nx = 1")
@example("rules = [[]]")
@example("[tool.memwarden]")
@example("a.b.c = 1\n'' = 2")
def test_whatever_a_file_holds_is_read_or_reported(content: str | bytes) -> None:
    """No exception, and each fault names the file."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("memwarden.toml", "pyproject.toml"):
            path = Path(folder) / name
            path.write_bytes(raw)
            reported = read(str(path), {})
            assert all(fault.path == str(path) and fault.message for fault in reported.faults)


@given(given_values)
def test_every_key_is_found(values: dict[str, str]) -> None:
    """Also where texts hold quotes, signs and hashes."""
    text = file_text(values)
    assert set(tomllib.loads(text)) == set(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memwarden.toml"
        path.write_text(text, encoding="utf-8")
        reported = read(str(path), {})
    assert (reported.faults, set(reported.values)) == ((), set(values))
