"""``memwarden run`` as a person or a script meets it: real commands, real terminals, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from memwarden.faces.cli.exit_codes import KILLED_AT_LIMIT, NOT_EXECUTABLE, NOT_FOUND, OWN_FAILURE, USAGE
from memwarden.model.events import Event, EventKind
from memwarden.model.verdicts import Reading
from memwarden.records.jsonl import read_lines
from memwarden.testing import HOG

MEMWARDEN = [sys.executable, "-c", "import sys; from memwarden.faces.cli import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of these tests go to a folder of their own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in list(os.environ):
        if name.startswith("MEMWARDEN_"):
            monkeypatch.delenv(name)
    return tmp_path / "state"


def run(*arguments: str, timeout: float = 60, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MEMWARDEN, "run", *arguments], capture_output=True, text=True, timeout=timeout, **{"input": "", **more}
    )


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def report(result: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(result.stderr.splitlines()[-1])


@pytest.mark.parametrize("code", [0, 1, 2, 42, 123, 125, 255])
def test_the_exit_code_of_the_command_is_passed_through(code: int) -> None:
    """Whatever the command exits with, memwarden exits with."""
    assert run("--quiet", "--", "sh", "-c", f"exit {code}").returncode == code


def test_a_signal_becomes_128_plus_its_number() -> None:
    """As in shells."""
    result = run("--json", "--", "sh", "-c", "kill -SEGV $$")
    assert result.returncode == 128 + signal.SIGSEGV
    assert report(result)["exit"]["reason"] == "signaled"


def test_the_limit_has_an_exit_code_of_its_own_and_a_report() -> None:
    """The report names the limit, the use of each process, the steps, the levels and the record."""
    result = run("--limit", "150MiB", "--", *python(HOG, 20, 200, 500))
    assert result.returncode == KILLED_AT_LIMIT
    text = result.stderr
    assert re.search(r"^result +killed at its limit of 150 MiB after", text, re.MULTILINE)
    assert re.search(r"^peak +1[45]\d\.\d MiB", text, re.MULTILINE)
    assert re.search(r"1[45]\d\.\d MiB resident +python", text)
    assert re.search(r"^levels .*CRITICAL", text, re.MULTILINE)
    assert re.search(r"^steps .*reached its limit", text, re.MULTILINE)
    assert "SIGTERM to pid" in text
    assert "█" in text
    assert "\033[" not in text, "no colour where there is no terminal"
    record = Path(re.search(r"^record +(.+)$", text, re.MULTILINE)[1])
    assert record.exists()


def test_what_the_command_prints_is_untouched() -> None:
    """Standard output and error of the command are its own; the report follows at the end."""
    result = run("--", "sh", "-c", "echo out; echo err >&2")
    assert result.stdout == "out\n"
    assert result.stderr.startswith("err\n")


def test_the_record_is_complete(tmp_path: Path) -> None:
    """Start, samples, levels, the decision and its outcome, and the exit, each a line with units in its keys."""
    path = tmp_path / "new folder" / "run.jsonl"
    result = run("--record", str(path), "--interval", "0.05", "--limit", "120MiB", "--", *python(HOG, 20, 40, 400))
    assert result.returncode == KILLED_AT_LIMIT
    events = list(read_lines(path))
    assert all(isinstance(event, Event) for event in events)
    kinds = [event.kind for event in events]
    assert kinds[0] is EventKind.START
    for kind in (EventKind.SAMPLE, EventKind.LEVEL, EventKind.DECISION, EventKind.OUTCOME, EventKind.EXIT):
        assert kind in kinds
    readings = [event.value for event in events if event.kind is EventKind.SAMPLE]
    assert all(isinstance(reading, Reading) for reading in readings)
    assert max(reading.sample.tree.total for reading in readings if reading.sample.tree) > 60 << 20
    raw = json.loads(path.read_text().splitlines()[2])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d", raw["time"])


def test_json_is_one_line_for_a_machine() -> None:
    """`--json` gives the report with units in its keys."""
    parsed = report(
        run("--json", "--limit", "1GiB", "--", *python("import time; kept = b'x' * (50 << 20); time.sleep(0.3)"))
    )
    assert parsed["exit_code"] == 0
    assert parsed["exit"]["reason"] == "exited"
    assert 50 << 20 < parsed["peak_bytes"] < 120 << 20
    assert parsed["effective_limit_bytes"] > 1 << 30
    assert parsed["levels"][0]["level"] == "low"
    assert Path(parsed["record"]).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--limt", "1G", "--", "true"], OWN_FAILURE, ["--limt", "--help"]),
        (["--limit", "12XB", "--", "true"], OWN_FAILURE, ["--limit", "12XB", "512MiB"]),
        (["--limit", "0", "--", "true"], OWN_FAILURE, ["--limit", "zero"]),
        (["--limit", "120%", "--", "true"], OWN_FAILURE, ["--limit", "120%"]),
        (["--limit"], OWN_FAILURE, ["--limit", "memwarden run --help"]),
        (["--limit", "512", "--", "true"], OWN_FAILURE, ["512 bytes", "512MiB"]),
        (["--record", "/dev/stdout", "--", "true"], OWN_FAILURE, ["/dev/stdout", "link"]),
        (["--interval", "fast", "--", "true"], OWN_FAILURE, ["--interval", "fast", "500ms"]),
        (["--ceiling", "magic", "--limit", "1G", "true"], OWN_FAILURE, ["magic", "polling"]),
        (["--cgroup", "/nonexistent", "--limit", "1G", "true"], OWN_FAILURE, ["/nonexistent"]),
        (["--record", "/proc/nowhere/x.jsonl", "--", "true"], OWN_FAILURE, ["/proc/nowhere/x.jsonl", "--record"]),
        ([], OWN_FAILURE, ["COMMAND", "--help"]),
        (["--", "memwarden-no-such-command"], NOT_FOUND, ["memwarden-no-such-command", "PATH"]),
        (["--", "/nonexistent/tool"], NOT_FOUND, ["/nonexistent/tool"]),
        (["--", "/etc/passwd"], NOT_EXECUTABLE, ["/etc/passwd", "chmod"]),
        (["--", "/"], NOT_EXECUTABLE, ["directory"]),
    ],
)
def test_bad_input_gets_one_line_and_a_documented_code(arguments: list[str], code: int, words: list[str]) -> None:
    """One line that names the thing and the way out, no traceback, nothing started."""
    result = run(*arguments)
    assert result.returncode == code
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


def test_bad_input_in_the_environment_names_the_variable() -> None:
    """The error names the variable, not a flag that was not given."""
    result = run("--", "true", env={**os.environ, "MEMWARDEN_LIMIT": "much"})
    assert result.returncode == OWN_FAILURE
    assert "MEMWARDEN_LIMIT" in result.stderr


def test_other_commands_use_the_usual_code_for_bad_usage() -> None:
    """Two, as other command lines do."""
    for arguments in (["frob"], ["doctor", "--nope"]):
        result = subprocess.run([*MEMWARDEN, *arguments], capture_output=True, text=True)
        assert result.returncode == USAGE
        assert len(result.stderr.splitlines()) == 1


def test_a_limit_too_small_to_start_has_a_hint() -> None:
    """The verdict is the limit's, and the way out is named."""
    result = run("--limit", "1MiB", "--", sys.executable, "-c", "pass")
    assert result.returncode == KILLED_AT_LIMIT
    assert "below what it needs to start" in result.stderr


