"""``memwarden map`` with real commands, real memory and real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memwarden.model.units import MIB

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
PYTHON = sys.executable
#: Takes so many mebibytes as its argument says, page by page, and says so.
EATER = "import sys; b = bytearray(int(sys.argv[1]) << 20); b[::4096] = b'x' * (len(b) // 4096); print(sys.argv[1])"
#: Inputs whose names would do harm where a shell or a line's end got to see them.
HOSTILE = [
    b"two words",
    b"a\nline's end",
    b"'quoted'",
    b'"twice"',
    b"-rf",
    b"--help",
    b"$(touch owned)",
    b"{}",
    b"{name}",
    b"*",
    b"\xff\xfe not UTF-8",
    "東京".encode(),
    b"\x1b[31mred",
    b"tab\there",
    b".",
    b"..",
    b"x" * 255,
    b"/a/b" * 500,
]


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """Ledgers, footprints, temporary files and the working directory of each test are its own."""
    for name in ("state", "run", "tmp", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    monkeypatch.chdir(tmp_path / "work")


def start(*arguments, **options):
    command = [PYTHON, "-m", "memwarden", "map", "--workers", "2", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def run(*arguments, given=b"", code=0):
    with start(*arguments) as process:
        out, err = process.communicate(given, timeout=60)
    assert process.returncode == code, err.decode(errors="replace")
    assert b"Traceback" not in err
    return out, err.decode(errors="replace")


def results(path="results"):
    """The lines of a manifest, without the first."""
    with open(path, encoding="ascii") as lines:
        head, *rest = [json.loads(line) for line in lines]
    assert head["type"] == "map"
    return rest


def lines(count):
    return "".join(f"{number}\n" for number in range(count)).encode()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def processes_with(word):
    """Pids of the processes whose command line holds this."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in line:
                found.append(int(name))
    return found


def left_behind(tmp_path):
    """Return all files and folders but the user's own folder for temporary files, which stays for the next program."""
    home = tmp_path / "tmp" / f"memwarden-{os.getuid()}"
    return [each for each in (tmp_path / "tmp").rglob("*") if each != home]


def test_each_input_is_one_run_of_the_command(tmp_path):
    """The output of each is printed whole, the input stands last, and nothing is left."""
    out, err = run("--", "echo", "got", given=lines(20))
    assert sorted(out.split(b"\n")[:-1], key=lambda line: int(line[4:])) == [b"got %d" % at for at in range(20)]
    assert "20 of 20 done" in err
    assert left_behind(tmp_path) == []


def test_marks_are_replaced_in_every_word():
    """{}, {name} and {stem}, several times, and once only: an input may hold marks itself."""
    out, _ = run("--", "echo", "-i{}", "{name}", "{stem}.mkv", "{}{}", "{other}", given=b"films/a.b.mp4\n")
    assert out == b"-ifilms/a.b.mp4 a.b.mp4 a.b.mkv films/a.b.mp4films/a.b.mp4 {other}\n"
    out, _ = run("-I", "@@", "--", "echo", "{}", "@@", "{name}", given=b"in\n")
    assert out == b"{} in {name}\n"


def test_hostile_inputs_reach_the_command_as_they_are(tmp_path):
    """Byte by byte, and what the manifest says of them can be read back."""
    given = b"\0".join(HOSTILE)
    out, _ = run("-0", "--results", "results", "--output-dir", "out", "--", "printf", "%s", "{}", given=given)
    assert out == b""
    lines = results()
    assert sorted(os.fsencode(each["input"]) for each in lines) == sorted(HOSTILE)
    for each in lines:
        assert Path(each["output"]).read_bytes() == os.fsencode(each["input"])
        assert each["errors"] is None
    assert len(os.listdir("out")) == len(HOSTILE)
    assert not os.path.exists("owned")
    assert left_behind(tmp_path) == []


def test_tagged_lines_do_not_mix():
    """Each line begins with its input, the last one ends with a line's end, and no input speaks to the terminal."""
    script = "for n in 1 2 3; do echo $n; done; printf end"
    out, _ = run("-0", "--tag", "--", "sh", "-c", script, "sh", given=b"a\0b\x1b[31m\0")
    assert sorted(out.split(b"\n")) == sorted(
        [b"", *[name + b"\t" + word for name in (b"a", b"b?[31m") for word in (b"1", b"2", b"3", b"end")]]
    )


