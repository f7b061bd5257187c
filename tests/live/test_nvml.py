"""Graphics cards through NVIDIA's own Python package, over a management library that stands in for the driver's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict
from memwarden.model.verdicts import PressureLevel, Reading
from memwarden.records.jsonl import read_lines
from support.nvml import COMPILER, FakeNvml

pytest.importorskip("pynvml")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler here; test_nvidia.py has a module in its place")

GIB = 1 << 30
RTX = "RTX-3090"
MEMWARDEN = [sys.executable, "-c", "import sys; from memwarden.faces.cli import main; sys.exit(main())"]
#: Reads each time that it is reported to, and prints what it read.
READ = """
import json, sys
from memwarden.errors import ReadError
from memwarden.readers.nvidia import NvidiaReader
reader = NvidiaReader()
for line in sys.stdin:
    try:
        read = reader.read()
        gpus = [[gpu.number, gpu.name, gpu.total, gpu.used, gpu.free] for gpu in read["gpus"]]
        gaps = [[gap.where, gap.why, gap.detail] for gap in read["gaps"]]
        print(json.dumps([gpus, gaps]), flush=True)
    except ReadError as error:
        print(json.dumps([error.where, error.why, error.detail]), flush=True)
"""


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    """A driver with one card of 24 GiB, 5 of them used."""
    fake = FakeNvml(tmp_path)
    fake.set((RTX, 24 * GIB, 5 * GIB, 0))
    return fake


@pytest.fixture
def read(nvml: FakeNvml) -> Iterator[Callable[[], Any]]:
    """Has a reader in another process read once."""
    with subprocess.Popen(
        [sys.executable, "-c", READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=nvml.environment
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def once() -> Any:
            print("read", file=reader.stdin, flush=True)
            return json.loads(reader.stdout.readline())

        yield once
        reader.stdin.close()
        assert reader.wait(10) == 0


def memwarden(nvml: FakeNvml, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that finds these cards, and no settings."""
    env = {name: value for name, value in nvml.environment.items() if not name.startswith("MEMWARDEN_")}
    env |= {"XDG_CONFIG_HOME": str(folder), "COLUMNS": "120"}
    return subprocess.run(
        [*MEMWARDEN, *arguments], capture_output=True, text=True, timeout=60, env=env, cwd=folder, check=False
    )


@pytest.mark.contract("V-18")
def test_cards_are_read_through_the_real_package(nvml: FakeNvml, read: Callable[[], Any]) -> None:
    """Names and bytes, as they change."""
    assert read() == [[[0, RTX, 24 * GIB, 5 * GIB, 19 * GIB]], []]
    nvml.set((RTX, 24 * GIB, 6 * GIB, 0))
    assert read()[0][0][3] == 6 * GIB


def test_a_card_that_is_lost_is_a_gap_until_it_is_back(nvml: FakeNvml, read: Callable[[], Any]) -> None:
    """The other one is read all the while."""
    both = (RTX, 24 * GIB, GIB, 0), ("H100", 80 * GIB, GIB, 0)
    nvml.set(*both)
    assert [gpu[0] for gpu in read()[0]] == [0, 1]
    nvml.set(both[0], ("H100", 80 * GIB, GIB, 15))
    assert read() == [[[0, RTX, 24 * GIB, GIB, 23 * GIB]], [["gpu 1", "gone", "GPU is lost"]]]
    nvml.set(*both)
    assert read()[1] == []


@pytest.mark.parametrize(
    ("code", "why", "words"), [(3, "absent", "Not Supported"), (4, "denied", "Insufficient Permissions")]
)
def test_a_card_that_shows_nothing_of_its_memory(
    nvml: FakeNvml, read: Callable[[], Any], code: int, why: str, words: str
) -> None:
    """A gap with the library's own words."""
    nvml.set((RTX, 24 * GIB, GIB, code))
    assert read() == [[], [["gpu 0", why, words]]]


