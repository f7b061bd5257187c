"""The pytest plugin, in pytest runs of its own."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import memwarden
from memwarden.errors import SettingsError
from memwarden.guards.pytest_hooks import judge, limit_of

pytest_plugins = "pytester"

MIB = 1 << 20
exact = pytest.mark.skipif(sys.platform != "linux", reason="exact peaks are Linux' own")


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs pytest with the plugin on a test file of this text."""
    monkeypatch.setenv("PYTHONPATH", str(Path(memwarden.__file__).parents[1]))

    def run(text, *arguments, plugin=True):
        pytester.makepyfile(f"import gc, pytest\nMIB = 1 << 20\nkept = []\n{text}")
        chosen = ("-p", "memwarden.pytest_plugin") if plugin else ()
        return pytester.runpytest_subprocess(*chosen, "-p", "no:cacheprovider", "--strict-markers", *arguments)

    return run


@exact
def test_a_peak_is_seen_though_it_has_gone_when_the_test_ends(run):
    """A buffer that lives for a moment fails the test; the same below the limit, and a kept one of it, do not."""
    result = run("""
@pytest.mark.memory_limit("50MiB")
def test_over(): bytearray(80 * MIB)
@pytest.mark.memory_limit("50MiB")
def test_under(): bytearray(30 * MIB)
@pytest.mark.memory_limit("50MiB")
def test_kept(): kept.append(bytearray(30 * MIB))
""")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines([r".*limit: peak of (79\.[5-9]|80\.\d) MiB exceeds 50\.0 MiB \(resid"])


@exact
def test_growth_is_memory_that_is_kept(run):
    """A transient peak is no matter; what is kept fails the test, garbage in cycles does not."""
    result = run("""
@pytest.mark.memory_limit("10MiB", of="growth")
def test_gone(): bytearray(80 * MIB)
@pytest.mark.memory_limit("10MiB", of="growth")
def test_garbage():
    knot = [bytearray(30 * MIB)]
    knot.append(knot)
@pytest.mark.memory_limit("10MiB", of="growth")
def test_kept(): kept.append(bytearray(30 * MIB))
""")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines([r".*memory limit: growth of (29\.[89]|30\.\d) MiB exceeds 10\.0 MiB"])


@exact
def test_fixtures_and_other_tests_do_not_count(run):
    """What a fixture holds, and what a test before it left free in the allocator, are not the test's."""
    run("""
@pytest.fixture
def large(): return bytearray(80 * MIB)
@pytest.mark.memory_limit("50MiB")
def test_uses_it(large): assert len(large)
def test_before(): [bytes(1000) for _ in range(60_000)]
@pytest.mark.memory_limit("50MiB")
def test_takes_it_again(): assert [bytes(1000) for _ in range(60_000)]
""").assert_outcomes(passed=2, failed=1)


