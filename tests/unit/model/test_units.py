"""Sizes and durations as people write them."""

import pytest

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("512MiB", 512 << 20, id="IEC"),
        pytest.param("512M", 512 << 20, id="as cgroup files, systemd and Docker mean it"),
        pytest.param("512Mi", 512 << 20, id="as Kubernetes means it"),
        pytest.param("512MB", 512_000_000, id="SI"),
        pytest.param("1kB", 1000, id="SI, small k"),
        pytest.param("1K", 1024, id="a bare K is binary"),
        pytest.param("2G", 2 << 30, id="G"),
        pytest.param("2gib", 2 << 30, id="small letters"),
        pytest.param("3TiB", 3 << 40, id="T"),
        pytest.param("1.5GiB", 3 << 29, id="a fraction"),
        pytest.param("1.001kB", 1001, id="a fraction that a float would round down"),
        pytest.param(" 12 MiB ", 12 << 20, id="spaces"),
        pytest.param("4096", 4096, id="a bare number is bytes"),
        pytest.param("4096b", 4096, id="bytes, said"),
        pytest.param(4096, 4096, id="an int is bytes"),
        pytest.param("9223372036854771712", 9223372036854771712, id="exact beyond 2**53"),
        pytest.param((1 << 63) - 1, (1 << 63) - 1, id="the most that a kernel counts"),
    ],
)
def test_sizes_are_bytes_once_read(text: str | int, size: int) -> None:
    """Powers of 1024 unless the unit is a decimal one; nothing is rounded."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "of", "size"),
    [
        pytest.param("80%", 1000, 800, id="a share"),
        pytest.param("100 %", 1 << 40, 1 << 40, id="all of it"),
        pytest.param("0.1%", 10_000, 10, id="a fraction of a percent"),
        pytest.param("50%", (1 << 62) + 2, (1 << 61) + 1, id="exact beyond 2**53"),
    ],
)
def test_a_percentage_is_of_the_known_limit(text: str, of: int, size: int) -> None:
    """``of`` is what a percentage refers to."""
    assert parse_size(text, of=of) == size


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("MiB", id="no number"),
        pytest.param("-1", id="negative"),
        pytest.param("0", id="zero"),
        pytest.param("0.2", id="less than a byte"),
        pytest.param(0, id="zero, an int"),
        pytest.param(-5, id="negative, an int"),
        pytest.param(True, id="a truth value is no number of bytes"),
        pytest.param(1.5, id="half a byte"),
        pytest.param(None, id="None"),
        pytest.param("5i", id="binary of nothing"),
        pytest.param("5iB", id="binary bytes"),
        pytest.param("1e3", id="an exponent"),
        pytest.param("1_000", id="an underscore"),
        pytest.param("512PiB", id="an unknown unit"),
        pytest.param("5\u212a", id="the Kelvin sign is not K"),
        pytest.param("٣", id="digits of another script"),
        pytest.param("80%", id="a percentage of nothing known"),
        pytest.param("8388608TiB", id="2**63 bytes"),
        pytest.param(1 << 63, id="2**63 bytes, an int"),
        pytest.param("9" * 5000, id="more digits than int() takes"),
        pytest.param("9" * 400 + ".5", id="beyond the largest float"),
        pytest.param(-(10**5000), id="an int that has no text"),
    ],
)
def test_what_is_no_size_is_named_in_a_short_message(text: object) -> None:
    """SettingsError, and never another error, quotes what was given."""
    with pytest.raises(SettingsError, match=r"^size ") as caught:
        parse_size(text)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_more_than_all_is_refused() -> None:
    """A share above 100 % is a mistake, just above too."""
    with pytest.raises(SettingsError, match="100%"):
        parse_size("100.01%", of=1000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("2s", 2.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("1.5", 1.5),
        (" 3 S ", 3.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_durations_are_seconds_once_read(text: str | float, seconds: float) -> None:
    """A bare number is seconds."""
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("soon", id="a word"),
        pytest.param("0", id="zero"),
        pytest.param(0.0, id="zero, a float"),
        pytest.param("-1s", id="negative"),
        pytest.param(float("nan"), id="not a number"),
        pytest.param(float("inf"), id="for ever"),
        pytest.param(float("-inf"), id="minus for ever"),
        pytest.param("9" * 400, id="beyond the largest float"),
        pytest.param(10**400, id="an int beyond the largest float"),
        pytest.param(-(10**5000), id="an int that has no text"),
        pytest.param(False, id="a truth value"),
        pytest.param(None, id="None"),
        pytest.param("1w", id="an unknown unit"),
    ],
)
def test_what_is_no_duration_is_named_in_a_short_message(text: object) -> None:
    """SettingsError, and never another error."""
    with pytest.raises(SettingsError, match=r"^duration ") as caught:
        parse_duration(text)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200
