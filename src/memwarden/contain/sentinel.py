"""What protects when the monitor itself is killed: a shell that waits for its pipe to close.

It costs about 1 MiB. As long as the monitor lives the pipe stays open; the word ``done`` sends the shell
home. An end without the word means that the monitor died: the shell then does the one thing it was
started for. It runs in a session of its own, so that no Ctrl-C reaches it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess


class Sentinel:
    """Runs ``script`` (POSIX shell, ``$1`` is ``argument``) when this process dies before :meth:`dismiss`."""

    def __init__(self, script: str, argument: str) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"read -r word && exit 0; {script}", "memwarden-sentinel", argument],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={},
            )
        except OSError:
            os.close(writing)  # no shell here; the caller asks `standing`
            return
        finally:
            os.close(reading)
        self._pipe = writing

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def standing(self) -> bool:
        """Whether there is somebody to act for us."""
        return self.process is not None and self.process.poll() is None

    def dismiss(self) -> None:
        """Send it home; nothing is done."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            os.write(self._pipe, b"done\n")
        os.close(self._pipe)
        self.process.wait()
        self.process = None
