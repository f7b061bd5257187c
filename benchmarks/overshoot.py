"""Overshoot of a program past a limit of 512 MiB.

Each trial is a process of its own: it limits one program and prints the peak memory of that program,
as the kernel counted it, in the unit of the guard: ``memory.max_usage_in_bytes`` of the group;
for the others the resident peak of ``getrusage``, for polling less what an idle interpreter has in pages
that it shares with others (resident minus PSS), since polling counts those by share. Trials of all guards
take turns, so that a busy machine is busy for all.

The peer is the loop that people copy: psutil, every 100 ms and every 10 ms, in a thread beside the child.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

from memwarden.model.units import MIB
from memwarden.testing import HOG

LIMIT = 512 * MIB
TRIALS = 10
PROGRAMS = {
    "grows at 1 GB/s": [sys.executable, "-c", HOG, "100", "1000", "3000"],
    "one 1.5 GB call, GIL held": [sys.executable, "-c", "b'x' * 1_500_000_000"],
}
#: Promised medians, in MiB.
PROMISED = {"cgroup2": 1.0, "cgroup1": 1.0, "polling": 6.0}
PEERS = {"psutil every 100 ms": 0.1, "psutil every 10 ms": 0.01}


def trial(guard: str, program: str) -> float:
    """MiB past the limit."""
    if guard in PEERS:
        return _peer(PEERS[guard], program)
    from memwarden.contain.contained_process import popen

    with popen(
        PROGRAMS[program], limit=LIMIT, ceiling=guard, grace=0.5, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as command:
        command.wait()
        report = command.report
    assert report is not None
    assert report.reason.value == "limit", report
    if guard == "polling":
        return (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 - _shared_pages() - LIMIT) / MIB
    assert report.peak is not None
    return (report.peak - LIMIT) / MIB


def _shared_pages() -> int:
    """Resident minus proportional size of an interpreter that does nothing."""
    from memwarden.readers.linux.process import ProcessReader, read_pss

    idle = subprocess.Popen([sys.executable, "-c", HOG, "0", "0", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert idle.stdout is not None
    idle.stdout.readline()
    rss, pss = ProcessReader(idle.pid).memory().rss, read_pss(idle.pid)
    idle.communicate()
    return rss - pss


def _peer(interval: float, program: str) -> float:
    import psutil

    child = subprocess.Popen(PROGRAMS[program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    watched = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            if watched.memory_info().rss >= LIMIT:
                child.kill()
                break
        except psutil.Error:
            break
        time.sleep(interval)
    child.kill()
    child.wait()
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 - LIMIT / MIB


def main() -> bool:
    """Print the table; whether every promise was kept."""
    from memwarden.contain.capabilities import survey

    ours = [grant.kind for grant in survey() if grant.granted]
    guards = [*ours, *PEERS]
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(TRIALS):
        for program in PROGRAMS:
            for guard in guards:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.overshoot", guard, program],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                figures.setdefault((guard, program), []).append(json.loads(done.stdout))
    print(f"MiB past a limit of {LIMIT // MIB} MiB: median (worst) of {TRIALS}")
    print(f"{'guard':<22}" + "".join(f"{program:>28}" for program in PROGRAMS) + f"{'promised':>12}")
    kept = True
    for guard in guards:
        row = f"{guard:<22}"
        for program in PROGRAMS:
            values = figures[guard, program]
            median = statistics.median(values)
            row += f"{f'{median:+.1f} ({max(values):+.1f})':>28}"
            kept &= guard not in PROMISED or median <= PROMISED[guard]
        print(row + (f"{PROMISED[guard]:>+12.1f}" if guard in PROMISED else f"{'':>12}"))
    return kept


if __name__ == "__main__":
    print(json.dumps(trial(sys.argv[1], sys.argv[2])))
