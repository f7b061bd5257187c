"""Cost of a reservation, and the time until a released one is granted to another process.

Rounds of all ways take turns in this process, on one file system: a reservation that is made and returned (wall clock),
against the least that processes can do to keep out of each other's way: ``flock`` on an open file, which gives no
sizes, no order and no budget, and a semaphore of ``multiprocessing``, which a killed holder never gives back. Further:
many holders, many processes at once, the time from a release and from a kill to the waiter's beginning, and what
waiting costs (processor time of a process that waits, first in the queue and far behind).
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from memwarden.admission.ledger.ledger import Ledger

ROUNDS, CALLS, KILLS, RELEASES, WAIT_SECONDS = 15, 200, 20, 30, 10.0
#: What is promised.
# Waiting: ten readings of the file a second, at 0.1 ms with the wakeup, and the checks.
MOST_MICROSECONDS, MOST_WAITING, MOST_KILL_SECONDS = 200.0, 0.002, 1.0

_HOLD = """
import sys
from memwarden.admission.ledger.ledger import Ledger
held = Ledger("1GiB", path=sys.argv[1]).reserve("900MiB")
print("held", flush=True)
sys.stdin.readline()
held.release()
sys.stdin.read()
"""

_WAIT = """
import resource, sys, time
from memwarden.admission.ledger.ledger import Ledger
ledger = Ledger("1GiB", path=sys.argv[1])
for _ in range(5):
    ledger.try_reserve(1)
print("there", flush=True)
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
before, started = cpu(), time.monotonic()
try:
    ledger.reserve("900MiB", timeout=float(sys.argv[2]))
except Exception:
    pass
print((cpu() - before) / (time.monotonic() - started), flush=True)
"""

_RIVALS = """
import sys, time
from memwarden.admission.ledger.ledger import Ledger
ledger = Ledger("1GiB", path=sys.argv[1])
ledger.try_reserve(1)
print("there", flush=True)
sys.stdin.readline()
started = time.monotonic()
for _ in range(int(sys.argv[2])):
    ledger.reserve(sys.argv[3]).release()
print(time.monotonic() - started, flush=True)
"""


@contextlib.contextmanager
def _program(text: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _costs(folder: str) -> dict[str, float]:
    """Microseconds of each way, the median of the rounds."""
    lock = os.open(f"{folder}/flock", os.O_RDWR | os.O_CREAT)
    semaphore = multiprocessing.get_context("spawn").Semaphore(4)
    alone = Ledger("1GiB", path=f"{folder}/alone")
    rivalsed = Ledger("1GiB", path=f"{folder}/rivalsed")
    others = [rivalsed.reserve("1MiB") for _ in range(100)]

    def by_flock() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_UN)

    def by_semaphore() -> None:
        semaphore.acquire()
        semaphore.release()

    ways: dict[str, Callable[[], None]] = {
        "bare flock": by_flock,
        "multiprocessing.Semaphore": by_semaphore,
        "ledger": lambda: alone.reserve("1MiB").release(),
        "ledger, 100 others hold": lambda: rivalsed.reserve("1MiB").release(),
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                way()
            costs[name].append((time.perf_counter() - started) / CALLS * 1e6)
    os.close(lock)
    for each in others:
        each.release()
    return {name: statistics.median(values) for name, values in costs.items()}


def _rivals(path: str, size: str, processes: int = 8, calls: int = 200) -> float:
    """Reservations a second of so many processes at once."""
    with contextlib.ExitStack() as stack:
        rivals = [stack.enter_context(_program(_RIVALS, path, calls, size)) for _ in range(processes)]
        for process in rivals:
            process.stdout.readline()  # type: ignore[union-attr]
        for process in rivals:
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return processes * calls / max(float(process.stdout.readline()) for process in rivals)  # type: ignore[union-attr]


def _returns(path: str, times: int, *, kill: bool) -> list[float]:
    """Seconds from a release, or a kill, in another process until a waiter here is in."""
    import threading

    ledger, found = Ledger("1GiB", path=path), []
    for number in range(times):
        with _program(_HOLD, path) as holder:
            holder.stdout.readline()  # type: ignore[union-attr]
            moment: list[float] = []

            def end(holder: subprocess.Popen[str] = holder, moment: list[float] = moment, number: int = number) -> None:
                time.sleep(0.2 + number * 0.017)  # at any moment between two samples
                moment.append(time.monotonic())
                if kill:
                    holder.kill()
                else:
                    holder.stdin.write("go\n")  # type: ignore[union-attr]
                    holder.stdin.flush()  # type: ignore[union-attr]

            thread = threading.Thread(target=end)
            thread.start()
            with ledger.reserve("900MiB"):
                now = time.monotonic()
            thread.join()
            found.append(now - moment[0])
    return found


def _waiting(path: str) -> tuple[float, float]:
    """The share of a core that waiting costs: the first in the queue, and the sixth."""
    with Ledger("1GiB", path=path).reserve("900MiB"), contextlib.ExitStack() as stack:
        waiters = []
        for _ in range(6):
            waiter = stack.enter_context(_program(_WAIT, path, WAIT_SECONDS))
            waiter.stdout.readline()  # type: ignore[union-attr]
            waiters.append(waiter)
            time.sleep(0.1)
        shares = [float(waiter.stdout.readline()) for waiter in waiters]  # type: ignore[union-attr]
    return shares[0], shares[-1]


def main() -> bool:
    """Print the tables; whether every promise was kept."""
    with tempfile.TemporaryDirectory() as folder:
        costs = _costs(folder)
        print(f"Reserve and release, no other process: median of {ROUNDS} rounds of {CALLS}, wall clock")
        for name, cost in costs.items():
            print(f"{name:<28}{cost:>9.1f} us")
        print(f"\nEight processes at once: {_rivals(f'{folder}/c1', '1MiB'):.0f} reservations a second where all fit,")
        print(f"{_rivals(f'{folder}/c2', '600MiB', calls=50):.0f} where one at a time does")
        released = _returns(f"{folder}/r", RELEASES, kill=False)
        killed = _returns(f"{folder}/k", KILLS, kill=True)
        print("\nUntil a waiter in another process is in (median; worst)")
        print(f"after a release   {statistics.median(released) * 1e3:8.2f} ms {max(released) * 1e3:8.2f} ms")
        print(f"after kill -9     {statistics.median(killed) * 1e3:8.2f} ms {max(killed) * 1e3:8.2f} ms")
        first, last = _waiting(f"{folder}/w")
        print(f"\nWaiting costs {first:.4%} of a core, the sixth in the queue {last:.4%}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"(peak of this process: {peak} MiB)")
    return (
        costs["ledger"] <= MOST_MICROSECONDS
        and max(killed) <= MOST_KILL_SECONDS
        and first <= MOST_WAITING
        and last <= MOST_WAITING
    )


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