def test_a_driver_that_goes_and_comes_back(nvml: FakeNvml, read: Callable[[], Any]) -> None:
    """All handles of before are worth nothing then: a new session reads on by itself."""
    assert read()[1] == []
    nvml.set((RTX, 24 * GIB, GIB, 15))
    assert read() == [[], [["gpu 0", "gone", "GPU is lost"]]]
    nvml.set(init=9)
    assert read() == ["NVML", "absent", "Driver Not Loaded"]
    nvml.set((RTX, 24 * GIB, 2 * GIB, 0))
    assert read() == [[[0, RTX, 24 * GIB, 2 * GIB, 22 * GIB]], []]


def test_a_machine_with_the_driver_and_no_card(nvml: FakeNvml, read: Callable[[], Any]) -> None:
    """No card, and no gap."""
    nvml.set()
    assert read() == [[], []]


@pytest.mark.contract("V-18")
def test_a_watch_judges_records_and_shows_a_card(nvml: FakeNvml, tmp_path: Path) -> None:
    """The same levels, records, lines and view as for any memory."""
    nvml.set((RTX, 24 * GIB, 23 * GIB, 0))
    done = memwarden(
        nvml, tmp_path, "watch", "--gpu", "--interval", "200ms", "--duration", "1s", "--record", "run.jsonl"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"CRITICAL +95\.8% +23\.00GiB +24\.00GiB ", done.stdout)
    assert "event level: CRITICAL: 96% of gpu 0" in done.stdout
    events = [each for each in read_lines(tmp_path / "run.jsonl") if isinstance(each, Event)]
    readings = [each.value for each in events if each.kind is EventKind.SAMPLE]
    assert len(readings) >= 4
    for reading in readings:
        [gpu] = reading.sample.gpus
        assert (gpu.name, gpu.used) == (RTX, 23 * GIB)
        assert reading.assessment.level is PressureLevel.CRITICAL
    replayed = memwarden(nvml, tmp_path, "replay", "run.jsonl")
    assert "nothing differs" in replayed.stdout


@pytest.mark.contract("S2-54", "X-21", "V-18")
@pytest.mark.parametrize(("gib", "alerts"), [(18.0, False), (20.0, False), (21.0, False), (22.0, True)])
def test_the_preset_is_quiet_where_models_rest(nvml: FakeNvml, tmp_path: Path, gib: float, alerts: bool) -> None:
    """At 18 to 20 of 24 GB, the 19.2 of the seed between them; it alerts above, on the card's memory."""
    nvml.set((RTX, 24 * GIB, int(gib * GIB), 0))
    done = memwarden(nvml, tmp_path, "watch", "--preset", "gpu", "--interval", "200ms", "--duration", "1s", "--json")
    assert done.returncode == 0
    values = [from_dict(json.loads(line)) for line in done.stdout.splitlines()]
    assert all(each.sample.gpus for each in values if isinstance(each, Reading))
    decisions = [each for each in values if isinstance(each, Event) and each.kind is EventKind.DECISION]
    about_cards = [each.value for each in decisions if each.value.rule == "gpu"]
    assert bool(about_cards) is alerts
    assert all("of 24.00 GiB" in each.reason for each in about_cards)


def test_no_driver_is_one_gap_and_the_watch_goes_on(nvml: FakeNvml, tmp_path: Path) -> None:
    """Reported once, in the library's words."""
    nvml.library.unlink()
    done = memwarden(nvml, tmp_path, "watch", "--gpu", "--interval", "200ms", "--duration", "1s")
    assert (done.returncode, done.stderr) == (0, "")
    gaps = [line for line in done.stdout.splitlines() if " event gap:" in line and "gpu" in line]
    assert [gap.partition("gap: ")[2] for gap in gaps] == ["gpu cannot be read: absent (NVML)"]


def test_without_the_package_the_command_to_type_is_reported(nvml: FakeNvml, tmp_path: Path) -> None:
    """Where cards were asked for: by the option, and by a preset. Others do without."""
    (tmp_path / "pynvml.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    code = "import sys; sys.path.insert(0, ''); from memwarden.faces.cli import main; sys.exit(main())"
    for more in (["--gpu"], ["--preset", "gpu"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "watch", "--duration", "1s", *more],
            capture_output=True,
            text=True,
            timeout=60,
            env=nvml.environment,
            cwd=tmp_path,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "memwarden: reading GPU memory needs an optional package: pip install 'memwarden[gpu]'\n"
