"""Tests of other platforms and of an interpreter without other packages, each in a fresh interpreter."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

from support.elsewhere import OTHERS, POOR

#: This file: what it starts is a Linux machine's, whatever the one that starts it plays.
PROGRAMS = "tests/unit/test_platforms.py"

IMPORT_ALL = """
import importlib, pkgutil, memwarden
names = [module.name for module in pkgutil.walk_packages(memwarden.__path__, "memwarden.")]
names.remove("memwarden.__main__")  # importing that is running the command
for name in names:
    if name != "memwarden.contain._exec":  # a program of its own, started by path and never imported
        importlib.import_module(name)
"""


def run(program, **environment):
    """Return the output of a fresh interpreter, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.contract("S1-74", "S2-62")
@pytest.mark.parametrize("platform", sorted({sys.platform, *OTHERS}))
def test_every_module_can_be_imported(platform):
    """No module needs at import what only POSIX systems have."""
    names = run(f"PLATFORM = {platform!r}\n{POOR}\n{IMPORT_ALL}\nprint(json.dumps(names))")
    assert "memwarden.contain.own_cgroup" in names
    assert "memwarden.compat.simple_memory_monitor" in names


@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", OTHERS)
def test_other_systems_are_watched_through_psutil(platform):
    """The default readers of a warden there give a judged reading of machine and process."""
    read = run(f"""PLATFORM = {platform!r}
{POOR}
from memwarden import Warden
with Warden() as warden:
    level = warden.last.assessment.level
    sample = warden.last.sample
print(json.dumps([level.value, warden.last.assessment.binding.limit.source, sample.process.rss, len(sample.gaps)]))
""")
    level, source, resident, gaps = read
    assert level in ("low", "moderate", "high", "critical")
    assert (source, gaps) == ("machine", 0)
    assert resident > 1 << 20


@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", OTHERS)
def test_the_whole_pipeline_runs_there(platform, tmp_path):
    """Samples of machine, process, tree and the largest processes, levels, a record that can be read back, status."""
    result = run(
        f"""PLATFORM = {platform!r}
{POOR}
from memwarden import JsonlRecorder, Rule, Warden
from memwarden.readers.portable import PortableMachine
from memwarden.readers.factory import default_readers, tree_reader
from memwarden.records.jsonl import read_lines
path = os.path.join(tempfile.gettempdir(), "deep", "record.jsonl")
readers = [*default_readers(), tree_reader(os.getpid()), PortableMachine()]
log = logging.getLogger("memwarden")
logged = []
log.addHandler(type("Ear", (logging.Handler,), {{"emit": lambda _, record: logged.append(record.levelname)}})())
rules = [Rule(name="here", when="process.rss >= 1MiB", then="notify")]
with Warden(readers, interval=0.01, rules=rules, recorders=[JsonlRecorder(path)]) as warden:
    looks = [reading for reading, _ in zip(warden.watch(), range(4))]
    status = warden.status()
json.dumps(status)
kinds = [event.kind.value for event in read_lines(path)]
sample = looks[-1].sample
print(json.dumps([kinds, sample.tree.total, sample.process.rss, sample.top.rss[0],
                  [list(gap) for gap in sample.gaps], logged]))
""",
        TMPDIR=str(tmp_path),
    )
    kinds, tree, process, largest, gaps, logged = result
    assert (kinds[0], kinds[-1]) == ("start", "stop")
    assert kinds.count("sample") >= 4
    assert kinds.count("level") == 1
    assert kinds.count("decision") == kinds.count("outcome") == 1
    assert "WARNING" in logged
    assert min(tree, process, largest) > 1 << 20
    assert gaps == []


@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", OTHERS)
def test_the_public_api_works_there(platform):
    """One status and a loop, through the public names."""
    level, rss = run(f"""PLATFORM = {platform!r}
{POOR}
import memwarden
status = memwarden.status()
reading = next(memwarden.watch(0.01))
print(json.dumps([status["reading"]["assessment"]["level"], reading.sample.process.rss]))
""")
    assert level in ("low", "moderate", "high", "critical")
    assert rss > 1 << 20


@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", OTHERS)
def test_registered_processes_are_identified_and_killed_there(platform):
    """A target is killed by its identity; after that its pid is no target."""
    result = run(f"""PLATFORM = {platform!r}
{POOR}
from memwarden.process.signals import KILL, send
from memwarden.errors import TargetChanged
from memwarden.readers.factory import identity_probe
probe = identity_probe()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
key = probe.key_of(child.pid)
seen = [probe.alive(key), key in probe.children(probe.own()), probe.stopped(key), probe.own().pid == os.getpid()]
try:
    send(key._replace(start=key.start - 1), KILL, probe)
except TargetChanged:
    seen.append(child.poll() is None)
send(key, KILL, probe)
child.communicate()
print(json.dumps([*seen, probe.alive(key)]))
""")
    assert result == [True, True, False, True, True, False]


