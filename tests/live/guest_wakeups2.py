"""Wake-ups of version 2 groups. Runs inside the guest only, started by test_wakeups_real.py."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memwarden.readers.linux.psi import PsiReader
from memwarden.readers.linux.wakeups import EventsFile
from memwarden.testing import HOG
from support.groups import remove_group

MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    path = Path("/sys/fs/cgroup/mw-test")
    path.mkdir()
    yield path
    remove_group(path)


def run(group: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
    argv = [sys.executable, "-c", join + code, *map(str, arguments)]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def woken(events: EventsFile, seconds: float) -> bool:
    poll = select.poll()
    poll.register(events.fileno(), events.events)
    return bool(poll.poll(seconds * 1000))


@pytest.mark.parametrize("name", ["memory.events", "memory.events.local"])
def test_a_kill_at_the_limit_wakes_us(group: Path, name: str) -> None:
    """Nothing before it; once noted, nothing more; and the end of the group is distinct from an event."""
    (group / "memory.max").write_text(str(48 * MIB))
    events = EventsFile(str(group / name))
    assert not woken(events, 0)
    assert run(group, HOG, 1, 0, 200).returncode == -9
    assert woken(events, 5)
    assert events.clear()
    time.sleep(0.1)  # the kernel reports quick changes 10 ms late
    events.clear()
    assert not woken(events, 0)
    os.rmdir(group)
    assert woken(events, 5)
    assert not events.clear()
    events.close()


def test_everything_for_the_own_group(group: Path) -> None:
    """Events are granted, stalls refused with the way out: this kernel counts none."""
    (group / "memory.max").write_text(str(200 * MIB))
    done = run(
        group,
        "import json; from memwarden.readers.linux.wakeups import own_wakeups; granted, refused = own_wakeups()\n"
        "print(json.dumps([[each.name for each in granted], refused]))",
    )
    assert '"events of /mw-test"' in done.stdout, done
    assert "CONFIG_PSI" in done.stdout


def test_a_kernel_that_counts_no_stalls_is_absent() -> None:
    """The reader says so, with the way out."""
    with pytest.raises(Exception, match="psi=1") as caught:
        PsiReader().read()
    assert caught.value.why == "absent"  # type: ignore[attr-defined]
