"""Fixtures for every room, and what is skipped on systems other than Linux."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: What is about Linux alone, and why: files below this folder, or single tests.
LINUX_ONLY = {
    "control groups are Linux' own": ("unit/readers/test_cgroup.py", "unit/contain/test_witness.py"),
    "/proc is Linux' own": (
        "unit/readers/test_files.py",
        "unit/readers/test_meminfo.py",
        "unit/readers/test_process.py",
        "unit/readers/test_tree.py",
        "properties/test_parsers_properties.py",
        "unit/assess/test_pressure.py::test_a_container_is_judged_on_its_own_limit",
    ),
    "commands are held on Linux alone": ("unit/contain/test_polling_pace.py",),
    "/dev/full is Linux' own": ("unit/records/test_jsonl.py::test_a_device_that_is_always_full",),
}
#: What Windows does not have, and why.
POSIX_ONLY = {
    "Windows' Python does not take up a TZ": (
        "unit/model/test_plain.py::test_times_are_iso_8601_with_microseconds_and_offset",
        "unit/model/test_plain.py::test_the_hour_that_comes_twice_is_told_apart",
        "unit/records/test_jsonl.py::test_times_are_iso_8601_with_microseconds_and_offset",
    ),
    "Windows has no permission bits": (
        "unit/records/test_jsonl.py::test_a_missing_folder_is_made",
        "unit/compat/test_compat_simple_memory_monitor.py::test_missing_folders_are_made",
    ),
    "making a link needs a privilege on Windows": (
        "unit/records/test_jsonl.py::test_no_link_is_followed",
        "unit/compat/test_compat_simple_memory_monitor.py::test_a_log_that_cannot_be_is_told_at_once",
    ),
    "Windows has no pipes in directories": ("unit/records/test_jsonl.py::test_a_pipe_has_nothing_to_flush",),
    "Windows has other places, which test_platforms.py looks at": (
        "unit/records/test_places.py::test_without_a_home_the_directory_is_still_the_users_own",
        "unit/compat/test_compat_simple_memory_monitor.py::test_the_default_log_is_in_a_place_of_ones_own",
        "unit/compat/test_compat_simple_memory_monitor.py::test_a_default_log_that_cannot_be_is_only_logged",
    ),
    "Windows has other signals": (
        "unit/compat/test_compat_memory_manager.py::test_importing_and_watching_leave_signal_handlers_alone",
    ),
}

#: About real kernels, signals and containers: not even looked into elsewhere.
LINUX_FOLDERS = ("live", "leaks", "faults", "seeds", "examples")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over what could not even be imported."""
    ours = collection_path.parent == Path(__file__).parent and collection_path.name in LINUX_FOLDERS
    return True if ours and sys.platform != "linux" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this system does not have, each with its reason."""
    skipped: dict[str, tuple[str, ...]] = {} if sys.platform == "linux" else LINUX_ONLY
    if sys.platform == "win32":
        skipped = LINUX_ONLY | POSIX_ONLY
    for item in items:
        name = item.nodeid.removeprefix("tests/").partition("[")[0]
        for reason, places in skipped.items():
            if name in places or name.partition("::")[0] in places:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time zone, as the variable TZ has it, until the test ends."""

    def put(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()
