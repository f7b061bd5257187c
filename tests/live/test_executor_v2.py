"""The executor on control groups of version 2, in a guest with their memory controller."""

from __future__ import annotations

from support.guest import Guest


def test_everything_about_version_2(guest: Guest) -> None:
    """The tests of guest_executor2.py pass there, in one boot."""
    result = guest.pytest("tests/live/guest_executor2.py", "-p", "no:cacheprovider", timeout_s=115)
    assert result.returncode == 0, result.output[-6000:]
    assert " skipped" not in result.output, result.output[-6000:]
