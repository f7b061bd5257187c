"""``memwarden watch`` and ``memwarden top`` on terminals, in pipes and under signals."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict
from memwarden.model.verdicts import Reading
from memwarden.records.jsonl import read_lines

MEMWARDEN = [sys.executable, "-c", "import sys; from memwarden.faces.cli import main; sys.exit(main())"]
#: Escape sequences: alternate screen, normal screen, hide the cursor, show it.
ALTERNATE, BACK, HIDE, SHOW = "\033[?1049h", "\033[?1049l", "\033[?25l", "\033[?25h"


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file of the user."""
    for name in [name for name in os.environ if name.startswith("MEMWARDEN_")] + ["NO_COLOR"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def memwarden(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    wide = {**os.environ, "COLUMNS": "120"}
    return subprocess.run([*MEMWARDEN, *arguments], capture_output=True, text=True, timeout=60, env=wide, **more)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start programs, and kill them at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **more: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command, text=True, **more))
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.wait()
        for stream in (each.stdin, each.stdout, each.stderr):
            if stream is not None:
                stream.close()


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def values(lines: str) -> list[Any]:
    return [from_dict(json.loads(line)) for line in lines.splitlines()]


WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"


# --- what it shows -----------------------------------------------------------------------------------


def test_the_machine_in_lines() -> None:
    """Titles, one line for each interval in the same columns, and an end when the time is over."""
    started = time.monotonic()
    done = memwarden("watch", "--interval", "200ms", "--duration", "1s")
    assert 1.0 <= time.monotonic() - started < 10
    assert (done.returncode, done.stderr) == (0, "")
    titles, *rest = done.stdout.splitlines()
    readings = [line for line in rest if " event " not in line]
    assert 4 <= len(readings) <= 6
    for line in readings:
        cells = dict(zip(titles.split(), line.split(), strict=False))
        assert cells["level"] in ("LOW", "MODERATE", "HIGH", "CRITICAL")
        assert cells["share"].endswith("%")
        assert cells["available"].endswith("iB")
        assert int(cells["processes"]) > 1
    assert rest[-1].endswith("event end: watched for 1.0 s")


def test_json_is_read_back() -> None:
    """One value a line, in the schema of the records: readings with the machine, the group and five processes."""
    done = memwarden("watch", "--json", "--interval", "100ms", "--duration", "0.5s")
    assert done.returncode == 0
    shown = values(done.stdout)
    readings = [each for each in shown if isinstance(each, Reading)]
    events = [each for each in shown if isinstance(each, Event)]
    assert len(readings) + len(events) == len(shown)
    assert 3 <= len(readings) <= 6
    sample = readings[-1].sample
    assert sample.system is not None
    assert sample.top is not None
    assert len(sample.top.keys) == 5
    assert list(sample.top.rss) == sorted(sample.top.rss, reverse=True)
    assert sample.shares is not None
    assert {key.pid for key in sample.shares.keys} <= {key.pid for key in sample.top.keys}
    assert events[0].kind is EventKind.START
    assert events[-1].kind is EventKind.STOP
    assert EventKind.LEVEL in {each.kind for each in events}
    assert EventKind.SAMPLE not in {each.kind for each in events}


