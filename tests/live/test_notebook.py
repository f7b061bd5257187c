"""``%%memwarden`` in a real IPython shell, in this process."""

import atexit
import re
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from memwarden.errors import LimitExceeded, SettingsError
from memwarden.guards import notebook

MIB = 1 << 20


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell into which the extension was loaded as a user does."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a shell puts its own there
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell(config=config)
    shell.run_line_magic("load_ext", "memwarden")
    yield shell
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()


def run(shell, *lines):
    """The outcome of a cell."""
    return shell.run_cell("\n".join(lines))


def reported(capsys):
    """The figures that were printed: peak, rise and growth in MiB."""
    out = capsys.readouterr().out
    line = re.search(
        r"^memwarden: peak (\S+ \S+), (\S+ \S+) above the start; growth (\S+ \S+); \d+\.\d\d s$", out, re.M
    )
    assert line, out
    units = {"B": 1 / MIB, "KiB": 1 / 1024, "MiB": 1, "GiB": 1024}
    return out, *(float(number) * units[unit] for number, unit in (each.split() for each in line.groups()))


def test_peak_and_growth_of_a_cell(shell, capsys):
    """A buffer that was gone at the end is in the peak, one that stays in the growth; names are the cell's."""
    assert run(shell, "%%memwarden", "bytearray(80 << 20)", "kept = bytearray(30 << 20)", "len(kept)").success
    out, peak, rise, growth = reported(capsys)
    assert peak > rise
    assert 79 < rise < 90
    assert 29 < growth < 40
    assert f"{30 << 20}\n" in out  # the value of the last line, as every cell shows it
    assert len(shell.user_ns["kept"]) == 30 << 20


def test_an_error_of_the_cell_is_its_own(shell, capsys):
    """Shown once in full, raised to the frontend, and the figures come all the same."""
    result = run(shell, "%%memwarden", "value = 1", "1 / 0")
    out, *_ = reported(capsys)
    assert isinstance(result.error_in_exec, ZeroDivisionError)
    assert out.count("Traceback (most recent call last)") == 1
    assert "ZeroDivisionError: see above" in out
    assert shell.user_ns["value"] == 1


def test_a_cell_that_is_no_python(shell, capsys):
    """As everywhere."""
    result = run(shell, "%%memwarden", "not python at all")
    assert not result.success
    assert "SyntaxError" in capsys.readouterr().out


def test_a_limit(shell, capsys):
    """A cell that takes more ends with LimitExceeded, a MemoryError; one that takes less does not."""
    assert run(shell, "%%memwarden --limit 200MiB", "x = bytes(10 << 20)").success
    capsys.readouterr()
    result = run(
        shell, "%%memwarden --limit 50MiB", "parts = []", "for _ in range(90): parts.append(bytearray(1 << 20))"
    )
    assert isinstance(result.error_in_exec, MemoryError), result
    assert isinstance(result.error_in_exec, LimitExceeded)
    assert "50.0 MiB" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["--limit", "--limit 5 stones", "50MiB", "--most 5MiB", "--limit '5"])
def test_a_line_that_cannot_be_understood(shell, capsys, line):
    """The cell does not run, and the usage is shown."""
    run(shell, f"%%memwarden {line}", "ran = True")
    assert "ran" not in shell.user_ns
    out = "".join(capsys.readouterr())
    assert "UsageError" in out
    assert "MiB" in out or "--limit" in out


def test_lines_are_understood():
    """With a space or an equals sign, or none at all."""
    assert notebook.limit_of("") is None
    assert notebook.limit_of(" --limit 50MiB ") == notebook.limit_of("--limit=50MiB") == 50 * MIB
    with pytest.raises(SettingsError, match="write %%memwarden"):
        notebook.limit_of("--limit 50 MiB or so")


def test_help_is_there(shell):
    """``%%memwarden?`` shows its usage."""
    assert "--limit" in shell.find_cell_magic("memwarden").__doc__