COMMANDS = """
import contextlib, io
from memwarden.faces.cli import main
messages = []
for arguments in ARGUMENTS:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    messages.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(messages))
"""


@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", OTHERS)
def test_the_command_line_reports_its_abilities_there(platform):
    """The version, the supported ceilings, and one line for a command that needs Linux."""
    pytest.importorskip("click")
    arguments = [["--version"], ["doctor"], ["doctor", "--json"], ["run", "--limit", "1GiB", "--", "true"], ["--help"]]
    version, doctor, as_json, refused, usage = run(
        f"PLATFORM = {platform!r}\n{POOR}\nARGUMENTS = {arguments!r}\n{COMMANDS}"
    )
    assert version[0] == usage[0] == 0
    assert version[1].startswith("memwarden ")
    assert (doctor[0], doctor[2]) == (1, "")  # no ceiling can be had, which is what 1 means
    assert "effective" in doctor[1]
    found = json.loads(as_json[1])
    assert found["ceilings"][0]["granted"] is False
    assert found["level"] in ("low", "moderate", "high", "critical")
    assert refused[0] == 125
    assert refused[2].count("\n") == 1
    assert "Linux" in refused[2]


@pytest.mark.parametrize("platform", OTHERS)
def test_watch_and_top_work_there(platform):
    """The machine with its largest processes, a process by its pid; a name is refused in one line."""
    pytest.importorskip("click")
    arguments = [
        ["watch", "--json", "--duration", "0.3"],
        ["watch", "--interval", "0.1", "--duration", "0.3", "--pid", str(os.getpid())],
        ["watch", "--name", "python"],
        ["top", "-n", "2"],
    ]
    machine, process, named, top = run(f"PLATFORM = {platform!r}\n{POOR}\nARGUMENTS = {arguments!r}\n{COMMANDS}")
    for done in (machine, process, top):
        assert (done[0], done[2]) == (0, "")
    readings = [json.loads(line) for line in machine[1].splitlines()]
    sample = next(each["sample"] for each in readings if each["type"] == "reading")
    assert len(sample["top"]["keys"]) == 5
    assert "process" not in sample
    assert f"[{os.getpid()}]" in process[1]
    assert [line.split()[0].isdecimal() for line in top[1].splitlines() if "missing" not in line][2:4] == [True, True]
    assert (named[0], named[2].count("\n")) == (2, 1)
    assert "Linux" in named[2]


@pytest.mark.parametrize("platform", OTHERS)
def test_limiting_a_command_is_refused_there_with_a_reason(platform):
    """With and without a limit: a typed error, before anything is started."""
    words = run(f"""PLATFORM = {platform!r}
{POOR}
from memwarden import CeilingUnavailable, popen
messages = []
for limit in (None, "1GiB"):
    try:
        popen([sys.executable, "-c", "pass"], limit=limit)
    except CeilingUnavailable as error:
        messages.append(str(error))
print(json.dumps(messages))
""")
    assert len(words) == 2
    assert all("Linux" in each for each in words)


@pytest.mark.contract("S1-74", "S2-62")
@pytest.mark.parametrize("platform", OTHERS)
def test_the_old_monitors_work_on_other_systems(platform, tmp_path):
    """Figures, the log in that system's own place, and a second run that continues it, line ends included."""
    variable, below = {"win32": ("LOCALAPPDATA", ()), "darwin": ("HOME", ("Library", "Application Support"))}[platform]
    used = run(
        f"""PLATFORM = {platform!r}
{POOR}
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import get_monitor
monitor = get_monitor()
for _ in range(2):
    monitor.start()
    status = monitor.get_status()
    monitor.stop()
print(json.dumps([str(monitor.log_file), status["status"], get_memory_monitor().get_current_stats().total_mb]))
""",
        **{"XDG_STATE_HOME": "", variable: str(tmp_path)},
    )
    path, health, total = used
    assert path.replace("\\", "/") == os.path.join(tmp_path, *below, "memwarden", "memory_monitor.log")
    assert health in ("normal", "high")
    assert total > 0
    with open(path, "rb") as log:
        lines = log.read().split(b"\n")
    assert [json.loads(line).get("event_type", "check") for line in lines[:-1]] == ["START", "check", "STOP"] * 2
    assert lines[-1] == b""


