"""The parent-death signal, with real processes."""

import os
import select
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")

STARTER = """
import os, time
from memwarden.process.death_signal import die_with_parent
starter = os.getpid()
if os.fork() == 0:
    die_with_parent({parent})
    print("child runs", flush=True)
time.sleep(60)
"""


def start(parent):
    """Start a process that forks a child; the child holds the pipe of ``stdout`` as long as it runs."""
    return subprocess.Popen(
        [sys.executable, "-c", STARTER.format(parent=parent)], stdout=subprocess.PIPE, start_new_session=True
    )


def test_a_child_is_killed_when_its_starter_is_killed():
    """Both ends of the pipe's write side are closed then: reading meets the end of file."""
    with start("starter") as starter:
        assert starter.stdout.readline() == b"child runs\n"
        assert not select.select([starter.stdout], [], [], 0.05)[0], "the child ended early"
        starter.kill()
        assert select.select([starter.stdout], [], [], 20)[0], "the child outlived its starter"
        assert os.read(starter.stdout.fileno(), 1) == b""


def test_a_child_exits_when_its_starter_is_gone_already():
    """The pid is compared after the request: a parent that ended before sends no signal."""
    with start("starter + 1") as starter:
        assert not select.select([starter.stdout], [], [], 0.5)[0], "the child ran on"
        starter.kill()