def test_a_limit_above_the_effective_one_is_reported() -> None:
    """Such a limit has no effect."""
    result = run("--limit", "100TiB", "--", "true")
    assert result.returncode == 0
    assert "above the effective limit" in result.stderr


def test_a_record_that_fills_the_disk_does_not_end_the_run() -> None:
    """Every write to /dev/full fails with ENOSPC once the file is open; asked for by name, that is an error."""
    result = run("--record", "/dev/full", "--", "true")
    assert result.returncode == OWN_FAILURE
    assert "No space left" in result.stderr


def test_no_place_for_a_default_record_is_no_reason_not_to_run(tmp_path: Path) -> None:
    """Without a writable state or temporary directory, the run reports trouble and goes on."""
    for name in ("state", f"memwarden-{os.getuid()}"):
        (tmp_path / name).write_text("not a folder")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path)}
    result = run("--", "sh", "-c", "exit 5", env=environment)
    assert result.returncode == 5
    assert re.search(r"^trouble .*memwarden-\d+", result.stderr, re.MULTILINE)
    assert re.search(r"^record +none$", result.stderr, re.MULTILINE)


def test_a_default_record_goes_to_the_temporary_directory_at_need(tmp_path: Path) -> None:
    """A home that cannot be written is common in containers; a folder of another user is not used."""
    (tmp_path / "state").write_text("not a folder")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path)}
    ours = tmp_path / f"memwarden-{os.getuid()}" / "runs"
    assert report(run("--json", "--", "true", env=environment))["record"].startswith(str(ours))
    if os.getuid() == 0:
        os.chown(ours, 4242, 4242)
        parsed = report(run("--json", "--", "true", env=environment))
        assert parsed["record"] == ""
        assert any("another user" in trouble for trouble in parsed["troubles"])