@pytest.mark.parametrize("platform", OTHERS)
def test_the_old_monitors_name_processes_there(platform, tmp_path):
    """The largest ones of the machine, and those that are tracked, with what they take."""
    top, tracked, resources = run(
        f"""PLATFORM = {platform!r}
{POOR}
from memwarden.compat.memory_init import get_memory_status
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
detailed = SimpleMemoryMonitor().get_detailed_status()
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
monitor = get_memory_monitor()
monitor.track_process(child.pid, "ffmpeg", is_ffmpeg=True, essential=False)
tracked = [[each.pid == child.pid, each.memory_mb] for each in monitor.get_ffmpeg_processes()]
resources = get_memory_status()["resources"]
child.communicate()
tracked.append(monitor.get_ffmpeg_processes())
sizes = [each["memory_bytes"] for each in detailed["top_processes"]]
print(json.dumps([sizes, tracked, resources]))
""",
        **{"XDG_STATE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert 1 <= len(top) <= 5
    assert top == sorted(top, reverse=True)
    (ours, size), after = tracked
    assert ours
    assert size > 1
    assert after == []
    assert resources["tracked_processes"] == 1


def test_only_an_asynchronous_loop_imports_asyncio():
    """Neither the public API nor a running warden imports it; the asynchronous loop does."""
    before, after = run("""
import json, sys, memwarden
with memwarden.Warden(interval=0.01) as warden:
    warden.flush()
next(memwarden.watch(0.01))
before = "asyncio" in sys.modules
memwarden.awatch
print(json.dumps([before, "asyncio" in sys.modules]))
""")
    assert (before, after) == (False, True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil is needed")
@pytest.mark.contract("S2-47")
def test_on_linux_the_standard_library_is_enough(tmp_path):
    """Watching, judging, recording and the old monitors load nothing that is installed, psutil least of all."""
    loaded = run(
        """
import json, sys
before = set(sys.modules)
sys.modules["psutil"] = None
from memwarden import Warden
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import get_monitor
with Warden() as warden:
    assert warden.last.assessment.binding is not None
get_memory_monitor().get_current_stats()
get_monitor().start().get_detailed_status()
get_monitor().stop()
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps(sorted(new)))
""",
        XDG_STATE_HOME=str(tmp_path),
    )
    assert loaded == ["memwarden", "psutil"]  # the latter is the stand-in that cannot be imported
    assert (tmp_path / "memwarden" / "memory_monitor.log").read_bytes().count(b"\n") == 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open descriptors cannot be counted here")
def test_one_sample_leaves_no_descriptor_behind():
    """Reading the status again and again opens no more files."""
    counts = run("""
import json, os, memwarden
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
monitor = SimpleMemoryMonitor()
counts = []
for _ in range(5):
    memwarden.status()
    get_memory_monitor().get_current_stats()
    monitor.get_detailed_status()
    counts.append(len(os.listdir("/proc/self/fd")))
print(json.dumps(counts))
""")
    assert len(set(counts)) == 1


def test_what_is_skipped_elsewhere_is_there(pytestconfig):
    """A test that was renamed would run where it cannot."""
    conftest = next(each for each in pytestconfig.pluginmanager.get_plugins() if hasattr(each, "POSIX_ONLY"))
    folder = pathlib.Path(conftest.__file__).parent
    for place in itertools.chain(*conftest.LINUX_ONLY.values(), *conftest.POSIX_ONLY.values()):
        path, _, name = place.partition("::")
        assert f"def {name}" in (folder / path).read_text(encoding="utf-8"), place


def _pytest_there(platform, *arguments):
    tests = pathlib.Path(__file__).parents[1]
    program = str(tests / "support" / "elsewhere.py")
    return subprocess.run(
        [sys.executable, program, platform, "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        cwd=tests.parent,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the suite itself shows it")
@pytest.mark.parametrize("platform", OTHERS)
def test_the_suite_can_be_collected_there(platform):
    """No module of the tests that run there needs at import what only Linux has."""
    done = _pytest_there(platform, "--collect-only", "tests")
    assert done.returncode == 0, done.stdout
    assert "tests/unit/test_platforms.py" in done.stdout
    assert "tests/live/" not in done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the suite itself shows it")
@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", OTHERS)
def test_the_portable_suite_passes_there(platform):
    """Every test that is not skipped there for a reason, on a Python that poor; these tests themselves aside."""
    done = _pytest_there(
        platform, "tests/unit", "tests/properties", "tests/contracts", "-m", "not long", f"--deselect={PROGRAMS}"
    )
    assert done.returncode == 0, done.stdout[-5000:]