@exact
def test_a_test_that_fails_by_itself_has_its_reason(run):
    """Its own error is what is reported."""
    result = run("""
@pytest.mark.memory_limit("50MiB")
def test_over():
    bytearray(80 * MIB)
    assert "mine" == "other"
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 'mine' == 'other'*"])
    result.stdout.no_fnmatch_line("*memory limit:*")


@exact
def test_a_default_for_all_tests(run):
    """By the ini value; a mark goes before it, and the nearest mark before a farther one."""
    result = run(
        """
def test_over(): bytearray(80 * MIB)
@pytest.mark.memory_limit("100MiB")
class TestMore:
    def test_under(self): bytearray(80 * MIB)
    @pytest.mark.memory_limit("60MiB")
    def test_over(self): bytearray(80 * MIB)
""",
        "-o",
        "memory_limit=50MiB",
    )
    result.assert_outcomes(passed=1, failed=2)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("'50 stones'", "*test_it: size '50 stones': not understood*"),
        ("'5MiB', of='heap'", "*test_it: memory_limit: write @pytest.mark.memory_limit('50MiB')*"),
        ("", "*test_it: memory_limit: write*"),
        ("'5MiB', size=3", "*test_it: memory_limit: write*"),
    ],
)
def test_a_mark_that_cannot_be_understood_ends_the_run(run, mark, message):
    """Before the first test: a limit that is silently not there would be worse."""
    result = run(f"@pytest.mark.memory_limit({mark})\ndef test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@exact
def test_a_summary_of_those_that_took_most(run, pytester):
    """The largest first, as many as asked for; the figures stand in a report for machines, too."""
    text = """
def test_small(): bytearray(20 * MIB)
def test_large(): bytearray(80 * MIB)
def test_kept(): kept.append(bytearray(40 * MIB))
def test_nothing(): pass
"""
    result = run(text, "--memwarden-top=2", "--junitxml=report.xml")
    result.stdout.re_match_lines(
        [
            r".*memory: the tests with the largest peaks",
            r" *peak +growth",
            r" *(79\.[5-9]|80\.\d) MiB +\S+ .?i?B  .*::test_large",
            r" *(39\.[89]|40\.\d) MiB +(39\.[89]|40\.\d) MiB  .*::test_kept",
        ]
    )
    result.stdout.no_fnmatch_line("*test_small*")
    assert 'name="memwarden_peak_rise_bytes" value="8' in (pytester.path / "report.xml").read_text()
    run(text, "--memwarden-top=0").stdout.no_fnmatch_line("*largest peaks*")


def test_no_leaks(run):
    """One small object of each call is found, with its type; a cache that fills up and a steady buffer are none."""
    result = run("""
class Node: pass
def keeps(): kept.append(Node())
def fills(cache={}): cache.setdefault(len(cache) % 8, Node())
def test_leaks(no_leaks): no_leaks(keeps)
def test_allowed(no_leaks): no_leaks(keeps, allow="10KiB")
def test_fills(no_leaks): no_leaks(fills)
def test_takes(no_leaks): no_leaks(bytearray, 5 * MIB, calls=20)
def test_garbage(no_leaks):
    def knot():
        knot = Node(); knot.itself = knot
    no_leaks(knot)
def test_raises(no_leaks):
    with pytest.raises(ZeroDivisionError):
        no_leaks(lambda: 1 / 0)
""")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.re_match_lines([r".*keeps leaks: \d\.\d blocks stay of each call: .*1\.0 .*Node \(100 calls\)"])


@exact
def test_large_things_that_stay_are_found(run):
    """They do not come from Python's allocator: the resident size shows them."""
    result = run("""
def keeps(): kept[0].extend(bytes(1 << 20))
def test_leaks(no_leaks):
    kept.append(bytearray())
    no_leaks(keeps, calls=50)
""")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r".*keeps leaks: 0\.0 blocks and \d+\.\d (MiB|KiB) stay of each call \(50 calls\)"])


def test_without_the_line_nothing_is_there(run):
    """It is loaded on request, not because it is installed."""
    result = run("def test_it(no_leaks): pass", plugin=False)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'no_leaks' not found*"])
    result.stdout.no_fnmatch_line("*largest peaks*")


def test_the_mark_is_known(run):
    """``--markers`` explains it."""
    result = run("", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.memory_limit(size, of='peak'): fail the test when*"])


def seen(**figures):
    """What a test took."""
    return SimpleNamespace(**{"before": 0, "after": 0, "peak": 0, "rise": 0, "growth": 0} | figures)


def test_a_limit_is_what_may_be_taken():
    """Exactly that much is not too much; peak and growth are judged each by its own figure."""
    assert judge(seen(rise=50 * MIB, growth=99 * MIB), 50 * MIB, "peak") == ""
    assert judge(seen(rise=99 * MIB, growth=50 * MIB), 50 * MIB, "growth") == ""
    assert "peak of 50.1 MiB exceeds 50.0 MiB" in judge(seen(rise=50 * MIB + 100_000), 50 * MIB, "peak")
    assert "growth of 51.0 MiB exceeds" in judge(seen(growth=51 * MIB), 50 * MIB, "growth")


def test_marks_are_understood():
    """A size in bytes or in words, of the peak where nothing is message."""
    assert limit_of(SimpleNamespace(args=("1MiB",), kwargs={})) == (MIB, "peak")
    assert limit_of(SimpleNamespace(args=(1000,), kwargs={"of": "growth"})) == (1000, "growth")
    with pytest.raises(SettingsError):
        limit_of(SimpleNamespace(args=(0,), kwargs={}))