def test_descriptors_and_environment_reach_the_command(tmp_path: Path) -> None:
    """A descriptor opened by the caller's shell is there, and Python's own LC_CTYPE is not."""
    file = tmp_path / "input"
    file.write_text("through three\n")
    command = "cat <&3; env | grep LC_CTYPE; trap '' PIPE; true"
    script = f'exec 3<"{file}"; exec "$@" run --quiet -- sh -c "{command}"'
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    result = subprocess.run(
        ["sh", "-c", script, "sh", *MEMWARDEN], capture_output=True, text=True, env={**environment, "LC_ALL": ""}
    )
    assert result.stdout == "through three\n"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_end_the_job(closed: str, tmp_path: Path) -> None:
    """A cron job or a daemon may close them; the command runs to its end, and its code comes back."""
    done = tmp_path / "done"
    script = f'"$@" run -- sh -c \'sleep 0.1; touch "{done}"; exit 5\' {closed}'
    result = subprocess.run(["sh", "-c", script, "sh", *MEMWARDEN], capture_output=True, timeout=60)
    assert result.returncode == 5
    assert done.exists()


def test_a_shim_that_execs_has_its_own_name(tmp_path: Path) -> None:
    """The largest process is called what it is at its largest."""
    shim = tmp_path / "shim.sh"
    shim.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'kept = b\"x\" * (80 << 20); import time; time.sleep(0.6)'\n")
    shim.chmod(0o755)
    assert report(run("--json", "--", str(shim)))["largest"][0]["name"].startswith("python")


def test_sigpipe_is_not_ignored_in_the_command() -> None:
    """Python ignores SIGPIPE; a command that inherits that writes for ever into a closed pipe."""
    result = run("--quiet", "--", "sh", "-c", "grep SigIgn /proc/self/status")
    ignored = int(result.stdout.split()[1], 16)
    assert not ignored & 1 << (signal.SIGPIPE - 1)


