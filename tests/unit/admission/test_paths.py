"""Where ledgers lie."""

import os
import stat

import pytest

from memwarden.admission.ledger import paths
from memwarden.errors import RecordError

fcntl = pytest.importorskip("fcntl", reason="a ledger needs file locks")


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A runtime directory of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "memwarden"


def test_the_runtime_directory_is_the_user_s(tmp_path):
    """As the session says; without one, below the records, which are the user's own, too."""
    assert paths.runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == str(tmp_path / "memwarden")
    lacking = {"XDG_RUNTIME_DIR": str(tmp_path / "no"), "XDG_STATE_HOME": "/state", "HOME": "/home/me"}
    assert paths.runtime_directory(lacking) == "/state/memwarden/run"


def test_the_folder_is_private(runtime):
    """Made for this user alone; one that others may write to is made private, or refused."""
    paths.ledger_path("default")
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    runtime.chmod(0o777)
    paths.ledger_path("default")
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_another_user_s_folder_is_refused(runtime, monkeypatch):
    """Another user may have made it in a shared place."""
    runtime.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    if runtime.stat().st_uid == 0:
        os.chown(runtime, 4712, -1)
    with pytest.raises(RecordError, match="belongs to another user"):
        paths.ledger_path("default")


def test_each_name_and_each_container_has_a_file_of_its_own(runtime, monkeypatch):
    """The same name in the same place is the same file; a container that shares the folder has another one."""
    first = paths.ledger_path("default")
    assert paths.ledger_path("default") == first
    assert paths.ledger_path("batch") != first
    monkeypatch.setattr(paths, "host_id", lambda: "0123abcd")
    assert paths.ledger_path("default") == str(runtime / "ledger-default-0123abcd")


def test_those_that_exist_are_listed_by_name(runtime):
    """FIFOs, and other containers' ledgers, are none of ours."""
    for name in ("default", "my-batch"):
        open(paths.ledger_path(name), "w").close()
    open(paths.ledger_path("default") + ".1f", "w").close()
    (runtime / "ledger-default-ffffffff").touch()
    assert list(paths.ledgers()) == ["default", "my-batch"]


def test_what_others_left_is_removed(runtime):
    """An unused file of another boot; never what is in use."""
    path = paths.ledger_path("default")
    open(path, "w").close()
    for name in ("ledger-old-ffffffff", "else", "ledger-x"):
        (runtime / name).touch()
    used = runtime / "ledger-used-eeeeeeee"
    used.touch()
    child = os.fork()
    if child == 0:
        fd = os.open(used, os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, (1 << 40) + 3)
        os.kill(os.getpid(), 19)  # SIGSTOP
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    paths.tidy(str(runtime))
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert sorted(os.listdir(runtime)) == ["else", os.path.basename(path), "ledger-used-eeeeeeee", "ledger-x"]