def test_a_tree_by_pid(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A process and its child: sizes, the peak of the root, PSS; the watch stops with the last and reports its exit."""
    code = (
        "import os, sys, time\n"
        "kept = b'x' * (30 << 20)\n"
        "child = os.fork()\n"
        "print('ready', flush=True)\n"
        "if child == 0: sys.stdin.read(); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "time.sleep(0.3)\n"
        "sys.exit(7)"
    )
    program = start(*python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdin is not None
    program.stdout.readline()
    watch = start(
        *MEMWARDEN, "watch", "--json", "--interval", "100ms", "--pid", str(program.pid), stdout=subprocess.PIPE
    )
    assert watch.stdout is not None
    shown = []
    while len([each for each in shown if isinstance(each, Reading)]) < 4:
        shown.append(from_dict(json.loads(watch.stdout.readline())))
    sample = next(each for each in reversed(shown) if isinstance(each, Reading)).sample
    assert sample.tree is not None
    assert sample.tree.root.pid == program.pid
    assert len(sample.tree.keys) == 2
    assert sample.tree.total > 30 << 20
    assert sample.process is not None
    assert (sample.process.peak or 0) > 30 << 20
    assert sample.shares is not None
    assert sum(sample.shares.pss) < sample.tree.total
    program.stdin.close()
    assert program.wait(20) == 7
    rest = values(watch.communicate(timeout=20)[0])
    assert watch.returncode == 0
    [ending] = [each for each in rest if isinstance(each, Event) and each.kind is EventKind.EXIT]
    assert f"[{program.pid}] " in ending.message
    if ending.value is not None:  # Linux 6.15 and later
        assert ending.value.exit_code == 7


def test_a_kill_by_a_signal_is_shown(start: Callable[..., subprocess.Popen[str]]) -> None:
    """In the plain lines, too: which process, and by what where the kernel reports it (Linux 6.15)."""
    program = start(*python(WAIT), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()
    watch = start(*MEMWARDEN, "watch", "--interval", "100ms", "--pid", str(program.pid), stdout=subprocess.PIPE)
    assert watch.stdout is not None
    watch.stdout.readline()
    watch.stdout.readline()
    program.terminate()
    program.wait()
    rest, _ = watch.communicate(timeout=20)
    last = rest.splitlines()[-1]
    assert watch.returncode == 0
    assert f"[{program.pid}] " in last
    assert last.endswith(("was killed by SIGTERM", "ended; its exit status is not known"))


def test_several_pids_are_one_tree(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Each tree, a process of two of them once."""
    programs = [start("sleep", "60") for _ in range(2)]
    pids = [word for each in programs for word in ("--pid", str(each.pid))]
    done = memwarden("watch", "--json", "--duration", "0.3s", *pids, "--pid", str(programs[0].pid))
    reading = next(each for each in values(done.stdout) if isinstance(each, Reading))
    assert reading.sample.tree is not None
    assert sorted(key.pid for key in reading.sample.tree.keys) == sorted(each.pid for each in programs)


def test_a_name_is_followed(start: Callable[..., subprocess.Popen[str]]) -> None:
    """New processes join, ended ones leave with a line, and the watch continues without any."""
    word = f"memwarden-test-{os.getpid()}"
    first = start(*python(WAIT, word), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    time.sleep(0.3)  # it has to be another program than ours first
    watch = start(*MEMWARDEN, "watch", "--json", "--interval", "100ms", "--name", word, stdout=subprocess.PIPE)
    assert watch.stdout is not None

    def until(wanted: set[int]) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            value = from_dict(json.loads(watch.stdout.readline()))
            if isinstance(value, Reading):
                tree = value.sample.tree
                if (set() if tree is None else {key.pid for key in tree.keys}) == wanted:
                    return
        raise AssertionError(f"never seen: {wanted}")

    until({first.pid})
    second = start(*python(WAIT, word), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until({first.pid, second.pid})
    first.kill()
    until({second.pid})
    second.kill()
    until(set())
    watch.send_signal(signal.SIGTERM)
    watch.communicate(timeout=20)
    assert watch.returncode == 0


@pytest.mark.contract("S2-18")
def test_processes_are_listed_on_demand() -> None:
    """Once: the largest, with their share of the machine, and PSS where it may be read; as a table and as JSON."""
    done = memwarden("top", "-n", "3")
    assert (done.returncode, done.stderr) == (0, "")
    head, titles, *rows = [line for line in done.stdout.splitlines() if not line.startswith("missing ")]
    assert "machine" in head
    assert "processes" in head
    assert titles.split()[:4] == ["pid", "process", "resident", "machine"]
    assert len(rows) == 3
    shown = values(memwarden("top", "-n", "3", "--json").stdout)
    [reading] = shown
    assert isinstance(reading, Reading)
    assert reading.sample.top is not None
    assert len(reading.sample.top.keys) == 3
    assert list(reading.sample.top.rss) == sorted(reading.sample.top.rss, reverse=True)


def test_top_by_fair_share_puts_forks_behind(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Two processes that share 60 MiB stand above one of 45 MiB by resident size, and below it by PSS."""
    shared = "import os, sys; x = os.urandom(60 << 20); os.fork(); print('ready', flush=True); sys.stdin.read()"
    alone = "import os, sys; x = os.urandom(45 << 20); print('ready', flush=True); sys.stdin.read()"
    forks = start(*python(shared), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    single = start(*python(alone), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for program, count in ((forks, 2), (single, 1)):
        for _ in range(count):
            assert program.stdout is not None
            program.stdout.readline()

    def places(sort: str) -> list[int]:
        [reading] = values(memwarden("top", "-n", "200", "--sort", sort, "--json").stdout)
        return [key.pid for key in reading.sample.top.keys]

    by_rss, by_pss = places("rss"), places("pss")
    assert by_rss.index(forks.pid) < by_rss.index(single.pid)
    assert by_pss.index(forks.pid) > by_pss.index(single.pid)


# --- rules -------------------------------------------------------------------------------------------


def rule(name: str, when: str, then: str = "notify") -> str:
    return f'[[rules]]\nname = "{name}"\nwhen = "{when}"\nthen = "{then}"\nrest = inf\n'


@pytest.mark.contract("X-28")
def test_rules_are_followed_and_read_again(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """A rule fires; a broken file keeps it and says why, once; a new one takes its place."""
    file = tmp_path / "rules.toml"
    file.write_text(rule("first", "used > 0.001%"))
    watch = start(*MEMWARDEN, "watch", "--json", "--interval", "100ms", "--config", str(file), stdout=subprocess.PIPE)
    assert watch.stdout is not None
    seen: list[Event] = []

    def until(kind: EventKind, word: str) -> Event:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            value = from_dict(json.loads(watch.stdout.readline()))
            if isinstance(value, Event):
                seen.append(value)
                if value.kind is kind and word in value.message + str(value.value):
                    return value
        raise AssertionError(f"never seen: {kind} {word}: {seen}")

    until(EventKind.OUTCOME, "first")
    file.write_text("[[rules")
    trouble = until(EventKind.TROUBLE, str(file))
    assert "the rules stay as they were" in trouble.message
    file.write_text(rule("second", "used > 0.001%", "reboot"))
    assert "'reboot'" in until(EventKind.TROUBLE, "no action").message
    file.write_text(rule("third", "used > 0.002%", "collect"))
    until(EventKind.CLEARED, "first")
    outcome = until(EventKind.OUTCOME, "third")
    assert "only observes" in outcome.message
    assert not outcome.value.done
    assert len([each for each in seen if each.kind is EventKind.TROUBLE]) == 2
    watch.send_signal(signal.SIGINT)
    watch.communicate(timeout=20)
    assert watch.returncode == 0


def test_a_dry_run_is_labelled(tmp_path: Path) -> None:
    """Every decision carries the mark, in lines and in JSON."""
    (tmp_path / "memwarden.toml").write_text(rule("early", "used > 0.001%"))
    done = memwarden("watch", "--dry-run", "--duration", "0.3s")
    assert "event decision: early: " in done.stdout
    assert "-> notify (dry run)" in done.stdout


def test_a_preset_has_rules_and_an_interval() -> None:
    """Without an interval of one's own, the preset's counts: two seconds for video."""
    done = memwarden("watch", "--preset", "video", "--duration", "0.2s", "--json")
    shown = values(done.stdout)
    assert any(isinstance(each, Event) and "every 2 s" in each.message for each in shown)
    assert any(isinstance(each, Event) and each.kind is EventKind.RULES for each in shown)


@pytest.mark.contract("X-28")
@pytest.mark.parametrize("way", ["variable", "file"])
def test_options_of_a_watch_may_be_set_in_variables_and_files(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its duration and its preset."""
    if way == "variable":
        monkeypatch.setenv("MEMWARDEN_DURATION", "300ms")
        monkeypatch.setenv("MEMWARDEN_PRESET", "container")
    else:
        (tmp_path / "memwarden.toml").write_text('duration = "300ms"\npreset = "container"\n')
    done = memwarden("watch")
    assert done.returncode == 0
    assert "event end: watched for 300 ms" in done.stdout
    assert "event rules: when the level is at least HIGH" in done.stdout


def test_alerts_arrive(tmp_path: Path) -> None:
    """A rule of a watch posts to the webhook that is set."""
    (tmp_path / "memwarden.toml").write_text(rule("early", "used > 0.001%", "webhook"))
    posted: list[bytes] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = memwarden("watch", "--duration", "1s", "--webhook", f"http://127.0.0.1:{server.server_port}/in")
        server.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    assert "-> webhook" in done.stdout
    assert b"early" in posted[0]


@pytest.mark.parametrize("name", ["watch.jsonl", "watch.sqlite"])
def test_a_watch_is_recorded(name: str, tmp_path: Path) -> None:
    """The record holds what was shown: readings, events, and the target; as lines, or as a history."""
    record = tmp_path / name
    assert memwarden("watch", "--record", str(record), "--interval", "100ms", "--duration", "0.4s").returncode == 0
    if name.endswith(".sqlite"):
        assert record.read_bytes().startswith(b"SQLite format 3")
        return
    events = list(read_lines(record))
    assert events[0].message == "watching this machine"
    assert [each.kind for each in events].count(EventKind.SAMPLE) >= 3
    assert events[-1].kind is EventKind.STOP


# --- bad input, and bad ends -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["watch", "--pid", "4194305"], 1, ["4194305", "no process"], id="a pid that is not there"),
        pytest.param(["watch", "--pid", "soon"], 2, ["--pid", "soon"], id="no pid at all"),
        pytest.param(["watch", "--pid", "0"], 2, ["--pid"], id="pid 0"),
        pytest.param(["watch", "--name", "no-such-\x07-thing"], 1, ["no process", "no-such-"], id="no such process"),
        pytest.param(["watch", "--name", " "], 2, ["--name", "empty"], id="an empty name"),
        pytest.param(["watch", "--pid", "1", "--name", "x"], 2, ["--pid", "--name"], id="both"),
        pytest.param(["watch", "--record", "/proc/no/x"], 2, ["--record", "/proc/no/x"], id="a record that cannot be"),
        pytest.param(["watch", "--interval", "fast"], 2, ["--interval", "fast"], id="no interval"),
        pytest.param(["watch", "--preset", "cosy"], 2, ["--preset", "cosy"], id="no preset"),
        pytest.param(["watch", "--config", "/no/file"], 2, ["/no/file"], id="no settings file"),
        pytest.param(["watch", "and", "more"], 2, ["and"], id="a word too many"),
        pytest.param(["top", "-n", "0"], 2, ["-n"], id="none of the largest"),
        pytest.param(["top", "--sort", "age"], 2, ["age"], id="an order that there is not"),
    ],
)
def test_bad_input_gets_one_line(arguments: list[str], code: int, words: list[str]) -> None:
    """The culprit and the way out, on standard error, with the documented code; nothing was watched."""
    done = memwarden(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)


def test_bad_rules_get_one_line(tmp_path: Path) -> None:
    """A condition and an action that do not exist are shown with the file, before anything is watched."""
    for text, word in ((rule("x", "usd > 1%"), "'usd'"), (rule("x", "used > 1%", "reboot"), "'reboot'")):
        (tmp_path / "memwarden.toml").write_text(text)
        done = memwarden("watch", "--duration", "1s")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert word in done.stderr


@pytest.mark.parametrize("arguments", [["watch", "--interval", "50ms"], ["watch", "--json"], ["top"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(arguments: list[str]) -> None:
    """``| head -1``: one line, no complaint, no process left."""
    line = " ".join(f"'{word}'" for word in [*MEMWARDEN, *arguments]) + " | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["watch", "--duration", "5s"], ["watch", "--json", "--duration", "5s"], ["top"]])
def test_a_full_disk_is_shown(arguments: list[str]) -> None:
    """Output that cannot be written is an error: one line, exit code 1."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([*MEMWARDEN, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "standard output" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_it(number: signal.Signals, start: Callable[..., subprocess.Popen[str]]) -> None:
    """That is no failure: exit code 0, no traceback."""
    watch = start(*MEMWARDEN, "watch", "--interval", "50ms", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watch.stdout is not None
    watch.stdout.readline()
    watch.stdout.readline()
    watch.send_signal(number)
    _, error = watch.communicate(timeout=20)
    assert (watch.returncode, error) == (0, "")


def test_a_second_interrupt_stops_a_blocked_writer(start: Callable[..., subprocess.Popen[str]]) -> None:
    """The reader does not read and the pipe is full: Ctrl-C twice still stops it."""
    reader, writer = os.pipe()
    watch = start(*MEMWARDEN, "watch", "--json", "--interval", "10ms", stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    end = time.monotonic() + 30
    while time.monotonic() < end:  # until it sleeps in write
        time.sleep(0.1)
        with open(f"/proc/{watch.pid}/wchan") as file:
            if "pipe" in file.read():
                break
    watch.send_signal(signal.SIGINT)
    time.sleep(0.3)
    watch.send_signal(signal.SIGINT)
    assert watch.wait(20) in (0, 130)
    os.close(reader)


# --- terminals ---------------------------------------------------------------------------------------


def test_live_on_a_terminal(screen) -> None:
    """On the alternate screen, without a cursor; Ctrl-C brings both back, leaves the last view, and exits with 0."""
    on = screen(*MEMWARDEN, "watch", "--interval", "200ms")
    on.until(lambda seen: seen.count("this machine") > 2)
    assert on.seen.startswith(ALTERNATE)
    assert HIDE in on.seen
    on.type("\x03")
    assert on.wait() == 0
    _, _, after = on.seen.rpartition(BACK)
    assert on.seen.rpartition(SHOW)[0].count(HIDE) == 1
    assert HIDE not in after
    assert "this machine" in after
    assert "Traceback" not in on.seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_killed_view_gives_the_terminal_back(number: signal.Signals, screen) -> None:
    """A supervisor that stops it leaves no screen without a cursor behind."""
    on = screen(*MEMWARDEN, "watch")
    on.until(lambda seen: "this machine" in seen)
    os.kill(on.pid, number)
    assert on.wait() == 0
    assert on.seen.rindex(BACK) > on.seen.rindex(ALTERNATE)
    assert on.seen.rindex(SHOW) > on.seen.rindex(HIDE)


def test_ctrl_z_gives_the_terminal_back_meanwhile(screen) -> None:
    """The shell gets its own screen and a cursor; fg draws the view again."""
    on = screen("bash", "--norc", "-i")
    command = " ".join(f"'{word}'" for word in MEMWARDEN)
    on.type(f"PS1='prompt> '; {command} watch --interval 100ms\n")
    on.until(lambda seen: "this machine" in seen)
    on.type("\x1a")
    on.until(lambda seen: "Stopped" in seen)
    assert on.seen.rindex(BACK) > on.seen.rindex(ALTERNATE)
    assert on.seen.rindex(SHOW) > on.seen.rindex(HIDE)
    before = on.seen.count(ALTERNATE)
    on.type("fg\n")
    on.until(lambda _: on.seen.count(ALTERNATE) > before)
    on.type("\x03")
    on.until(lambda _: on.seen.rindex(BACK) > on.seen.rindex(ALTERNATE))
    on.type("echo code=$?\n")
    on.until(lambda seen: "code=0" in seen)
    on.type("exit\n")
    on.wait()


@pytest.mark.parametrize(("columns", "rows"), [(40, 10), (20, 4), (200, 60)])
def test_any_size_of_terminal_will_do(columns: int, rows: int, screen) -> None:
    """Small and large: a view, and a normal end by itself."""
    on = screen(*MEMWARDEN, "watch", "--interval", "100ms", "--duration", "1s", columns=columns, rows=rows)
    assert on.wait() == 0
    assert "memwarden this mach" in on.text
    assert "watched for 1.0 s" in on.text
    assert "Traceback" not in on.seen


def test_a_resized_terminal_is_drawn_anew_at_once(screen) -> None:
    """Not only at the next reading, which is a minute away."""
    on = screen(*MEMWARDEN, "watch", "--interval", "60s", columns=100)
    on.until(lambda seen: "this machine" in seen)
    before = on.seen.count("this machine")
    on.resize(columns=60, rows=20)
    on.until(lambda seen: seen.count("this machine") > before, seconds=10)
    on.type("\x03")
    assert on.wait() == 0


def test_no_colour_and_dumb_terminals_get_lines(screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR: plain lines, without one escape sequence, on a terminal, too."""
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (["watch", "--interval", "100ms", "--duration", "0.5s"], ["top"]):
        on = screen(*MEMWARDEN, *arguments)
        assert on.wait() == 0
        assert "\033" not in on.seen


def test_top_is_live_on_a_terminal(screen) -> None:
    """Drawn again and again, until Ctrl-C; --once is a list."""
    on = screen(*MEMWARDEN, "top", "-n", "3", "--interval", "100ms")
    on.until(lambda seen: seen.count("memwarden top") > 2)
    assert on.seen.startswith(ALTERNATE)
    on.type("\x03")
    assert on.wait() == 0
    assert on.seen.rindex(SHOW) > on.seen.rindex(HIDE)
    on = screen(*MEMWARDEN, "top", "-n", "3", "--once")
    assert on.wait() == 0
    assert ALTERNATE not in on.seen


def test_only_a_live_view_loads_rich() -> None:
    """Lines, JSON and `top --once` do without: they are for small containers, and start fast."""
    code = (
        "import sys\n"
        "from memwarden.faces.cli import main\n"
        "for arguments in (['watch', '--duration', '0.1s'], ['watch', '--json', '--duration', '0.1s'], ['top']):\n"
        "    assert main(arguments) == 0\n"
        "assert not {'rich', 'asyncio'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
