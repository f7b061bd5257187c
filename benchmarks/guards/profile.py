"""What ``@memory_profile`` costs and how right it is, beside the profilers that people use.

Everything of a table runs in this process by turns, and a figure is the median over the rounds of CPU time (of the
process: threads that sample count, too), as a ratio to the same code bare. Peers that are not installed are left out,
with a word: ``pip install memory_profiler memray psutil``. Line profilers are given less work, because they would
take minutes; their ratio is to the bare code with the same work.

The peaks are of a buffer that is filled and given back: the C library is set to give it back to the system at once
(``mallopt``), so that each one is resident memory anew, and its size is the true figure.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from memwarden import memory_profile, track

MIB = 1 << 20
ROUNDS, CALLS = 15, 400
#: glibc's M_MMAP_THRESHOLD: what is larger is mapped by itself, and unmapped when it is freed.
_MMAP_THRESHOLD = -3
#: What is promised: times two bare reads of the status file, times the bare code, and MiB from the true peak.
MOST_CALL, MOST_SLOWER, MOST_OFF = 3.0, 1.02, 0.3

#: A function under a profiler, and what gives the peak of the last call in bytes above its beginning (None: no peak).
Way = tuple[Callable[..., Any], Callable[[], float] | None]
Wrap = Callable[[Callable[..., Any]], Way]


def _nothing() -> None:
    """What a call alone costs."""


def _allocate(times: int) -> int:
    """Objects of all sizes, some of them kept for a while."""
    kept: list[Any] = []
    for number in range(times):
        kept.append({"number": number, "text": "x" * (number % 97)})
        if not number % 1000:
            kept.append(bytearray(100_000))
        if len(kept) > 5000:
            kept.clear()
    return len(kept)


def _count(times: int) -> int:
    """Whole numbers alone."""
    total = 0
    for number in range(times):
        total = (total * 31 + number) % 1_000_003
    return total


def _spike(size: int, seconds: float) -> None:
    """So much is resident, and gone again ``seconds`` later."""
    held = bytearray(size)
    if seconds:
        time.sleep(seconds)
    del held


def _ours(function: Callable[..., Any]) -> Way:
    last: list[int] = []
    profiled = memory_profile(name=f"bench {function.__name__}")(function)

    def measured(*arguments: Any) -> None:
        with track("bench") as call:
            function(*arguments)
        last[:] = [call.rise]

    return (profiled, None) if function is not _spike else (measured, lambda: last[0])


def _tracemalloc(function: Callable[..., Any]) -> Way:
    peak = [0]

    def traced(*arguments: Any) -> None:
        tracemalloc.start()
        try:
            function(*arguments)
        finally:
            peak[0] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

    return traced, lambda: peak[0]


def _memray(function: Callable[..., Any]) -> Way:
    memray = importlib.import_module("memray")
    folder = tempfile.TemporaryDirectory(prefix="memwarden-bench-")  # removed with the functions that hold it

    def path() -> str:
        return os.path.join(folder.name, "call.bin")

    def traced(*arguments: Any) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path())
        with memray.Tracker(path()):
            function(*arguments)

    def peak() -> float:
        with memray.FileReader(path()) as reader:
            return float(reader.metadata.peak_memory)

    return traced, peak


def _psutil_thread(function: Callable[..., Any]) -> Way:
    psutil = importlib.import_module("psutil")
    process, most, before = psutil.Process(), [0], [0]

    def sampled(*arguments: Any) -> None:
        done = threading.Event()
        before[0] = most[0] = process.memory_info().rss

        def sample() -> None:
            while not done.wait(0.01):
                most[0] = max(most[0], process.memory_info().rss)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            function(*arguments)
        finally:
            done.set()
            thread.join()

    return sampled, lambda: most[0] - before[0]


def _memory_profiler(function: Callable[..., Any]) -> Way:
    peer = importlib.import_module("memory_profiler")
    return peer.profile(stream=open(os.devnull, "w"))(function), None


WAYS: dict[str, Wrap] = {
    "memwarden": _ours,
    "tracemalloc": _tracemalloc,
    "memray": _memray,
    "psutil thread, 10 ms": _psutil_thread,
    "memory_profiler, lines": _memory_profiler,
}
#: What one call or one loop may be given at most by those that would take minutes.
LESS = {"memory_profiler, lines": 100, "memray": 10, "tracemalloc": 4}


def _there() -> Iterator[tuple[str, Wrap]]:
    for name, wrap in WAYS.items():
        try:
            wrap(_nothing)
        except ImportError as error:
            print(f"({error.name} is not installed: its rows are left out)")
            continue
        yield name, wrap


def _cpu(function: Callable[..., Any], *arguments: Any) -> float:
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def _many(function: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        function()


def _calls(ways: dict[str, Wrap]) -> bool:
    fd = os.open("/proc/self/status", os.O_RDONLY)

    def bare_reads() -> None:
        os.pread(fd, 4096, 0)
        os.pread(fd, 4096, 0)

    def opened_reads() -> None:
        for _ in range(2):
            with open("/proc/self/status", "rb") as file:
                file.read()

    rows = {"two bare reads of status": bare_reads, "two reads with open()": opened_reads}
    rows |= {name: wrap(_nothing)[0] for name, wrap in ways.items() if "lines" not in name}
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, function in rows.items():
            times = max(1, CALLS // LESS.get(name, 1) ** 2)
            found[name].append(_cpu(_many, function, times) / times * 1e6)
    os.close(fd)
    medians = {name: statistics.median(values) for name, values in found.items()}
    floor = medians["two bare reads of status"]
    print(f"\nA call of a function that does nothing: median of {ROUNDS} rounds, CPU")
    for name, median in medians.items():
        print(f"{name:<28}{median:>12.1f} us{median / floor:>10.2f}x")
    print(f"(promised: memwarden at most {MOST_CALL:g}x)")
    return medians["memwarden"] <= MOST_CALL * floor


def _slower(ways: dict[str, Wrap], code: Callable[[int], Any], times: int) -> bool:
    wrapped = {name: wrap(code)[0] for name, wrap in ways.items()}
    ratios: dict[str, list[float]] = {name: [] for name in wrapped}
    for number in range(ROUNDS):
        for name, function in wrapped.items():
            least = LESS.get(name, 1)
            if least > 1 and number % 5:
                continue
            work = times // least
            # Bare before and after, so that what changes meanwhile (load, clock rates) is on both sides.
            before = _cpu(code, work)
            took = _cpu(function, work)
            ratios[name].append(2 * took / (before + _cpu(code, work)))
    print(f"\n{(code.__doc__ or '').rstrip('.')}: times the bare code")
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    for name, median in medians.items():
        print(f"{name:<28}{median:>10.3f}x")
    print(f"(promised: memwarden at most {MOST_SLOWER:g}x)")
    return medians["memwarden"] <= MOST_SLOWER


def _right(ways: dict[str, Wrap]) -> bool:
    print("\nA peak of so many MiB: what was reported, at the worst of 10")
    worst = 0.0
    for seconds, label in ((0.0, "gone at once"), (0.05, "held for 50 ms")):
        for size in (17, 64, 256):
            for name, wrap in ways.items():
                function, peak = wrap(_spike)
                if peak is None:
                    continue
                off = []
                for _ in range(3 if name in LESS else 10):
                    function(size * MIB, seconds)
                    off.append(peak() / MIB - size)
                furthest = max(off, key=abs)
                print(f"{name:<28}{size:>5} MiB, {label:<16}{furthest:>+10.2f} MiB")
                if name == "memwarden":
                    worst = max(worst, abs(furthest))
    print(f"(promised: memwarden within {MOST_OFF:g} MiB; its worst: {worst:.2f})")
    return worst <= MOST_OFF


def _nested() -> bool:
    with track("outer") as outer:
        _spike(64 * MIB, 0)
        with track("middle") as middle:
            _spike(32 * MIB, 0)
            with track("inner") as inner:
                _spike(17 * MIB, 0)
    off = [call.rise / MIB - size for call, size in ((outer, 64), (middle, 32), (inner, 17))]
    print(f"\nThree calls within one another, off by {', '.join(f'{each:+.2f}' for each in off)} MiB")
    return max(map(abs, off)) <= MOST_OFF


def main() -> bool:
    """Print the tables; whether every promise was kept."""
    logging.getLogger("memwarden").setLevel(logging.WARNING)
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, MIB)
    ways = dict(_there())
    kept = _calls(ways)
    for code, times in ((_allocate, 100_000), (_count, 1_000_000)):
        kept &= _slower(ways, code, times)
    return _right(ways) & _nested() and kept


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
