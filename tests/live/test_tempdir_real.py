"""Counting real directories: what du shows, another file system, another user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from memwarden.readers.tempdir import DirectoryCount

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares with du of GNU")
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")

COUNT = """
import json, os, sys
from memwarden.readers.tempdir import DirectoryCount
if len(sys.argv) > 2:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
sweep = DirectoryCount(sys.argv[1])
while not sweep.step(1000):
    pass
print(json.dumps([sweep.used, sweep.files, [gap.why for gap in sweep.gaps()]]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some hundred files, links of both kinds, a hole, in folders."""
    for number in range(300):
        place = tmp_path / f"{number % 7}" / f"{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / str(number)).write_bytes(b"x" * (number * 97 % 20_000))
    os.link(tmp_path / "1" / "1" / "1", tmp_path / "again")
    (tmp_path / "link").symlink_to("/usr")
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 30)
    return tmp_path


def du(path: str) -> int:
    done = subprocess.run(["du", "-sx", "--block-size=1", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def test_it_counts_what_du_counts(folder: Path) -> None:
    """To the byte."""
    sweep = DirectoryCount(str(folder))
    assert sweep.step(10_000)
    assert sweep.used == du(str(folder))
    assert sweep.files == 303


def test_the_packages_of_this_python(tmp_path: Path) -> None:
    """A directory as large as they come here."""
    packages = str(Path(pytest.__file__).parents[1])
    sweep = DirectoryCount(packages)
    while not sweep.step(1000):
        pass
    assert sweep.files > 1000
    assert sweep.used == pytest.approx(du(packages), rel=0.01)


@ROOT
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_file_system_that_is_mounted_in_it_is_not_counted(folder: Path) -> None:
    """A tmpfs below it, in a mount namespace of the test's own."""
    (folder / "mounted").mkdir()
    script = 'mount -t tmpfs none "$2/mounted" && echo x >"$2/mounted/inside" && "$1" -c "$3" "$2"; du -sx -B1 "$2"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, str(folder), COUNT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    used, files, gaps = json.loads(done.stdout.splitlines()[0])
    assert (files, gaps) == (303, []), done
    assert used == int(done.stdout.splitlines()[1].split()[0])


@ROOT
def test_folders_of_another_user_are_a_gap_and_the_rest_is_counted() -> None:
    """As a user without rights, two folders are closed: one gap, and every other file."""
    with tempfile.TemporaryDirectory(prefix="mw-test-", dir="/tmp") as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o755)
        for name, mode in (("open", 0o755), ("closed", 0o700), ("shut", 0o700)):
            os.mkdir(f"{folder}/{name}", mode)
            Path(f"{folder}/{name}/file").write_bytes(b"x" * 5000)
        argv = [sys.executable, "-c", COUNT, folder, "65534"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        used, files, gaps = json.loads(done.stdout)
        assert (files, gaps) == (1, ["denied"]), done
        assert 0 < used < du(folder)
