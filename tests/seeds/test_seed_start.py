"""Advice of the seeds S1 and S3 on when things begin: at start-up, or when they are first used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden

SOURCE = Path(memwarden.__file__).parents[1]


def outcome(program, tmp_path):
    """What a program prints at its end, in a process of its own whose records go below the test's folder."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(SOURCE),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_RUNTIME_DIR": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.contract("S1-53")
@pytest.mark.parametrize("early", ["setup_memory_management()", "None"])
def test_initialise_early(tmp_path, early):
    """At application startup as the seed says; and every other call of its modules works without that, too."""
    reported = outcome(
        f"""
import json, sys, threading
from memwarden.compat.memory_init import setup_memory_management

# At application startup
success = {early}

from memwarden.compat.guarding import memory_constrained_operation, memory_guard, memory_optimized
from memwarden.compat.memory_init import (
    force_memory_cleanup, get_memory_status, get_safe_processing_config, shutdown_memory_management_system,
)
from memwarden.compat.memory_manager import MemoryPressureLevel, get_memory_monitor
from memwarden.compat.resource_manager import (
    estimate_processing_memory, ffmpeg_process_manager, managed_process, managed_temp_directory, managed_tempfile,
)

facts = {{"early": success, "watching": get_memory_status()["initialized"]}}
facts["mode"] = get_safe_processing_config()["processing_mode"]
monitor = get_memory_monitor()
facts["stats"] = monitor.get_current_stats().available_mb > 0
found = threading.Event()
for level in MemoryPressureLevel:
    monitor.register_pressure_callback(level, lambda stats: found.set())
monitor.start_monitoring()
facts["level"] = found.wait(20)
with memory_guard(max_memory_mb=1024), managed_tempfile(suffix=".mp4") as file, managed_temp_directory():
    facts["estimate"] = estimate_processing_memory(file, "custom") >= 0
with memory_constrained_operation(10, "custom_processing"):
    facts["optimized"] = memory_optimized(512)(lambda: 7)()
with managed_process([sys.executable, "-c", ""], "child") as process:
    facts["process"] = process.wait()
with ffmpeg_process_manager([sys.executable, "-c", ""]) as process:
    facts["ffmpeg"] = process.wait()
facts["freed"] = force_memory_cleanup()["failed"]
shutdown_memory_management_system()
facts["threads"] = [each.name for each in threading.enumerate() if each.name.startswith("memwarden")]
print(json.dumps(facts))
""",
        tmp_path,
    )
    assert reported.pop("mode")
    assert reported == {
        "early": True if early != "None" else None,
        "watching": early != "None",
        "stats": True,
        "level": True,
        "estimate": True,
        "optimized": 7,
        "process": 0,
        "ffmpeg": 0,
        "freed": [],
        "threads": [],
    }


def test_loading_is_lazy(tmp_path):
    """Importing every module of compat starts no thread, opens no file, loads no large library, makes nothing.

    S3-35 asks the same of the text programs, which are not there yet.
    """
    reported = outcome(
        """
import importlib, json, os, pkgutil, sys, threading
before = set(os.listdir("/proc/self/fd")), set(os.listdir("."))
from memwarden import compat
names = [each.name for each in pkgutil.walk_packages(compat.__path__, "memwarden.compat.")]
for name in names:
    importlib.import_module(name)
print(json.dumps({
    "modules": len(names),
    "threads": threading.active_count(),
    "same": (set(os.listdir("/proc/self/fd")), set(os.listdir("."))) == before,
    "loaded": [name for name in ("cv2", "numpy", "psutil", "spacy", "sqlite3", "asyncio") if name in sys.modules],
}))
""",
        tmp_path,
    )
    assert reported.pop("modules") > 10
    assert reported == {"threads": 1, "same": True, "loaded": []}
