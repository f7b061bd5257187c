"""What a running monitor costs: CPU of one core, private memory, and the way from import to the first judged sample.

Each monitor runs in a process of its own, whose main thread sleeps. CPU is what the scheduler accounts to the
threads of that process (``schedstat``, nanoseconds on a CPU), so that other load does not count; it is read
after a warm-up. All monitors of one interval run side by side, and the median of the rounds is shown.

``bare pread thread`` is the least that Python can do: a thread that reads the machine's memory and its own
resident size from kept descriptors, writes one JSON line, and sleeps. It has no container, no verdict, no
second thread, no rotation. ``psutil thread`` is the usual loop.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

INTERVALS = (1.0, 0.1, 0.01)
#: Seconds until everything is imported, and a first sample was judged and written.
WARM_UP = 8.0
IDLE, BARE, PSUTIL, OURS = "idle host", "bare pread thread", "psutil thread", "memwarden"

#: Every host imports this first, so that what is compared is the monitor.
_HEAD = "import sys, time, threading, json, os\ninterval, path = float(sys.argv[1]), sys.argv[2]\n"

_MONITORS = {
    IDLE: "",
    BARE: """
def loop():
    meminfo = os.open("/proc/meminfo", os.O_RDONLY)
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        head = os.pread(meminfo, 128, 0)
        total = int(head[head.index(b":") + 1 : head.index(b" kB")]) * 1024
        at = head.index(b"MemAvailable:")
        available = int(head[at + 13 : head.index(b" kB", at)]) * 1024
        resident = int(os.pread(statm, 64, 0).split(None, 2)[1]) * page
        entry = time.time(), total, available, resident
        os.write(out, b'{"time":%.3f,"total":%d,"available":%d,"rss":%d}\\n' % entry)
        time.sleep(interval)
threading.Thread(target=loop, daemon=True).start()
""",
    PSUTIL: """
import psutil
def loop():
    out = open(path, "a")
    while True:
        machine = psutil.virtual_memory()
        entry = {"time": time.time(), "total": machine.total, "available": machine.available,
                 "rss": psutil.Process().memory_info().rss}
        out.write(json.dumps(entry) + "\\n")
        out.flush()
        time.sleep(interval)
threading.Thread(target=loop, daemon=True).start()
""",
    OURS: """
from memwarden import JsonlRecorder, Warden
warden = Warden(interval=interval, recorders=[JsonlRecorder(path)]).start()
""",
}

_IMPORT = """
import os, sys, time
def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
weigh = sys.argv[2] == "weigh"
before = private() if weigh else 0
begun = time.process_time()
{imports}
imported = private() if weigh else 0
{watch}
took = time.process_time() - begun
time.sleep(0.3)
print(took, imported - before, private() - before)
"""
_FIRST = {
    OURS: ("from memwarden import JsonlRecorder, Warden", "w = Warden(recorders=[JsonlRecorder(sys.argv[1])]).start()"),
    "psutil import": ("import psutil", "psutil.virtual_memory(), psutil.Process().memory_info()"),
}


#: As after an installation, which leaves compiled modules; where Python may not write them each run compiles anew.
_INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def cpu_seconds(pid: int) -> float:
    """Seconds on a CPU of all threads of a process."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def private_bytes(pid: int) -> int:
    """Memory that only this process holds."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def _host(name: str, interval: float, folder: str) -> subprocess.Popen[bytes]:
    code = f"{_HEAD}{_MONITORS[name]}\ntime.sleep(100000)\n"
    path = os.path.join(folder, f"{name}-{interval}.jsonl")
    return subprocess.Popen([sys.executable, "-c", code, str(interval), path], stdin=subprocess.DEVNULL, env=_INSTALLED)


def running(interval: float, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Share of a core and private bytes of each monitor: medians of ``rounds``."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in _MONITORS}
    with tempfile.TemporaryDirectory(prefix="memwarden-bench-") as folder:
        hosts = {name: _host(name, interval, folder) for name in _MONITORS}
        try:
            time.sleep(WARM_UP)
            for _ in range(rounds):
                begun = {name: (cpu_seconds(host.pid), time.monotonic()) for name, host in hosts.items()}
                time.sleep(seconds)
                for name, host in hosts.items():
                    spent = cpu_seconds(host.pid) - begun[name][0]
                    share = spent / (time.monotonic() - begun[name][1])
                    found[name].append((share, private_bytes(host.pid)))
        finally:
            for host in hosts.values():
                host.kill()
                host.wait()
    return {
        name: {
            "share": statistics.median(share for share, _ in each),
            "private": statistics.median(size for _, size in each),
        }
        for name, each in found.items()
    }


def first_sample(rounds: int) -> dict[str, tuple[float, float, float]]:
    """CPU seconds to the first sample, private bytes of the imports, and of all: medians of ``rounds``."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in _FIRST}
    with tempfile.TemporaryDirectory(prefix="memwarden-bench-") as folder:
        for round_ in range(rounds + 1):
            for name, (imports, watch) in _FIRST.items():
                code = _IMPORT.format(imports=imports, watch=watch)
                command = [sys.executable, "-c", code, os.path.join(folder, "first.jsonl")]
                # Weighing takes time of its own, so it is done in another process.
                took, _, _ = map(float, subprocess.check_output([*command, "time"], env=_INSTALLED).split())
                _, imported, private = map(float, subprocess.check_output([*command, "weigh"], env=_INSTALLED).split())
                if round_:  # the first one compiles
                    found[name].append((took, imported, private))
    medians = {}
    for name, each in found.items():
        took, imported, private = (statistics.median(column) for column in zip(*each, strict=True))
        medians[name] = took, imported, private
    return medians


