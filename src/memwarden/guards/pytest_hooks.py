"""The pytest plugin: limits by mark, what stays of repeated calls, and a summary of what the tests took.

pytest is imported when it loads this, and never before.
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
    f"{MARK}(size, of='peak'): fail the test when its peak is more than size above what was resident when it began; "
    "of='growth': when more than that stays of it"
)
#: Under what names a report carries the figures, in bytes.
RISE, GROWTH = "memwarden_peak_rise_bytes", "memwarden_growth_bytes"


def pytest_addoption(parser: Any) -> None:
    """``--memwarden-top N`` and the ini value ``memory_limit``."""
    group = parser.getgroup("memwarden", "memory of tests")
    group.addoption(
        "--memwarden-top", type=int, default=5, metavar="N", help="show the N tests that took most (default 5; 0: none)"
    )
    parser.addini(MARK, "memory limit of tests that have no mark of their own, such as 500MiB", default="")


def pytest_configure(config: Any) -> None:
    """Make the mark known, and the rest."""
    config.addinivalue_line("markers", _HELP)
    config.pluginmanager.register(_made(config), "memwarden")


def limit_of(mark: Any) -> tuple[int, str]:
    """A mark's size in bytes, and what it is of. Raises :class:`~memwarden.errors.SettingsError`."""
    options = dict(mark.kwargs)
    measure = options.pop("of", "peak")
    if len(mark.args) != 1 or options or measure not in ("peak", "growth"):
        raise SettingsError(f"{MARK}: write @pytest.mark.{MARK}('50MiB') or @pytest.mark.{MARK}('1MiB', of='growth')")
    return parse_size(mark.args[0]), measure


def judge(seen: CallMemory, limit: int, measure: str) -> str:
    """Return the error as text, or None."""
    took = seen.rise if measure == "peak" else seen.growth
    if took <= limit:
        return ""
    how, reached, when = "at its peak took", seen.peak, "at most"
    if measure == "growth":
        how, reached, when = "kept", seen.after, "after"
    return (
        f"memory limit: the test {how} {size_text(took)}, and may {size_text(limit)}"
        f" ({size_text(seen.before)} resident before, {size_text(reached)} {when})"
    )


def _tidy() -> None:
    """Give back what is free: a test that takes it would seem to take nothing, and one before it to keep it."""
    gc.collect()
    with contextlib.suppress(ActionFailed):  # no glibc
        trim_allocator()


def _made(config: Any) -> Any:
    import pytest

    class Plugin:
        """Hooks of pytest."""

        def __init__(self) -> None:
            self.taken: list[tuple[int, int, str]] = []

        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            """A limit that cannot be understood ends the run before it begins."""
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
            """Measure the test itself, without its fixtures."""
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
                item.warn(pytest.PytestWarning("memory limit: this system tells no exact peaks; a short one is missed"))
            item.user_properties += [(RISE, seen.rise), (GROWTH, seen.growth)]
            return seen

        def pytest_runtest_logreport(self, report: Any) -> None:
            """On the controlling process, too, where workers run the tests."""
            figures = dict(report.user_properties)
            if report.when == "call" and RISE in figures:
                self.taken.append((figures[RISE], figures[GROWTH], report.nodeid))

        def pytest_terminal_summary(self, terminalreporter: Any) -> None:
            """Those that took most."""
            top = sorted(self.taken, reverse=True)[: max(0, config.getoption("--memwarden-top"))]
            if not top:
                return
            terminalreporter.write_sep("-", "memory: the tests that took most")
            terminalreporter.write_line(f"{'peak':>12} {'kept':>12}")
            for rise, growth, name in top:
                terminalreporter.write_line(f"{size_text(rise):>12} {size_text(growth):>12}  {name}")

        @pytest.fixture
        def no_leaks(self) -> Callable[..., None]:
            """``no_leaks(function, *args)`` fails the test where something stays of each call.

            ``calls`` (100) follow ``warm_up`` (10) calls that may fill caches; ``allow`` resident bytes a call may
            stay (0, or ``"1KiB"``).
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
