"""The pytest plugin: memory limits by mark, leak checks, and a summary of the tests with the largest peaks.

pytest is imported only when it loads the plugin.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Generator
from typing import Any

from memwarden.actions.trim import trim_allocator
from memwarden.errors import ActionFailed, ReadError, SettingsError
from memwarden.guards.measure.leak_check import check_leaks
from memwarden.guards.measure.track import Track, track
from memwarden.model.calls import CallMemory
from memwarden.model.units import parse_size, size_text

MARK = "memory_limit"
_HELP = (
    f"{MARK}(size, of='peak'): fail the test when its peak is more than size above its start; "
    "of='growth': when memory grew by more than size"
)
_WHEN = {"peak": "peak", "growth": "end"}
#: Names of the figures in a report, in bytes.
RISE, GROWTH = "memwarden_peak_rise_bytes", "memwarden_growth_bytes"


def pytest_addoption(parser: Any) -> None:
    """Add ``--memwarden-top N`` and the ini value ``memory_limit``."""
    group = parser.getgroup("memwarden", "memory of tests")
    group.addoption(
        "--memwarden-top",
        type=int,
        default=5,
        metavar="N",
        help="show the N tests with the largest peaks (default 5; 0: none)",
    )
    parser.addini(MARK, "memory limit of tests without a mark, such as 500MiB", default="")


def pytest_configure(config: Any) -> None:
    """Register the mark and the hooks."""
    config.addinivalue_line("markers", _HELP)
    config.pluginmanager.register(_made(config), "memwarden")


def limit_of(mark: Any) -> tuple[int, str]:
    """Return a mark's size in bytes and its figure. Raises :class:`~memwarden.errors.SettingsError`."""
    options = dict(mark.kwargs)
    measure = options.pop("of", "peak")
    if len(mark.args) != 1 or options or measure not in ("peak", "growth"):
        raise SettingsError(f"{MARK}: write @pytest.mark.{MARK}('50MiB') or @pytest.mark.{MARK}('1MiB', of='growth')")
    return parse_size(mark.args[0]), measure


def judge(seen: CallMemory, limit: int, measure: str) -> str:
    """Return a failure message, or ``""``."""
    took = seen.rise if measure == "peak" else seen.growth
    if took <= limit:
        return ""
    reached = seen.peak if measure == "peak" else seen.after
    return (
        f"memory limit: {measure} of {size_text(took)} exceeds {size_text(limit)}"
        f" (resident size: {size_text(seen.before)} at the start, {size_text(reached)} at the {_WHEN[measure]})"
    )


def _tidy() -> None:
    """Return free memory to the system: a test that reuses it would seem to take nothing."""
    gc.collect()
    with contextlib.suppress(ActionFailed):  # no glibc
        trim_allocator()


def _made(config: Any) -> Any:
    import pytest

    class Plugin:
        """Hooks and fixture."""

        def __init__(self) -> None:
            self.taken: list[tuple[int, int, str]] = []

        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            """Refuse malformed limits before the first test."""
            try:
                where = "the ini value memory_limit"
                if default := config.getini(MARK):
                    parse_size(default)
                for item in items:
                    where = item.nodeid
                    if mark := item.get_closest_marker(MARK):
                        limit_of(mark)
            except SettingsError as error:
                raise pytest.UsageError(f"{where}: {error}") from None

        @pytest.hookimpl(wrapper=True, trylast=True)
        def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
            """Measure the test, without its fixtures."""
            mark = item.get_closest_marker(MARK)
            limit, measure = None, "peak"
            if mark is not None:
                limit, measure = limit_of(mark)
            elif default := config.getini(MARK):
                limit = parse_size(default)
            if limit is not None:
                _tidy()
            call = track(item.nodeid)
            try:
                with call:
                    try:
                        result = yield
                    finally:
                        if limit is not None and measure == "growth":
                            _tidy()
            finally:
                seen = self._note(item, call, limit is not None)
            if seen is not None and limit is not None and (wrong := judge(seen, limit, measure)):
                pytest.fail(wrong, pytrace=False)
            return result

        def _note(self, item: Any, call: Track, limited: bool) -> CallMemory | None:
            try:
                seen = call.memory
            except ReadError as error:
                if limited:
                    item.warn(pytest.PytestWarning(f"memory limit not checked: {error}"))
                return None
            if seen.method != "kernel" and limited:
                item.warn(pytest.PytestWarning("memory limit: this system has no exact peaks; a short one is missed"))
            item.user_properties += [(RISE, seen.rise), (GROWTH, seen.growth)]
            return seen

        def pytest_runtest_logreport(self, report: Any) -> None:
            """Collect the figures, also in the controlling process of pytest-xdist."""
            figures = dict(report.user_properties)
            if report.when == "call" and RISE in figures:
                self.taken.append((figures[RISE], figures[GROWTH], report.nodeid))

        def pytest_terminal_summary(self, terminalreporter: Any) -> None:
            """Print the tests with the largest peaks."""
            top = sorted(self.taken, reverse=True)[: max(0, config.getoption("--memwarden-top"))]
            if not top:
                return
            terminalreporter.write_sep("-", "memory: the tests with the largest peaks")
            terminalreporter.write_line(f"{'peak':>12} {'growth':>12}")
            for rise, growth, name in top:
                terminalreporter.write_line(f"{size_text(rise):>12} {size_text(growth):>12}  {name}")

        @pytest.fixture
        def no_leaks(self) -> Callable[..., None]:
            """``no_leaks(function, *args)`` fails the test where each call leaves memory behind.

            ``warm_up`` calls (10) may fill caches, then ``calls`` (100) are checked; each may leave ``allow``
            resident bytes (0, or ``"1KiB"``).
            """

            def check(
                function: Callable[..., object],
                *args: Any,
                calls: int = 100,
                warm_up: int = 10,
                allow: int | str = 0,
                **options: Any,
            ) -> None:
                __tracebackhide__ = True
                allowed = parse_size(allow) if allow else 0
                stays = check_leaks(lambda: function(*args, **options), calls, warm_up)
                if (stays.blocks and not allowed) or (stays.resident or 0) > allowed:
                    name = getattr(function, "__qualname__", repr(function))
                    pytest.fail(f"{name} leaks: {stays} ({stays.calls} calls)", pytrace=False)

            return check

    return Plugin()
