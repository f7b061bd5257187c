"""Memory stalls: whose they are, in which unit, and what is reported where no process counts."""

import errno
import os
from pathlib import Path

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import PsiLine, PsiStats
from memwarden.model.serialize import to_dict
from memwarden.readers.linux.psi import PsiReader, parse_psi
from memwarden.testing import ProcTree
from support.trees import bare_metal, container_v2, descriptors, hybrid, nested

#: A real file, from a group under pressure (Linux 6.1).
BUSY = (
    b"some avg10=51.99 avg60=11.69 avg300=2.53 total=8229952\nfull avg10=0.07 avg60=0.00 avg300=100.00 total=1000000\n"
)
CALM = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0"


def machine_wide(tree: ProcTree, text: str = CALM) -> ProcTree:
    """The machine's own file."""
    tree.write("proc/pressure/memory", text + "\n")
    return tree


def reader(tree: ProcTree, pid: int | None = None) -> PsiReader:
    return PsiReader(pid, tree.proc, tree.sys)


def test_shares_go_from_0_to_1_and_totals_are_seconds() -> None:
    """The kernel writes per cent and microseconds."""
    assert parse_psi(BUSY, "/app", "f") == PsiStats(
        "/app", PsiLine(0.5199, 0.1169, 0.0253, 8.229952), PsiLine(0.0007, 0.0, 1.0, 1.0)
    )


def test_a_record_shows_the_units() -> None:
    """What is waited is seconds, and shares have no unit."""
    written = to_dict(parse_psi(BUSY, "machine", "f"))
    assert written["some"] == {"avg10": 0.5199, "avg60": 0.1169, "avg300": 0.0253, "waited_seconds": 8.229952}


def test_the_own_groups_stalls_come_before_the_machines(tmp_path: Path) -> None:
    """A neighbour that thrashes is not our trouble."""
    tree = machine_wide(nested(ProcTree(tmp_path)), "some avg10=99.00 avg60=0.00 avg300=0.00 total=9")
    tree.group("kubepods/pod1/app", memory__pressure=BUSY.decode().strip(), cgroup__type="domain")
    stats = reader(tree).stats()
    assert (stats.source, stats.some.avg10) == ("/kubepods/pod1/app", 0.5199)


def test_a_container_in_its_own_namespace_has_its_own_stalls(tmp_path: Path) -> None:
    """Its group is the root of what it sees, and not of the hierarchy: cgroup.type distinguishes them."""
    tree = machine_wide(container_v2(ProcTree(tmp_path)))
    tree.group("", memory__pressure=BUSY.decode().strip(), cgroup__type="domain")
    assert reader(tree).stats().source == "/"


def test_a_hybrid_has_stalls_of_a_group_where_memory_is_on_version_1(tmp_path: Path) -> None:
    """Stalls are counted in every version 2 group, whichever controllers it has."""
    tree = machine_wide(hybrid(ProcTree(tmp_path)))
    tree.group("unified/system.slice/app.service", memory__pressure=BUSY.decode().strip(), cgroup__type="domain")
    assert reader(tree).stats().source == "/system.slice/app.service"


@pytest.mark.parametrize("build", [bare_metal, hybrid, nested, container_v2])
def test_without_a_file_of_the_group_it_is_the_machines(tmp_path: Path, build: object) -> None:
    """Version 1, the top of version 2, and a group whose count is turned off."""
    tree = machine_wide(build(ProcTree(tmp_path)))  # type: ignore[operator]
    assert reader(tree).stats() == PsiStats("machine", PsiLine(0.0, 0.0, 0.0, 0.0), PsiLine(0.0, 0.0, 0.0, 0.0))