def test_output_without_a_tag_is_passed_on_as_it_is():
    """Every byte of it, standard error apart."""
    out, err = run("--", "sh", "-c", "printf '\\0\\377%s' $1; echo oops >&2", "sh", given=b"x\n")
    assert out == b"\0\xffx"
    assert err.startswith("oops\n")


def test_files_are_inputs_and_their_names_no_options():
    """A pattern may go through all folders; a name that begins with a dash gets its folder."""
    Path("deep/er").mkdir(parents=True)
    for name in ("a.txt", "-n.txt", "deep/er/b.txt", "c.log"):
        Path(name).write_text("four")
    out, _ = run("--glob", "**/*.txt", "--json", "--results", "results", "--", "echo")
    assert sorted(out.split()) == [b"./-n.txt", b"a.txt", b"deep/er/b.txt"]
    assert {each["size"] for each in results()} == {4.0}


def test_a_pattern_that_matches_nothing_is_an_error():
    """A typing error must not look like a batch that is done: code 2, as for inputs that cannot be read."""
    out, err = run("--glob", "*.mp5", "--", "echo", code=2)
    assert out == b""
    assert "--glob *.mp5: no file matches" in err


def test_failures_are_reported_and_the_others_continue():
    """The results have each exit code; that of the batch is 1."""
    _, err = run("--results", "results", "--", "sh", "-c", "exit $1", "sh", given=b"0\n3\n0\n7\n", code=1)
    assert "memwarden map: 3: exit code 3\n" in err
    assert "2 of 4 done, 2 failed" in err
    assert sorted((each["input"], each["state"], each["exit_code"]) for each in results()) == [
        ("0", "done", 0),
        ("0", "done", 0),
        ("3", "failed", 3),
        ("7", "failed", 7),
    ]


def test_a_signal_is_reported_as_in_a_shell():
    """128 and the signal's number; a command that a user kills is not run again."""
    run("--results", "results", "--", "sh", "-c", "kill -KILL $$", "sh", given=b"x\n", code=1)
    (line,) = results()
    assert (line["state"], line["exit_code"]) == ("failed", 137)
    assert "signal 9" in line["reason"]