def test_no_signal_is_blocked_in_the_command() -> None:
    """Our own mask stays ours."""
    result = run("--quiet", "--", "sh", "-c", "grep SigBlk /proc/self/status")
    assert int(result.stdout.split()[1], 16) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_memwarden_reaches_the_command(number: signal.Signals) -> None:
    """A supervisor that signals memwarden means the command; it ends in its own way."""
    code = (
        "import signal, sys, os\n"
        "signal.signal(int(sys.argv[1]), lambda *_: os._exit(77))\n"
        "print('ready', flush=True)\nsignal.pause()"
    )
    with subprocess.Popen(
        [*MEMWARDEN, "run", "--quiet", "--", *python(code, int(number))], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == 77


def test_under_nohup_a_hangup_stays_ignored() -> None:
    """`nohup memwarden run` shields the command, too, unless that installs a handler of its own."""
    code = "import signal\nprint(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)\nsignal.pause()"
    command = ["nohup", *MEMWARDEN, "run", "--quiet", "--", *python(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_orphans_are_counted_and_reported() -> None:
    """A grandchild without a parent stays in the tree, and the report names one that survives."""
    code = """
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([sys.executable, "-c", "import time; kept = b'x' * (80 << 20); time.sleep(30)"], **quiet)
    os._exit(0)
os.wait()
time.sleep(1)
"""
    parsed = report(run("--json", "--interval", "0.05", "--", *python(code)))
    [left] = parsed["exit"]["survivors"]
    try:
        assert left["rss_bytes"] > 80 << 20
        assert parsed["peak_bytes"] > 80 << 20
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(left["key"]["pid"]).kill()


# --- terminals ---------------------------------------------------------------------------------------


def test_ctrl_c_reaches_the_command_once_and_the_report_follows(screen) -> None:
    """The terminal's SIGINT goes to the command; memwarden does not die, does not send it twice, and reports."""
    code = (
        "import signal, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print('interrupts:', len(seen), flush=True)\n"
        "raise SystemExit(9)"
    )
    on = screen(*MEMWARDEN, "run", "--", *python(code))
    on.until(lambda seen: "ready" in seen)
    on.type("\x03")
    assert on.wait() == 9
    assert "interrupts: 1" in on.seen
    assert "exited with code 9" in on.seen
    assert "\033[" in on.seen, "a terminal gets colour"


@pytest.mark.parametrize("limit", ["", "--limit 64MiB "])
def test_ctrl_z_stops_both_and_fg_goes_on(screen, limit: str) -> None:
    """In a shell with job control, Ctrl-Z gives the prompt back, and fg resumes command and watch."""
    on = screen("bash", "--norc", "-i")
    on.type("PS1='prompt> '\n")
    command = " ".join(f"'{word}'" for word in MEMWARDEN)
    on.type(f"{command} run {limit}-- sh -c 'echo started; sleep 1; echo finished; exit 4'\n")
    on.until(lambda seen: "\nstarted" in seen)
    on.type("\x1a")
    on.until(lambda seen: "Stopped" in seen)
    time.sleep(1.2)  # real: the command's own sleep must not go on meanwhile
    assert "\nfinished" not in on.text
    on.type("fg\n")
    on.until(lambda seen: "exited with code 4" in seen)
    on.type("echo code=$?\n")
    on.until(lambda seen: "code=4" in seen)
    on.type("exit\n")
    on.wait()


def test_a_pipeline_keeps_the_terminal(screen) -> None:
    """Both ends of a pipeline stay in the foreground group: neither is stopped for reading the terminal."""
    command = " ".join(f"'{word}'" for word in MEMWARDEN)
    on = screen("bash", "--norc", "-i")
    on.type(f"{command} run --quiet -- echo one | sh -c 'cat; head -n1 < /dev/tty; echo done with tty'\n")
    on.until(lambda seen: "\none" in seen)
    on.type("typed\n")
    on.until(lambda seen: "\ndone with tty" in seen)
    on.type("exit\n")
    on.wait()


def test_an_interactive_shell_can_be_watched(screen) -> None:
    """A shell inside makes groups of its own; at its end the terminal comes back to us."""
    on = screen(*MEMWARDEN, "run", "--", "bash", "--norc", "-i")
    on.type("PS1='inner> '\n")
    on.type("sleep 0.1; echo $((40 + 2))\n")
    on.until(lambda seen: "\n42" in seen)
    on.type("exit 6\n")
    assert on.wait() == 6
    assert "exited with code 6" in on.seen


def test_live_draws_on_the_last_row_only(screen) -> None:
    """The status line keeps to a row that the command's output does not scroll over, and gives it back."""
    on = screen(*MEMWARDEN, "run", "--live", "--interval", "0.05", "--", "sh", "-c", "sleep 0.5; echo output")
    assert on.wait() == 0
    assert re.search(r"\033\[1;\d+r", on.seen), "the scrolling region was set"
    assert "\033[r" in on.seen, "and taken back"
    assert re.search(r"memwarden \d\d:\d\d:\d\d  .* MiB", on.seen)


def test_without_live_nothing_is_drawn_meanwhile(screen) -> None:
    """Until the command ends, only its own output is on the terminal."""
    on = screen(*MEMWARDEN, "run", "--interval", "0.02", "--", "sh", "-c", "sleep 0.4; printf mine; sleep 0.2")
    on.wait()
    before, _, after = on.seen.partition("mine")
    assert before == ""
    assert "memwarden" in after


def test_doctor_shows_the_effective_limit_and_its_source() -> None:
    """For a machine and for a person."""
    parsed = json.loads(subprocess.run([*MEMWARDEN, "doctor", "--json"], capture_output=True, text=True).stdout)
    assert parsed["effective_limit_bytes"] > 0
    assert parsed["effective_limit_source"].startswith(("machine", "cgroup", "rlimit"))
    assert {each["kind"] for each in parsed["ceilings"]} == {"cgroup2", "cgroup1", "polling"}
    assert all(each["reason"] for each in parsed["ceilings"] if not each["granted"])
    assert all(each["granted"] is not bool(each["reason"]) for each in parsed["wakeups"])
    assert "stalls of the machine" in [each["name"] for each in parsed["wakeups"]]
    text = subprocess.run([*MEMWARDEN, "doctor"], capture_output=True, text=True)
    assert text.returncode == 0
    assert "effective" in text.stdout
    assert "Wake-ups" in text.stdout
    assert "\033[" not in text.stdout


def test_doctor_fails_for_a_group_that_cannot_be_had() -> None:
    """A supervisor can ask beforehand whether the group that it hands over will do."""
    result = subprocess.run([*MEMWARDEN, "doctor", "--cgroup", "/nonexistent"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "/nonexistent" in result.stdout


def test_a_normal_end_leaves_no_gap_in_the_record(tmp_path: Path) -> None:
    """That a command ends is no fault of reading it."""
    path = tmp_path / "run.jsonl"
    run("--record", str(path), "--interval", "0.02", "--quiet", "--", "sh", "-c", "sleep 0.3")
    kinds = [event.kind for event in read_lines(path)]
    assert EventKind.SAMPLE in kinds
    assert EventKind.GAP not in kinds


def test_doctor_sees_a_lowered_resource_limit() -> None:
    """RLIMIT_AS counts among the limits."""
    result = subprocess.run(
        ["sh", "-c", 'ulimit -v 2000000; exec "$@" doctor --json', "sh", *MEMWARDEN], capture_output=True, text=True
    )
    parsed = json.loads(result.stdout)
    assert parsed["effective_limit_bytes"] == 2000000 * 1024
    assert parsed["effective_limit_source"] == "rlimit address space"


def test_a_stop_and_a_continue_leave_the_command_alone(tmp_path: Path) -> None:
    """As Ctrl-Z and `fg` send them, and for longer than any wait: 20 of 20 commands exit by themselves."""
    words = [*MEMWARDEN, "run", "--quiet"]
    commands = [
        subprocess.Popen(
            [*words, *limit, "--", "sh", "-c", 'echo ready; read _; exec sleep 0.1'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )
        for limit in ([], ["--limit", "64MiB"]) * 10
    ]  # fmt: skip
    for command in commands:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
    for number, pause in ((signal.SIGSTOP, 1.2), (signal.SIGCONT, 0.1)):
        for command in commands:
            os.killpg(command.pid, number)
        time.sleep(pause)
    for command in commands:
        command.communicate(b"\n", timeout=30)
    assert [command.returncode for command in commands] == [0] * 20