#: What is promised: a ratio to the bare thread, shares of a core at an interval, CPU ms to the first judged sample, and
#: private MiB beyond the imports and in all.
BARE_RATIO = 1.5
SHARES = {1.0: 0.001, 0.1: 0.01}
FIRST_MS, BEYOND_IMPORTS, IN_ALL = 40.0, 2.0, 5.0


def main(seconds: float = 20.0, rounds: int = 3) -> dict[str, Any]:
    """Print the tables; returns the figures, and under ``kept`` whether every promise was."""
    result: dict[str, Any] = {"running": {}, "first": {}, "kept": True}

    def judge(what: str, figure: float, most: float, unit: str) -> None:
        met = figure <= most
        result["kept"] &= met
        print(f"  {'met' if met else 'NOT MET'}: {what}: {figure:.3g}{unit}, promised {most:g}{unit}")

    print("\nA running monitor: % of one core (and times the bare pread thread), private MiB beyond an idle host\n")
    print(f"{'':24}" + "".join(f"{f'every {interval:g} s':>24}" for interval in INTERVALS) + f"{'private':>12}")
    columns = {interval: running(interval, seconds, rounds) for interval in INTERVALS}
    for name in _MONITORS:
        cells = []
        for interval in INTERVALS:
            share, bare = columns[interval][name]["share"], columns[interval][BARE]["share"]
            cells.append(f"{share * 100:14.4f} ({share / bare:5.2f}x)")
        extra = columns[INTERVALS[-1]][name]["private"] - columns[INTERVALS[-1]][IDLE]["private"]
        print(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells) + f"{extra / 2**20:12.2f}")
    for interval, column in columns.items():
        share = column[OURS]["share"]
        judge(f"every {interval:g} s, times the bare thread", share / column[BARE]["share"], BARE_RATIO, "x")
        judge(f"every {interval:g} s, times the psutil thread", share / column[PSUTIL]["share"], 1, "x")
        if interval in SHARES:
            judge(f"every {interval:g} s", share * 100, SHARES[interval] * 100, " %")
    result["running"] = {str(interval): column for interval, column in columns.items()}
    print("\nFrom import to the first judged sample: CPU ms, private MiB of the imports, of all")
    for name, (took, imported, private) in first_sample(max(5, rounds)).items():
        print(f"{name:24}{took * 1000:10.1f}{imported / 2**20:10.2f}{private / 2**20:10.2f}")
        result["first"][name] = {"cpu_seconds": took, "imports": imported, "all": private}
    took, imported, private = (result["first"][OURS][key] for key in ("cpu_seconds", "imports", "all"))
    judge("import to the first judged sample", took * 1000, FIRST_MS, " ms")
    judge("beyond the imports", (private - imported) / 2**20, BEYOND_IMPORTS, " MiB")
    judge("in all", private / 2**20, IN_ALL, " MiB")
    return result


if __name__ == "__main__":
    figures = main(*(float(each) for each in sys.argv[1:2]), *(int(each) for each in sys.argv[2:3]))
    print(json.dumps(figures), file=sys.stderr)
