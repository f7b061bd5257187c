"""Cleanup after this process is killed: a shell that waits for its pipe to close.

It costs about 1 MiB. As long as this process lives the pipe stays open; the word ``done`` stops the shell. An end of
the input without that word means that this process died: the shell then runs its script. It runs in a session of its
own, so that no Ctrl-C reaches it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess

from memwarden.process.fork_hooks import reset_after_fork

#: Words are kept as they come, so that none is lost when this process is killed; ``-word`` removes one.
_WAIT = """
words=' '
while read -r word; do
    case $word in
        done) exit 0 ;;
        -*) word=${word#-}; case $words in *" $word "*) words="${words%% "$word" *} ${words#* "$word" }" ;; esac ;;
        *) words="$words$word " ;;
    esac
done
"""


class Watchdog:
    """Runs ``script`` when this process dies before :meth:`dismiss`.

    The script is POSIX shell; ``$1`` is ``argument``, and ``$words`` are the words of :meth:`send`, with spaces around.
    """

    def __init__(self, script: str, argument: str = "") -> None:
        self.process: subprocess.Popen[bytes] | None = None
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT + script, "memwarden-watchdog", argument],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={},
            )
        except OSError:
            os.close(writing)  # no shell here; the caller asks `running`
            return
        finally:
            os.close(reading)
        self._pipe = writing
        reset_after_fork(self)

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def running(self) -> bool:
        """True while the shell runs."""
        return self.process is not None and self.process.poll() is None

    def send(self, word: str) -> bool:
        """Send it a word without spaces, or with ``-`` before it remove one; False when it does not run."""
        if self.process is None:
            return False
        try:
            os.write(self._pipe, f"{word}\n".encode())
        except OSError:
            return False
        return True

    def dismiss(self) -> None:
        """Stop it; its script is not run."""
        if self.process is None:
            return
        self.send("done")
        os.close(self._pipe)
        self.process.wait()
        self.process = None

    def after_fork(self) -> None:
        """In a child: close the copy of the pipe, which would keep the shell waiting after the parent's death."""
        if self.process is not None:
            self.process.returncode = 0  # not the child's to wait for
            self.process = None
            with contextlib.suppress(OSError):
                os.close(self._pipe)