def test_the_top_of_the_hierarchy_is_the_machine(tmp_path: Path) -> None:
    """Its memory.pressure is the machine's, and is called so."""
    tree = machine_wide(bare_metal(ProcTree(tmp_path)))
    tree.mounted("self", "0::/\n", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    tree.group("", memory__pressure=CALM)
    assert reader(tree).stats().source == "machine"


@pytest.mark.contract("W1-10")
def test_a_kernel_that_does_not_count_is_reported_with_the_way_out(tmp_path: Path) -> None:
    """No file: absent, and what to do about it."""
    with pytest.raises(ReadError) as caught:
        reader(bare_metal(ProcTree(tmp_path))).read()
    assert (caught.value.what, caught.value.why) == ("psi", "absent")
    assert caught.value.where.endswith("/pressure/memory")
    assert "psi=1" in caught.value.detail


def test_a_count_that_was_turned_off_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psi=0: the file opens and then answers EOPNOTSUPP."""
    tree = machine_wide(bare_metal(ProcTree(tmp_path)))

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    before = descriptors()
    monkeypatch.setattr(os, "pread", refuse)
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            reader(tree).read()
        assert caught.value.why == "absent"
        assert "psi=1" in caught.value.detail
    assert descriptors() == before


def test_a_machine_without_the_full_line_has_none(tmp_path: Path) -> None:
    """None, and not 0."""
    tree = machine_wide(bare_metal(ProcTree(tmp_path)), CALM.splitlines()[0])
    assert reader(tree).stats().full is None


def test_new_fields_and_lines_are_passed_over() -> None:
    """A newer kernel breaks nothing."""
    text = b"most avg10=9.00\nsome avg10=1.00 avg30=7.00 avg60=2.00 avg300=3.00 total=4 more=5\n"
    assert parse_psi(text, "machine", "f").some == PsiLine(0.01, 0.02, 0.03, 4e-6)


@pytest.mark.contract("W1-10", "S2-58")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="an empty line"),
        pytest.param(BUSY[:-1], id="without its end"),
        pytest.param(BUSY.splitlines(keepends=True)[1], id="no some line"),
        pytest.param(b"some\n", id="no figures"),
        pytest.param(b"some avg10=1.00 avg60=1.00 total=1\n", id="a figure is missing"),
        pytest.param(b"some avg10=1.00 avg60=1.00 avg300=1.00 total=\n", id="an empty figure"),
        pytest.param(b"some avg10=1.00 avg60=1.00 avg300=1.00 total=-1\n", id="negative"),
        pytest.param(b"some avg10=nan avg60=1.00 avg300=1.00 total=1\n", id="not a number"),
        pytest.param(b"some avg10=101.0 avg60=1.00 avg300=1.00 total=1\n", id="more than all of the time"),
        pytest.param(b"some avg10 avg60=1.00 avg300=1.00 total=1\n", id="no value"),
        pytest.param(b"\xff\x00\n", id="bytes"),
        *(pytest.param(BUSY[:cut], id=f"cut at {cut}") for cut in range(1, len(BUSY) - 1, 7) if cut != 55),
    ],
)
def test_what_is_no_such_file_is_malformed_and_no_figure(data: bytes) -> None:
    """Cut anywhere, out of range, or something else."""
    with pytest.raises(ReadError) as caught:
        parse_psi(data, "machine", "/proc/pressure/memory")
    assert (caught.value.why, caught.value.where) == ("malformed", "/proc/pressure/memory")


def test_a_process_that_was_moved_is_followed(tmp_path: Path) -> None:
    """Within 16 samples, and the old group's descriptor is given back."""
    tree = machine_wide(nested(ProcTree(tmp_path)))
    for path in ("kubepods/pod1/app", "kubepods/pod1"):
        tree.group(path, memory__pressure=CALM, cgroup__type="domain")
    psi = reader(tree)
    assert psi.stats().source == "/kubepods/pod1/app"
    before = descriptors()
    tree.write("proc/self/cgroup", "0::/kubepods/pod1\n")
    sources = [psi.stats().source for _ in range(16)]
    assert sources[-1] == "/kubepods/pod1"
    assert descriptors() == before
    psi.close()


def test_a_group_that_is_removed_is_gone_and_then_found_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept file answers ENODEV once; the next sample asks where the process is now."""
    tree = machine_wide(nested(ProcTree(tmp_path)))
    tree.group("kubepods/pod1/app", memory__pressure=CALM, cgroup__type="domain")
    psi = reader(tree)
    psi.stats()

    def removed(*_: object) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(os, "pread", removed)
    with pytest.raises(ReadError) as caught:
        psi.stats()
    monkeypatch.undo()
    assert caught.value.why == "gone"
    tree.write("proc/self/cgroup", "0::/\n")
    assert psi.stats().source == "machine"
    psi.close()


def test_a_process_that_is_not_there_has_no_stalls(tmp_path: Path) -> None:
    """Not the machine's in its place."""
    with pytest.raises(ReadError) as caught:
        reader(machine_wide(bare_metal(ProcTree(tmp_path))), pid=77).stats()
    assert caught.value.why == "gone"
