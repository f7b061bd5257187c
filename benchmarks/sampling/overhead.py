"""CPU and memory of a running monitor, and the way from import to the first judged sample.

Each monitor runs in a process of its own, whose main thread sleeps. CPU is what the scheduler accounts to the
threads of that process (``schedstat``, nanoseconds on a CPU), so that other load does not count; it is read
after a warm-up. All monitors of one interval run side by side, and the median of the rounds is shown.

``psutil thread`` reads the same as ours (machine and swap, its process, usage and limit of each group on its path),
judges one threshold, and writes the same JSON line: the same keys, with constants for what it does not know (trend,
leak verdict, peak, reclaimable memory). ``bare pread thread`` is the least that Python can do, for comparison: two
reads from kept descriptors and one short line.
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
import datetime, psutil
def groups():
    with open("/proc/self/cgroup") as lines:
        places = dict(line.rstrip().split(":", 2)[1:] for line in lines)
    v1 = "memory" in places
    names = ("memory.usage_in_bytes", "memory.limit_in_bytes") if v1 else ("memory.current", "memory.max")
    path, found = places["memory" if v1 else ""], []
    while True:
        folder = os.path.join("/sys/fs/cgroup/memory" if v1 else "/sys/fs/cgroup", path.strip("/"))
        if all(os.path.exists(os.path.join(folder, name)) for name in names):
            found.append((path, 1 if v1 else 2, *(os.path.join(folder, name) for name in names)))
        if path in ("/", ""):
            return found
        path = os.path.dirname(path)
def number(path):
    with open(path) as file:
        text = file.read().strip()
    return None if text == "max" or int(text) >= 1 << 62 else int(text)
def loop():
    out, process, paths = open(path, "a"), psutil.Process(), groups()
    key, name = {"pid": process.pid, "start": int(process.create_time())}, process.name()
    while True:
        machine, swap, own = psutil.virtual_memory(), psutil.swap_memory(), process.memory_info()
        cgroups, limit, used, source = [], machine.total, machine.total - machine.available, "machine"
        for group, version, usage_path, limit_path in paths:
            usage, most = number(usage_path), number(limit_path)
            cgroups.append({"type": "cgroup", "path": group, "version": version, "usage_bytes": usage,
                            "limit_bytes": most, "reclaimable_bytes": 0, "anon_bytes": 0, "swap_bytes": 0,
                            "peak_bytes": 0, "oom_kills": 0})
            if most is not None and usage / most > used / limit:
                limit, used, source = most, usage, "cgroup"
        level = "high" if used / limit > 0.8 else "low"
        now = datetime.datetime.now().astimezone().isoformat()
        moment = {"time": now, "monotonic_seconds": time.monotonic()}
        entry = {"schema": 1, "type": "event", "kind": "sample", **moment, "message": "", "value": {
            "type": "reading",
            "sample": {"type": "sample", **moment, "late_seconds": 0.0, "system": {
                "type": "system", "total_bytes": machine.total, "available_bytes": machine.available,
                "free_bytes": machine.free, "cached_bytes": machine.cached + machine.buffers - machine.shared,
                "swap_total_bytes": swap.total, "swap_free_bytes": swap.free},
                "process": {"type": "process", "key": key, "name": name, "rss_bytes": own.rss, "vms_bytes": own.vms,
                            "anon_bytes": own.rss - own.shared, "shared_bytes": own.shared, "swap_bytes": 0,
                            "peak_bytes": 0},
                "cgroups": cgroups, "gaps": [], "gpus": [], "directories": []},
            "assessment": {"type": "assessment", "level": level, "raw": level, "binding": {
                "limit": {"type": "limit", "bytes": limit, "source": source}, "used_bytes": used},
                "effective": {"type": "limit", "bytes": limit, "source": source},
                "available_bytes": limit - used, "since_seconds": 0.0,
                "trend": {"type": "trend", "word": "stable", "readings": 3, "confidence": 0.0, "slope": 0.0},
                "leak": {"type": "leak", "stage": "none",
                         "reason": "the rolling minimum has not risen by a relevant share of the headroom"}}}}
        out.write(json.dumps(entry, separators=(",", ":")) + "\\n")
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
started = time.process_time()
{imports}
imported = private() if weigh else 0
{watch}
took = time.process_time() - started
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
                started = {name: (cpu_seconds(host.pid), time.monotonic()) for name, host in hosts.items()}
                time.sleep(seconds)
                for name, host in hosts.items():
                    spent = cpu_seconds(host.pid) - started[name][0]
                    share = spent / (time.monotonic() - started[name][1])
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


#: Promised: times the psutil thread, and the share of a core, at an interval (10 ms is shown without a promise); CPU ms
#: to the first judged sample; private MiB beyond the imports.
RATIOS = {1.0: 1.3, 0.1: 1.0}
SHARES = {1.0: 0.001}
FIRST_MS, BEYOND_IMPORTS = 40.0, 3.0


def main(seconds: float = 20.0, rounds: int = 3) -> dict[str, Any]:
    """Print the tables; returns the figures, and under ``kept`` whether every promise was."""
    result: dict[str, Any] = {"running": {}, "first": {}, "kept": True}

    def judge(what: str, figure: float, most: float, unit: str) -> None:
        met = figure <= most
        result["kept"] &= met
        print(f"  {'met' if met else 'NOT MET'}: {what}: {figure:.3g}{unit}, promised {most:g}{unit}")

    print("\nA running monitor: % of one core (and times the psutil thread), private MiB beyond an idle host\n")
    print(f"{'':24}" + "".join(f"{f'every {interval:g} s':>24}" for interval in INTERVALS) + f"{'private':>12}")
    columns = {interval: running(interval, seconds, rounds) for interval in INTERVALS}
    for name in _MONITORS:
        cells = []
        for interval in INTERVALS:
            share, usual = columns[interval][name]["share"], columns[interval][PSUTIL]["share"]
            cells.append(f"{share * 100:14.4f} ({share / usual:5.2f}x)")
        extra = columns[INTERVALS[-1]][name]["private"] - columns[INTERVALS[-1]][IDLE]["private"]
        print(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells) + f"{extra / 2**20:12.2f}")
    for interval, column in columns.items():
        share = column[OURS]["share"]
        if interval in RATIOS:
            ratio = share / column[PSUTIL]["share"]
            judge(f"every {interval:g} s, times the psutil thread", ratio, RATIOS[interval], "x")
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
    return result


if __name__ == "__main__":
    figures = main(*(float(each) for each in sys.argv[1:2]), *(int(each) for each in sys.argv[2:3]))
    print(json.dumps(figures), file=sys.stderr)
