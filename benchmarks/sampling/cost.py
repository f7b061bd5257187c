"""Cost of one sample: memwarden as its engine calls it, psutil, and the floor (the same reads in C).

All of a group run round-robin in this process, and the figure is the median over the rounds of process CPU time
(user and system) a sample: other load then changes caches, not the account. The floor (``floor.c``) is compiled
with ``cc`` into a temporary directory; without a compiler the promises that name it are not judged.

The members of the trees sleep. ``a start before each sample`` is what a busy machine adds: another process starts and
ends a process before each sample, so that the reader has to search new members. Only the sample is counted, and another
reader samples in between, so that this row is warm as the others are.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FLOOR = "C floor"
TREES = (1, 10, 100, 1000)
#: The machine scan is promised for about so many processes: sleepers are added where there are fewer.
MACHINE = 170
#: CPU seconds that one entry may take in a round.
_BUDGET = 0.03

#: Takes ``times`` samples and returns the CPU seconds that they took.
Sampler = Callable[[int], float]


class Promise(NamedTuple):
    """``ours`` costs at most ``most`` times ``other``."""

    ours: str
    other: str
    most: float


class Group(NamedTuple):
    title: str
    samplers: dict[str, Sampler]
    promises: tuple[Promise, ...] = ()


def timed(sample: Callable[[], object]) -> Sampler:
    def run(times: int) -> float:
        started = time.process_time()
        for _ in range(times):
            sample()
        return time.process_time() - started

    return run


def disturbed(sample: Callable[[], object], *before: Callable[[], object]) -> Sampler:
    """The samples alone, without what is called before each."""

    def run(times: int) -> float:
        total = 0.0
        for _ in range(times):
            for each in before:
                each()
            started = time.process_time()
            sample()
            total += time.process_time() - started
        return total

    return run


def in_c(function: Any, *args: Any) -> Sampler:
    def run(times: int) -> float:
        started = time.process_time()
        function(*args, times)
        return time.process_time() - started

    return run


@contextlib.contextmanager
def floor_library() -> Iterator[Any]:
    """The compiled floor; None, and a word about it, where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        print("There is no C compiler here: the floor is not measured, and what is promised against it not judged.")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="memwarden-bench-") as folder:
        library = os.path.join(folder, "floor.so")
        source = Path(__file__).with_name("floor.c")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        yield ctypes.CDLL(library)


_SLEEPERS = """
import os, signal, sys
children = []
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        os.close(0)
        signal.pause()
    children.append(child)
print(flush=True)
sys.stdin.read()
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
"""


