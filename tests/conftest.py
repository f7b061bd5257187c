"""Fixtures for all tests, what is skipped on systems other than Linux, and tests in processes of their own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Under `make test &` SIGINT is ignored, under `nohup` SIGHUP, and the programs that tests start inherit that. With a
# handler here they get the default disposition at exec; the test run itself still survives SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

#: What is about Linux alone, and why: files below this folder, or single tests.
LINUX_ONLY = {
    "control groups are Linux' own": ("unit/readers/test_cgroup.py", "unit/contain/test_oom_events.py"),
    "/proc is Linux' own": (
        "unit/compat/test_process_info.py",
        "unit/compat/test_compat_memory_init.py::test_the_status_has_its_three_parts_before_set_up_too",
        "unit/compat/test_compat_memory_init.py::test_what_cannot_be_read_is_reported_and_the_rest_stays",
        "unit/compat/test_compat_simple_memory_monitor.py::test_processes_that_cannot_be_read_are_reported",
        "unit/engine/test_alert_table.py",
        "unit/engine/test_real_readers.py",
        "unit/readers/test_files.py",
        "unit/readers/test_peak.py",
        "unit/readers/test_machine.py",
        "unit/readers/test_meminfo.py",
        "unit/readers/test_max_age.py",
        "unit/readers/test_process.py",
        "unit/readers/test_psi.py",
        "unit/readers/test_pss.py",
        "unit/readers/test_tree.py",
        "unit/readers/test_tree_walks.py",
        "properties/test_parsers_properties.py",
        "unit/assess/test_pressure.py::test_a_container_is_judged_on_its_own_limit",
    ),
    "other systems keep settings in another folder": ("unit/settings/test_files.py::test_the_nearest_file_is_taken",),
    "commands are held on Linux alone": ("unit/contain/test_polling_pace.py",),
    "/dev/full is Linux' own": ("unit/records/test_jsonl.py::test_a_device_that_is_always_full",),
}
#: What Windows does not have, and why.
POSIX_ONLY = {
    "Windows' Python does not take up a TZ": (
        "unit/model/test_serialize.py::test_times_are_iso_8601_with_microseconds_and_offset",
        "unit/model/test_serialize.py::test_the_hour_that_comes_twice_is_reported_apart",
        "unit/records/test_jsonl.py::test_times_are_iso_8601_with_microseconds_and_offset",
    ),
    "Windows has no permission bits": (
        "unit/records/test_jsonl.py::test_a_missing_folder_is_made",
        "unit/compat/test_compat_simple_memory_monitor.py::test_missing_folders_are_made",
    ),
    "making a link needs a privilege on Windows": (
        "unit/records/test_jsonl.py::test_no_link_is_followed",
        "unit/compat/test_compat_simple_memory_monitor.py::test_a_log_that_cannot_be_is_reported_at_once",
    ),
    "Windows has no pipes in directories": (
        "unit/records/test_jsonl.py::test_a_pipe_has_nothing_to_flush",
        "unit/records/test_sqlite.py::test_what_is_no_file_is_refused",
        "unit/settings/test_files.py::test_only_files_are_found",
    ),
    "Windows gives no file to another user by a number": (
        "unit/faces/test_settings.py::test_a_file_that_was_skipped_is_shown",
        "unit/settings/test_files.py::test_a_planted_file_is_skipped_and_reported",
    ),
    "Windows keeps a directory that a process is in": (
        "unit/settings/test_files.py::test_a_working_directory_that_is_gone",
    ),
    "Windows has another home and other paths": (
        "unit/settings/test_files.py::test_no_file_above_home_is_read",
        "unit/settings/test_files.py::test_values_are_understood",
    ),
    "Windows' Python cannot ask for its C library": ("unit/actions/test_trim.py::test_another_c_library_is_not_asked",),
    "Windows has other places, which test_platforms.py looks at": (
        "unit/records/test_paths.py::test_without_a_home_the_directory_is_still_the_users_own",
        "unit/compat/test_compat_simple_memory_monitor.py::test_the_default_log_is_in_a_place_of_ones_own",
        "unit/compat/test_compat_simple_memory_monitor.py::test_a_default_log_that_cannot_be_is_only_logged",
    ),
    "Windows has other signals": (
        "unit/compat/test_compat_memory_manager.py::test_importing_and_watching_leave_signal_handlers_alone",
    ),
}

#: About real kernels, signals and containers: not even looked into elsewhere.
LINUX_FOLDERS = ("live", "leaks", "faults", "seeds", "examples")
#: About workers, which only Linux has; the programs they run use its signals.
LINUX_FILES = (
    "unit/admission/test_fork_server.py",
    "unit/admission/test_manager_thread.py",
    "unit/admission/test_result_thread.py",
)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over what could not even be imported."""
    if sys.platform == "linux" or not collection_path.is_relative_to(Path(__file__).parent):
        return None
    return (
        True
        if collection_path.relative_to(Path(__file__).parent).as_posix() in (*LINUX_FOLDERS, *LINUX_FILES)
        else None
    )


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


#: Set in the process of a test that is marked ``own_process``.
_ALONE = "MEMWARDEN_TEST_ALONE"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked ``own_process`` in a fresh interpreter, and fail as it fails there.

    Where thousands of tests have been before, the C library keeps so much free memory that what a test takes was
    there already, and what it gives back does not leave the process: sizes mean little then.
    """
    if pyfuncitem.get_closest_marker("own_process") is None or _ALONE in os.environ:
        return None
    folder = pyfuncitem.config.rootpath
    command = [sys.executable, "-m", "pytest", pyfuncitem.nodeid, "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {_ALONE: "1", "PYTEST_DEBUG_TEMPROOT": tempfile.mkdtemp(prefix="memwarden-alone-")}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(environment["PYTEST_DEBUG_TEMPROOT"], ignore_errors=True)
    if done.returncode or "1 passed" not in done.stdout:
        pytest.fail(f"in a process of its own:\n{done.stdout}{done.stderr}", pytrace=False)
    return True


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time zone, as the variable TZ has it, until the test ends."""

    def put(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ledgers and footprints of this test's own; gives the folder."""
    for name in ("state", "runtime"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path
