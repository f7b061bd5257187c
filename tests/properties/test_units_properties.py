"""Sizes and durations, whatever is written."""

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size

UNITS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
UNITS |= {"K": 1024, "M": 1 << 20, "G": 1 << 30, "Ki": 1024, "kB": 1000, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MOST = (1 << 63) - 1

anything = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"\s*[0-9.]{0,30}\s*[kmgtKMGT]?i?[bB]?%?\s*", fullmatch=True),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=2),
)


@given(anything, st.none() | st.integers(1, MOST))
@example("9" * 4301, None)
@example("0." + "0" * 400 + "1", None)
def test_a_size_is_a_positive_int_or_a_settings_error(text: object, of: int | None) -> None:
    """Nothing else comes out, for anything that goes in."""
    try:
        size = parse_size(text, of=of)  # type: ignore[arg-type]
    except SettingsError:
        return
    assert type(size) is int
    assert 0 < size <= MOST


@given(anything)
@example(10**400)
def test_a_duration_is_a_positive_float_or_a_settings_error(text: object) -> None:
    """Nothing else comes out, for anything that goes in."""
    try:
        seconds = parse_duration(text)  # type: ignore[arg-type]
    except SettingsError:
        return
    assert type(seconds) is float
    assert 0 < seconds < float("inf")


@given(st.integers(1, MOST))
def test_bytes_written_as_a_number_come_back(size: int) -> None:
    """As a text and as an int, to the last byte."""
    assert parse_size(str(size)) == parse_size(size) == parse_size(f"{size}B") == size


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]), st.booleans())
def test_whole_numbers_with_a_unit_are_exact(number: int, unit: str, space: str, lower: bool) -> None:
    """Spaces and small letters do not matter."""
    text = f"{number}{space}{unit}"
    assert parse_size(text.lower() if lower else text) == number * UNITS[unit]


@given(st.integers(0, 10**6), st.integers(0, 9999), st.sampled_from(["MiB", "kB", "GB", "GiB"]))
def test_fractions_are_exact_to_the_byte(whole: int, fraction: int, unit: str) -> None:
    """Rounded down from the exact value, as no float could."""
    text = f"{whole}.{fraction:04}"
    expected = int(Fraction(text) * UNITS[unit])
    if expected:
        assert parse_size(text + unit) == expected


@given(st.integers(1, 1 << 62), st.integers(1, 10_000))
def test_a_share_is_never_more_than_the_limit(limit: int, hundredths: int) -> None:
    """And exact."""
    text = f"{hundredths / 100:.2f}%"
    expected = limit * hundredths // 10_000
    if expected:
        assert parse_size(text, of=limit) == expected <= limit


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_seconds_written_as_a_number_come_back(seconds: float) -> None:
    """As a float, and as a text without an exponent."""
    assert parse_duration(seconds) == seconds
    text = f"{seconds:.9f}"
    if float(text) > 0:
        assert parse_duration(text) == parse_duration(f"{text}s") == float(text)
