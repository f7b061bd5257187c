"""On Linux one reading needs nothing but the standard library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys

class Refuses:
    '''Every package that is not ours and not the standard library's is not installed.'''
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "memwarden"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuses())
import memwarden

reading = next(memwarden.watch(0.01))
assert reading.sample.process.rss > 0
status = memwarden.status()
print(json.dumps([status["reading"]["sample"]["time"], sorted({"psutil", "asyncio", "rich"} & set(sys.modules))]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the portable reader is psutil's")
@pytest.mark.contract("WX-1")
def test_a_reading_needs_no_package() -> None:
    """With every third-party package refused there is a reading all the same, and its time carries an offset."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    moment, loaded = json.loads(ran.stdout)
    assert loaded == []
    assert moment[-6] in "+-"
