"""The ledger between real processes: killed holders, many at once, forks, torn files."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from memwarden.admission.ledger.ledger import Ledger
from memwarden.admission.ledger.record import RECORD_BYTES
from memwarden.admission.ledger.reservation_file import HEADER_BYTES
from memwarden.errors import DoesNotFit, NotAdmitted

MIB = 1 << 20
SOURCE = str(Path(__file__).resolve().parents[2] / "src")

#: Holds MIB mebibytes (argument 2) in the ledger at PATH (argument 1), says so, and stays.
HOLDER = """
import sys
from memwarden.admission.ledger.ledger import Ledger
held = Ledger("1GiB", path=sys.argv[1]).reserve(f"{sys.argv[2]}MiB", label="holder")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def program(text, *arguments):
    """A Python process of its own, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCE},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "ledger")


def only_the_file(path):
    return os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


@pytest.mark.parametrize("times", [10, pytest.param(50, marks=pytest.mark.long)])
def test_a_killed_holder_returns_within_a_second(path, times):
    """SIGKILL to the holder: a waiter in another process is in well within a second, each time."""
    ledger = Ledger("1GiB", path=path)
    for _ in range(times):
        with program(HOLDER, path, 900) as holder:
            assert holder.stdout.readline() == "held\n"
            killed = []

            def kill(victim=holder, killed=killed):
                time.sleep(0.05)
                victim.kill()
                killed.append(time.monotonic())

            thread = threading.Thread(target=kill)
            thread.start()
            with ledger.reserve("900MiB", timeout=5):
                assert time.monotonic() - killed[0] < 1.0
            thread.join()
    assert only_the_file(path)


def test_a_holder_that_ends_without_releasing_returns_too(path):
    """A process that ends by ``os._exit`` leaves nothing behind that counts."""
    text = HOLDER.replace("sys.stdin.read()", "import os; os._exit(0)")
    with program(text, path, 900) as holder:
        holder.wait(10)
        assert Ledger("1GiB", path=path).state()["holders"] == []


def test_a_killed_waiter_blocks_none(path):
    """Its request is gone; a later request is admitted."""
    ledger = Ledger("1GiB", path=path, patience=0)  # a waiting request blocks those behind it
    first = ledger.reserve("600MiB")
    with program(HOLDER, path, 900) as waiter:
        while not ledger.state()["waiters"]:
            time.sleep(0.01)
        assert ledger.try_reserve("100MiB") is None
        waiter.kill()
        waiter.wait()
        started = time.monotonic()
        with ledger.reserve("100MiB", timeout=5):
            assert time.monotonic() - started < 1.0
    first.release()
    assert only_the_file(path)


def test_a_child_made_by_fork_inherits_nothing(path):
    """It neither holds the parent's reservation nor can it return it; its own one ends with it."""
    ledger = Ledger("1GiB", path=path)
    with ledger.reserve("600MiB") as held:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                held.release()
                with contextlib.suppress(NotAdmitted):
                    held.shrink("1MiB")
                    os._exit(2)
                own = ledger.try_reserve("400MiB")
                code = 0 if own is not None and held.bytes == 0 and ledger.try_reserve("100MiB") is None else 3
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        state = ledger.state()
        assert [row["reserved_bytes"] for row in state["holders"]] == [600 * MIB]
        assert held.bytes == 600 * MIB
        with ledger.reserve("400MiB", timeout=1):
            pass
    assert ledger.state()["holders"] == []


def test_a_child_that_lives_on_does_not_keep_the_reservation_of_its_dead_parent(path):
    """The kernel's lock is the parent's alone, although the child has a copy of the descriptor."""
    text = """
import os, sys
from memwarden.admission.ledger.ledger import Ledger
held = Ledger("1GiB", path=sys.argv[1]).reserve("900MiB")
if os.fork():
    print("held", flush=True)
sys.stdin.read()
"""
    with program(text, path) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
        with Ledger("1GiB", path=path).reserve("900MiB", timeout=1):
            pass


#: Reserves COUNT times at random with a seed, and journals what it holds when for certain: it says so after it has it
#: and before it gives it back.
BUSY = """
import os, random, sys, time
from memwarden.admission.ledger.ledger import Ledger
path, journal, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
ledger, random = Ledger("1GiB", path=path), random.Random(seed)
out = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(100):
    size = random.randrange(1, 700)
    held = ledger.reserve(f"{size}MiB", timeout=100, label=f"{seed}.{number}")
    os.write(out, f"{time.monotonic_ns()} {size}\\n".encode())
    time.sleep(random.random() * 0.004)
    os.write(out, f"{time.monotonic_ns()} {-size}\\n".encode())
    held.release()
print(len(ledger._file.troubles), flush=True)
"""


def test_eight_processes_never_hold_more_than_the_budget(path, tmp_path):
    """800 reservations of random sizes: all are made, and their journal, summed by itself, stays inside the budget."""
    Path(tmp_path / "work").mkdir()
    path = str(tmp_path / "work" / "ledger")
    journal = str(tmp_path / "journal")
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(program(BUSY, path, journal, seed)) for seed in range(8)]
        assert [process.wait(100) for process in processes] == [0] * 8
        assert [process.stdout.read() for process in processes] == ["0\n"] * 8
    lines = sorted(tuple(map(int, line.split())) for line in Path(journal).read_text().splitlines())
    assert len(lines) == 1600
    held = most = 0
    for _, size in lines:
        held += size
        most = max(most, held)
    assert held == 0
    assert 700 <= most <= 1024
    assert only_the_file(path)


