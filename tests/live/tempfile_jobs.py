"""Many jobs at once, of which some are killed: run by test_resources.py, as a program of its own, because it forks.

``python tempfile_jobs.py COUNT FOLDER`` forks COUNT jobs, each with temporary files of three kinds, kills a third with
SIGKILL, starts some fresh processes at once, and prints as JSON what was lost and what was left at each step.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from memwarden.guards.resources.managed import managed_temp_directory, managed_tempfile, resource_scope


def work(reported, go, folder):
    """One job: report its paths, make and remove files until it is released, and check its own at the end."""
    number = str(os.getpid())
    with resource_scope(number), managed_tempfile(".mp4") as file, managed_temp_directory() as scratch:
        with managed_tempfile(directory=folder) as part:
            inner = os.path.join(scratch, "deep", "er")
            os.makedirs(inner)
            paths = [file, part, os.path.join(inner, "x")]
            for path in paths:
                Path(path).write_text(number)
            os.write(reported, (json.dumps([os.getpid(), paths]) + "\n").encode())
            while not os.read(go, 1):  # b"." releases one
                pass
            with managed_tempfile() as late:
                intact = all(Path(path).read_text() == number for path in paths) and os.path.exists(late)
    sys.exit(0 if intact else 3)


def start():
    """A process that makes a temporary file and ends: the next start."""
    pid = os.fork()
    if pid == 0:
        with managed_tempfile():
            pass
        sys.exit(0)
    return pid


def fork_jobs(count, folder):
    """Return the jobs by pid with their paths, when all are at work, and the descriptor that releases them."""
    reader, reported = os.pipe()
    go, go_write = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(reader)
            os.close(go_write)
            work(reported, go, folder)
    os.close(reported)
    os.close(go)
    with os.fdopen(reader) as lines:
        return dict(json.loads(next(lines)) for _ in range(count)), go_write


def main(count, folder):
    tempfile.gettempdir()  # once for all: it costs 10 ms
    started = time.monotonic()
    jobs, go = fork_jobs(count, folder)
    forked = time.monotonic() - started
    dead = random.Random(7).sample(sorted(jobs), count // 3)
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    for pid in dead:
        os.waitpid(pid, 0)
    living = [path for pid, paths in jobs.items() if pid not in dead for path in paths]
    orphaned = [path for pid in dead for path in jobs[pid]]
    result = {
        "jobs": count,
        "killed": len(dead),
        "left by the kill": sum(map(os.path.exists, orphaned)),
        "expected": len(orphaned),
    }
    started = time.monotonic()
    starts = [start() for _ in range(4)]  # at once: they must not hinder each other
    result["starts failed"] = sum(os.waitpid(pid, 0)[1] != 0 for pid in starts)
    result["reaping took"] = round(time.monotonic() - started, 3)
    result["left after the next start"] = sum(map(os.path.exists, orphaned))
    result["lost of the living"] = sum(not os.path.exists(path) for path in living)
    os.write(go, b"." * (count - len(dead)))
    codes = [os.waitpid(pid, 0)[1] for pid in jobs if pid not in dead]
    result["living that missed something"] = sum(code != 0 for code in codes)
    result["left in the end"] = sum(map(os.path.exists, living))
    result["forking took"] = round(forked, 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