def test_fail_fast_begins_no_more():
    """A command that was started may finish."""
    _, err = run("--fail-fast", "--results", "results", "--", "sh", "-c", "sleep 0.1; exit 1", given=lines(50), code=1)
    assert 1 <= len(results()) <= 20
    assert "not done" in err


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["no-such-command"], 127, "command not found"),
        (["/no/such/{}"], 1, "cannot be started: No such file"),
        (["./plain"], 1, "cannot be started: Permission denied"),
        (["./"], 126, "is a directory"),
    ],
)
def test_a_command_that_cannot_be_started_is_one_line(command, code, words):
    """Before anything begins where it is the same for all, else for each input."""
    Path("plain").write_text("no program")
    _, err = run("--quiet", "--", *command, given=b"x\n", code=code)
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (["--resume"], b"", "--results"),
        (["--tag", "--output-dir", "out"], b"", "--tag"),
        (["--inputs", "missing"], b"", "--inputs missing: No such file"),
        (["--report", "a.gif"], b"", ".svg"),
        (["--report", "no/a.svg"], b"", "no folder"),
        (["--results", "no/results"], b"", "No such file"),
        (["--results", "/dev/null"], b"", "already"),
        (["--replace", ""], b"", "--replace"),
        (["--limit", "lots"], b"", "lots"),
        (["--reserve", "1000GiB"], b"x\n", "can never fit"),
        (["--workers", "0"], b"", "--workers"),
        ([], b"a\0b", "--null"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_starts(arguments, given, words, tmp_path):
    """In one line, with exit code 2, and nothing is left."""
    _, err = run(*arguments, "--", "touch", "started", given=given, code=2)
    assert words in err
    assert err.count("\n") == 1
    assert os.listdir(".") == []
    assert left_behind(tmp_path) == []


def test_nothing_to_do_is_done():
    """Empty lines are no inputs."""
    _, err = run("--", "false", given=b"\n\n")
    assert err == "memwarden map: no inputs\n"


def test_results_are_not_overwritten():
    """And another command does not go on with them."""
    run("--results", "results", "--", "true", given=b"1\n")
    before = Path("results").read_bytes()
    _, err = run("--results", "results", "--", "true", given=b"2\n", code=2)
    assert "--resume" in err
    _, err = run("--results", "results", "--resume", "--", "echo", given=b"2\n", code=2)
    assert "another command" in err
    assert Path("results").read_bytes() == before
    Path("mine").write_text('{"a": 1}\n')
    _, err = run("--results", "mine", "--resume", "--", "true", given=b"2\n", code=2)
    assert "not a file of results" in err
    assert Path("mine").read_text() == '{"a": 1}\n'


def test_what_failed_is_run_again():
    """What is done is not; an input that comes twice is run twice."""
    command = ["--results", "results", "--resume", "--", "sh", "-c", "echo $1 >>log; test -e good", "sh"]
    run(*command, given=b"a\nb\na\n", code=1)
    Path("good").touch()
    run(*command, given=b"a\nb\na\n")
    _, err = run(*command, given=b"a\nb\na\nc\n")
    assert sorted(Path("log").read_text().split()) == ["a"] * 4 + ["b"] * 2 + ["c"]
    assert "4 of 4 done (3 earlier)" in err


def test_a_torn_line_is_run_again():
    """As a machine that lost its power leaves one."""
    command = ["--results", "results", "--resume", "--", "echo"]
    run(*command, given=b"a\nb\n")
    whole = Path("results").read_bytes()
    Path("results").write_bytes(whole[:-20])
    out, _ = run(*command, given=b"a\nb\n")
    assert out in (b"a\n", b"b\n")
    last = Path("results").read_bytes().splitlines()[-1]
    assert json.loads(last)["state"] == "done"


def test_killed_batch_goes_on_where_it_was(tmp_path):
    """After SIGKILL nothing runs on, no line is torn, every input is done in the end, and the rubbish is gone."""
    command = ["--results", "results", "--", "sh", "-c", "sleep 0.03; echo $1 # killed-batch", "sh"]
    with start(*command) as process:
        process.stdin.write(lines(60))
        process.stdin.close()
        until(lambda: os.path.exists("results") and len(Path("results").read_bytes().splitlines()) > 10)
        process.kill()
    until(lambda: not processes_with("# killed-batch"), 5)
    first = results()
    assert 10 <= len(first) < 60
    out, err = run("--resume", *command, given=lines(60))
    both = results()
    assert sorted(int(each["input"]) for each in both) == list(range(60))
    assert len(out.splitlines()) == 60 - len(first)
    assert f"60 of 60 done ({len(first)} earlier)" in err
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_everything_and_reports_what_was_done(number, code, tmp_path):
    """No process, no unfinished file and no reservation is left, however often it is sent."""
    command = ["--results", "results", "--output-dir", "out", "--", "sh", "-c", "sleep 0.1; echo $1 # ended", "sh"]
    with start(*command) as process:
        process.stdin.write(lines(100))
        process.stdin.close()
        until(lambda: os.path.exists("results") and len(Path("results").read_bytes().splitlines()) > 4)
        process.send_signal(number)
        time.sleep(0.01)
        process.send_signal(number)
        _, err = process.stdout.read(), process.stderr.read().decode()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert f"stopped by {number.name}" in err
    assert processes_with("# ended") == []
    # One that had just ended may be there though its worker was ended before it could say so; it is whole, too.
    out = {path.name: path.read_text() for path in Path("out").iterdir()}
    assert out.keys() >= {os.path.basename(each["output"]) for each in results()}
    assert out == {f"{number}.out": f"{number}\n" for number in (name.removesuffix(".out") for name in out)}
    assert left_behind(tmp_path) == []
    state = subprocess.run(
        [PYTHON, "-m", "memwarden", "ledger", "--json"], capture_output=True, check=True, timeout=30
    ).stdout
    assert all(not ledger["holders"] for ledger in json.loads(state)["ledgers"])


def test_a_reader_that_goes_away_ends_it():
    """As head does."""
    with start("--", "echo") as process:
        process.stdin.write(lines(5000))
        process.stdin.close()
        assert process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 141, err
    assert "Traceback" not in err


def test_two_batches_do_not_share_results():
    """The second waits for the first to go, and then says why it does not begin."""
    with start("--results", "results", "--", "sleep") as process:
        process.stdin.write(b"30\n")
        process.stdin.close()
        until(lambda: os.path.exists("results") and Path("results").read_bytes())
        _, err = run("--results", "results", "--resume", "--", "sleep", given=b"1\n", code=2)
        assert "another batch" in err
        process.send_signal(signal.SIGTERM)


def test_more_than_fits_is_done_under_a_small_limit():
    """Eight commands of 60 MiB in 150 MiB, without a hint: all are done, and together they never had more."""
    given = b"60\n" * 8
    out, err = run(
        "--workers", "8", "--limit", "150MiB", "--json", "--results", "results", "--report", "report.json", "--",
        PYTHON, "-c", EATER, given=given,
    )  # fmt: skip
    assert out == b"60\n" * 8
    summary = json.loads(err.splitlines()[-1])
    assert (summary["done"], summary["failed"], summary["exit_code"]) == (8, 0, 0)
    assert summary["batch"]["peak_used_bytes"] <= (150 + 16) * MIB
    assert summary["batch"]["kernel_kills"] == 0
    report = json.loads(Path("report.json").read_text())
    assert report["finished"] >= 8  # a command that failed while memory was short is run once more
    assert len(report["points"]["used_bytes"]) == len(report["points"]["seconds"]) > 1
    for each in results():
        assert 60 * MIB < each["peak_bytes"] < 120 * MIB


def test_one_that_can_never_fit_is_set_aside_by_name():
    """The others are done, and the result has its memory and the budget."""
    _, err = run("--limit", "150MiB", "--results", "results", "--", PYTHON, "-c", EATER, given=b"20\n400\n30\n", code=1)
    assert "memwarden map: 400: " in err
    states = {each["input"]: each for each in results()}
    assert {name: each["state"] for name, each in states.items()} == {"20": "done", "400": "too-large", "30": "done"}
    assert states["400"]["exit_code"] is None
    assert "150" in states["400"]["reason"]


def test_what_was_learned_is_kept_under_the_command_words(tmp_path):
    """So that the next batch knows from its first input on."""
    run("--", PYTHON, "-c", EATER, given=b"8\n8\n")
    lines = subprocess.run([PYTHON, "-m", "memwarden", "footprints", "--json"], capture_output=True, check=True).stdout
    (kind,) = json.loads(lines)["kinds"]
    assert kind["kind"].startswith(f"{os.path.basename(PYTHON)} -c import sys; b = bytearray")
    assert kind["finished"] >= 1


def test_reports_are_written_whole():
    """As text, JSON and a picture, by the ending of the name."""
    arguments = [word for kind in ("txt", "json", "svg") for word in ("--report", f"report.{kind}")]
    run("--quiet", *arguments, "--", "sleep", given=b"0.1\n" * 4)
    assert "4 of 4 done" in Path("report.txt").read_text()
    assert json.loads(Path("report.json").read_text())["type"] == "batch"
    assert "<svg" in Path("report.svg").read_text()
    assert sorted(os.listdir(".")) == ["report.json", "report.svg", "report.txt"]


def test_a_terminal_shows_how_far_it_is(screen):
    """One line, which makes way for output and is gone at the end; Ctrl-C ends it there."""
    Path("inputs").write_bytes(lines(100))
    words = [PYTHON, "-m", "memwarden", "map", "--workers", "2", "--inputs", "inputs", "--", "sh", "-c"]
    terminal = screen(*words, "sleep 0.05; echo out-$1", "sh")
    terminal.until(lambda text: "/100 " in text and " running" in text)
    terminal.until(lambda text: "out-9\n" in text)
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert "stopped by SIGINT" in terminal.text
    assert "out-9\n" in terminal.text.replace("\r", "")