def test_threads_of_one_process_share_the_budget(path):
    """Many reservations of one process count each; each thread gets its turn."""
    ledger = Ledger("100MiB", path=path)
    held, most, lock = [0], [0], threading.Lock()

    def work():
        for _ in range(20):
            with ledger.reserve("30MiB", timeout=60):
                with lock:
                    held[0] += 30
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= 30

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [0]
    assert most[0] <= 90
    assert only_the_file(path)


def test_a_waiter_notices_a_release_soon_and_costs_next_to_nothing(path):
    """By its poll every 0.1 s; a second of waiting costs a few ms of processor time."""
    ledger = Ledger("1GiB", path=path)
    held = ledger.reserve("900MiB")
    moments = {}

    def wait():
        before = time.thread_time()
        with ledger.reserve("900MiB", timeout=20):
            moments["in"] = time.monotonic()
            moments["cpu"] = time.thread_time() - before

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(1.1)
    released = time.monotonic()
    held.release()
    thread.join()
    assert moments["in"] - released < 0.3  # one poll, on a busy machine
    assert moments["cpu"] < 0.01


def test_waiting_can_be_interrupted(path):
    """Ctrl-C ends the waiting; the request is gone."""
    ledger = Ledger("1GiB", path=path)
    with ledger.reserve("900MiB"):
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            ledger.reserve("900MiB", timeout=20)
        assert ledger.state()["waiters"] == []
    assert only_the_file(path)


def test_a_holder_whose_pid_means_nothing_here_returns_when_it_is_killed(path):
    """In another pid namespace only the kernel's lock shows it; and it does."""
    text = HOLDER.replace(
        "import sys\n",
        "import sys, memwarden.admission.ledger.reservation_file as module\nmodule.namespace = lambda kind: 12345\n",
    )
    ledger = Ledger("1GiB", path=path)
    with program(text, path, 900) as holder:
        assert holder.stdout.readline() == "held\n"
        (row,) = ledger.state()["holders"]
        assert (row["reserved_bytes"], row["used_bytes"]) == (900 * MIB, None)
        threading.Timer(0.1, holder.kill).start()
        started = time.monotonic()
        with ledger.reserve("900MiB", timeout=5):
            assert time.monotonic() - started < 1.1


def test_what_can_never_fit_is_refused_at_once(path):
    """More than the machine has: a MemoryError that says so, and nothing waits."""
    started = time.monotonic()
    with pytest.raises(DoesNotFit, match="can never fit") as caught:
        Ledger(path=path).reserve("4000GiB")
    assert isinstance(caught.value, MemoryError)
    assert time.monotonic() - started < 0.5


#: Holds MIB mebibytes, and uses the ledger once more for each line of its input.
USER = """
import sys
from memwarden.admission.ledger.ledger import Ledger
ledger = Ledger("1GiB", path=sys.argv[1])
held = ledger.reserve(f"{sys.argv[2]}MiB", label="holder")
print("held", flush=True)
for line in sys.stdin:
    ledger.account()
    print("used", flush=True)
"""


def test_a_deleted_file_is_made_again_with_own_reservations(path, caplog):
    """Each process adds its reservations to the new file when it next uses the ledger, with a warning."""
    ledger = Ledger("1GiB", path=path)
    with ledger.reserve("600MiB", label="index"):
        os.unlink(path)
        assert ledger.try_reserve("600MiB") is None
        assert "index" in ledger.state()["troubles"][-1]
        with program(HOLDER, path, 300) as holder:
            assert holder.stdout.readline() == "held\n"
            assert ledger.try_reserve("200MiB") is None
    assert "new file" in caplog.text


@pytest.mark.parametrize(
    ("at", "damage"),
    [
        (0, b"\xff" * 64),
        (0, b"\0" * HEADER_BYTES),
        (0, b"not a ledger at all\n"),
        (HEADER_BYTES + RECORD_BYTES // 2, b"\xa5"),
    ],
)
def test_a_damaged_file_is_replaced_and_every_living_process_adds_its_reservations(path, at, damage, caplog):
    """Own reservations count at once, those of others when they next use the ledger; a warning says so."""
    ledger = Ledger("1GiB", path=path)
    with program(USER, path, 500) as holder, ledger.reserve("300MiB", label="ours"):
        assert holder.stdout.readline() == "held\n"
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(damage)
        ledger.account()
        assert [row["label"] for row in ledger.state()["holders"] if row["pid"] == os.getpid()] == ["ours"]
        assert "reservations of other processes count again when these next use the ledger" in caplog.text
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "used\n"
        assert ledger.state()["reserved_bytes"] == 800 * MIB
        assert ledger.try_reserve("300MiB") is None
        holder.kill()
        with ledger.reserve("700MiB", timeout=5):
            assert len(ledger.state()["holders"]) == 2
    assert ledger.state()["holders"] == []


def test_a_stopped_process_that_keeps_the_lock_is_named(path):
    """No process waits for it for ever: the error names it."""
    text = """
import sys
from memwarden.admission.ledger.ledger import Ledger
ledger = Ledger("1GiB", path=sys.argv[1])
with ledger._file.locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    ledger = Ledger("1GiB", path=path)
    ledger.state()
    with program(text, path) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(Exception, match=f"process {process.pid}"), ledger._file.locked(0.1):
            pass
    assert ledger.try_reserve("1MiB") is not None


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupt_while_it_is_made_leaves_nothing(path, monkeypatch, after):
    """Ctrl-C at a moment at which the record stands and its maker has not got it yet."""
    ledger = Ledger("1GiB", path=path)
    ledger.state()
    file = ledger._file._file
    unlock, calls = file.unlock, []

    def interrupted(place):
        calls.append(place)
        unlock(place)
        if len(calls) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(file, "unlock", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(5):
            ledger.reserve("100MiB").release()
    monkeypatch.undo()
    assert ledger.state()["holders"] == []
    assert ledger.try_reserve("1GiB") is not None
