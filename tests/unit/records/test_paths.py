"""Default locations of records."""

import os
import tempfile

import pytest

from memwarden.records.paths import state_directory


@pytest.mark.contract("S2-62", "W2-5")
@pytest.mark.parametrize(
    ("platform", "environment", "place"),
    [
        pytest.param("linux", {"HOME": "/home/u"}, "/home/u/.local/state/memwarden", id="Linux"),
        pytest.param("linux", {"HOME": "/home/u", "XDG_STATE_HOME": "/s"}, "/s/memwarden", id="Linux, moved"),
        pytest.param(
            "linux",
            {"HOME": "/home/u", "XDG_STATE_HOME": "state"},
            "/home/u/.local/state/memwarden",
            id="a relative one counts as not set",
        ),
        pytest.param("darwin", {"HOME": "/Users/u"}, "/Users/u/Library/Application Support/memwarden", id="macOS"),
        pytest.param(
            "win32",
            {"LOCALAPPDATA": r"C:\Users\u\AppData\Local", "APPDATA": r"C:\Users\u\AppData\Roaming"},
            r"C:\Users\u\AppData\Local\memwarden",
            id="Windows",
        ),
        pytest.param(
            "win32", {"APPDATA": r"C:\Users\u\AppData\Roaming"}, r"C:\Users\u\AppData\Roaming\memwarden", id="roaming"
        ),
        pytest.param(
            "win32",
            {"USERPROFILE": r"C:\Users\u", "HOME": "/home/u"},
            r"C:\Users\u\AppData\Local\memwarden",
            id="Windows, a bare environment",
        ),
    ],
)
def test_each_platform_has_a_place_of_the_users_own(platform: str, environment: dict[str, str], place: str) -> None:
    """Its own convention for state that may be kept, in its own way of writing paths."""
    assert state_directory(environment, platform) == place


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_without_a_home_the_directory_is_still_the_users_own(environment: dict[str, str]) -> None:
    """Not a name that all users of the machine share."""
    assert state_directory(environment, "linux") == f"{tempfile.gettempdir()}/memwarden-{os.getuid()}"


def test_by_default_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is called, not when it is imported; and nothing is made."""
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere/at/all")
    assert state_directory(platform="linux") == "/nowhere/at/all/memwarden"
    assert not os.path.exists("/nowhere")