@contextlib.contextmanager
def tree_of(members: int) -> Iterator[int]:
    """A process with children, so many in all; gives its pid."""
    command = [sys.executable, "-S", "-c", _SLEEPERS, str(members - 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


_STARTER = """
import os, sys
while os.read(0, 1):
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    os.write(1, b"x")
"""


@contextlib.contextmanager
def starter() -> Iterator[Callable[[], object]]:
    """Another process that starts a process and waits for its end, on request."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    write, read = process.stdin.write, process.stdout.read

    def ask() -> None:
        write(b"x")
        read(1)

    try:
        yield ask
    finally:
        process.communicate()


def opened(*paths: str) -> Any:
    """Descriptors as C wants them."""
    return (ctypes.c_int * len(paths))(*[os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths])


def close_all(*lists: Any) -> None:
    for fd in [fd for each in lists for fd in each]:
        os.close(fd)


def system(c: Any) -> Iterator[Group]:
    """(a) and (a')."""
    import psutil

    from memwarden.errors import ReadError
    from memwarden.readers.factory import MAX_AGE
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.meminfo import MeminfoReader

    machine = MeminfoReader()
    (meminfo,) = opened("/proc/meminfo")
    samplers = {} if c is None else {FLOOR: in_c(c.machine_memory, meminfo)}
    yield Group(
        "(a) machine's memory",
        samplers | {"memwarden": timed(machine.read), "psutil.virtual_memory()": timed(psutil.virtual_memory)},
    )
    group = CgroupReader(max_age=MAX_AGE)  # as the engine has it
    try:
        group.read()
    except ReadError as error:
        print(f"(a') is left out: {error}")
    else:
        usage = [
            path
            for path in ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory.current")
            if os.path.exists(path)
        ]
        fds = opened(*usage)
        yield Group(
            "(a') machine and container",
            ({FLOOR: in_c(c.machine_and_group, meminfo, fds[0])} if c is not None and usage else {})
            | {
                "memwarden": timed(lambda: (machine.read(), group.read())),
                "psutil.virtual_memory(), machine only": timed(psutil.virtual_memory),
            },
            (Promise("memwarden", "psutil.virtual_memory(), machine only", 1 / 3),),
        )
        close_all(fds)
        group.close()
    machine.close()
    os.close(meminfo)


def own_size(c: Any) -> Iterator[Group]:
    """(b)."""
    import psutil

    from memwarden.readers.factory import MAX_AGE
    from memwarden.readers.linux.process import ProcessReader

    reader, kept = ProcessReader(max_age=MAX_AGE), psutil.Process()
    (statm,) = opened("/proc/self/statm")
    yield Group(
        "(b) own resident size",
        ({} if c is None else {FLOOR: in_c(c.resident, statm)})
        | {
            "memwarden": timed(reader.resident),  # the size alone, as the floor and psutil give it
            "memwarden, all of ProcessMemory": timed(reader.read),
            "psutil, kept object": timed(lambda: kept.memory_info().rss),
            "psutil, Process() each time": timed(lambda: psutil.Process().memory_info().rss),
        },
        (Promise("memwarden", FLOOR, 3), Promise("memwarden", "psutil, kept object", 1 / 4)),
    )
    reader.close()
    os.close(statm)


def trees(c: Any, keep: int) -> Iterator[Group]:
    """(d); ``keep`` is what the reader would keep by itself under this machine's limit of descriptors."""
    for size in TREES:
        with tree_of(size) as root, starter() as start:
            yield from _tree(c, keep, size, root, start)


def _tree(c: Any, keep: int, size: int, root: int, start: Callable[[], object]) -> Iterator[Group]:
    import psutil

    from memwarden.readers.linux.tree import TreeReader

    ours, disturbed_one, bounded = (TreeReader(root, keep=each) for each in (keep, keep, 256))
    process = psutil.Process(root)
    family = [process, *process.children(recursive=True)]
    assert len(ours.sample()[0].keys) == len(family) == size
    statm = opened(*[f"/proc/{each.pid}/statm" for each in family])
    children = opened(*[f"/proc/{each.pid}/task/{each.pid}/children" for each in family])
    samplers = {} if c is None else {FLOOR: in_c(c.tree, statm, children, size)}
    samplers["memwarden"] = timed(ours.read)
    samplers["memwarden, a start before each sample"] = disturbed(disturbed_one.read, start, ours.read)
    if size > 256:
        samplers["memwarden, 1024 descriptors allowed"] = timed(bounded.read)
    samplers["psutil, kept objects, no new process"] = timed(lambda: [each.memory_info().rss for each in family])
    samplers["psutil children(recursive), sizes"] = timed(
        lambda: [each.memory_info().rss for each in [process, *process.children(recursive=True)]]
    )
    yield Group(f"(d) tree of {size}", samplers, (Promise("memwarden", FLOOR, 2),) if size >= 100 else ())
    for reader in (ours, disturbed_one, bounded):
        reader.close()
    close_all(statm, children)


def machine(c: Any, keep: int) -> Iterator[Group]:
    """(e)."""
    import psutil

    from memwarden.readers.linux.machine import MachineReader

    with tree_of(max(1, MACHINE - len(psutil.pids()))), starter() as start:
        pids = psutil.pids()
        statm = []
        for pid in pids:
            with contextlib.suppress(OSError):
                statm += opened(f"/proc/{pid}/statm")
        (proc,) = opened("/proc")
        readers = [MachineReader(keep=keep), MachineReader(keep=keep)]

        def largest() -> list[tuple[int, int]]:
            found = [
                (each.info["memory_info"].rss, each.pid)
                for each in psutil.process_iter(["memory_info"])
                if each.info["memory_info"]
            ]
            return sorted(found, reverse=True)[:5]

        fds = (ctypes.c_int * len(statm))(*statm)
        yield Group(
            f"(e) five largest of {len(pids)} processes",
            ({} if c is None else {FLOOR: in_c(c.machine, proc, fds, len(statm))})
            | {
                "memwarden": timed(readers[0].read),
                "memwarden, a start before each sample": disturbed(readers[1].read, start, readers[0].read),
                "psutil process_iter, sizes only": timed(largest),
                "psutil process_iter, names and shares": timed(
                    lambda: [each.info for each in psutil.process_iter(["name", "memory_percent", "memory_info"])]
                ),
            },
            (Promise("memwarden", "psutil process_iter, sizes only", 1 / 6),),
        )
        for reader in readers:
            reader.close()
        close_all(fds, [proc])


def measure(group: Group, rounds: int) -> dict[str, float]:
    """Median CPU seconds a sample of each."""
    plan = {}
    for name, sampler in group.samplers.items():
        sampler(2)
        plan[name] = max(1, int(_BUDGET / max(sampler(3) / 3, 1e-7)))
    figures: dict[str, list[float]] = {name: [] for name in plan}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, times in plan.items():
                times = min(times, 300) if "before each sample" in name else times  # a start takes a millisecond
                figures[name].append(group.samplers[name](times) / times)
    finally:
        gc.enable()
    return {name: statistics.median(each) for name, each in figures.items()}


def main(rounds: int = 9) -> dict[str, Any]:
    """Print the tables; returns the figures, and under ``kept`` whether every promise was."""
    from memwarden.readers.linux.files import most_kept

    keep = most_kept()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # For the floor, which keeps two a member; the reader keeps what it would have kept.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if soft == hard else min(hard, max(soft, 8192)), hard))
    result: dict[str, Any] = {"groups": {}, "promises": [], "kept": True}
    print(f"CPU of one sample, in us, and as a ratio to the floor: median of {rounds} rounds")
    with floor_library() as c:
        for groups in (system(c), own_size(c), trees(c, keep), machine(c, keep)):
            for group in groups:
                figures = measure(group, rounds)
                result["groups"][group.title] = figures
                print(f"\n{group.title}")
                for name, seconds in figures.items():
                    ratio = f"{seconds / figures[FLOOR]:10.2f}x" if FLOOR in figures else ""
                    print(f"  {name:40}{seconds * 1e6:12.2f}{ratio}")
                for promise in group.promises:
                    _judge(group.title, promise, figures, result)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return result


def _judge(title: str, promise: Promise, figures: dict[str, float], result: dict[str, Any]) -> None:
    if promise.other not in figures:
        return
    ratio = figures[promise.ours] / figures[promise.other]
    met = ratio <= promise.most
    result["promises"].append({"group": title, **promise._asdict(), "ratio": ratio, "met": met})
    result["kept"] &= met
    print(f"  {'met' if met else 'NOT MET'}: {ratio:.3f} of {promise.other}, promised {promise.most:.3f}")


if __name__ == "__main__":
    print(json.dumps(main(*(int(each) for each in sys.argv[1:2]))), file=sys.stderr)
