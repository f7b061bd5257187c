"""What protects when this process itself is killed: a shell that waits for its pipe to close.

It costs about 1 MiB. As long as this process lives the pipe stays open; the word ``done`` sends the shell
home. An end without the word means that this process died: the shell then does the one thing it was
started for. It runs in a session of its own, so that no Ctrl-C reaches it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess

from memwarden.process.fork_hooks import reset_after_fork

#: Words are remembered as they come, so that what is told last is known at the end, too; ``-word`` takes one back.
_WAIT = """
told=' '
while read -r word; do
    case $word in
        done) exit 0 ;;
        -*) word=${word#-}; case $told in *" $word "*) told="${told%% "$word" *} ${told#* "$word" }" ;; esac ;;
        *) told="$told$word " ;;
    esac
done
"""


class Watchdog:
    """Runs ``script`` when this process dies before :meth:`dismiss`.

    The script is POSIX shell; ``$1`` is ``argument``, and ``$told`` are the words of :meth:`tell`, with spaces around.
    """

    def __init__(self, script: str, argument: str = "") -> None:
        self.process: subprocess.Popen[bytes] | None = None
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT + script, "memwarden-sentinel", argument],
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
        reset_after_fork(self)

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def standing(self) -> bool:
        """Whether there is somebody to act for us."""
        return self.process is not None and self.process.poll() is None

    def tell(self, word: str) -> bool:
        """Let it know a word without spaces, or with ``-`` before it take one back; False when nobody hears it."""
        if self.process is None:
            return False
        try:
            os.write(self._pipe, f"{word}\n".encode())
        except OSError:
            return False
        return True

    def dismiss(self) -> None:
        """Send it home; nothing is done."""
        if self.process is None:
            return
        self.tell("done")
        os.close(self._pipe)
        self.process.wait()
        self.process = None

    def after_fork(self) -> None:
        """In a child: the pipe is the parent's; a copy of it would keep the shell waiting after the parent's end."""
        if self.process is not None:
            self.process.returncode = 0  # not the child's to wait for
            self.process = None
            with contextlib.suppress(OSError):
                os.close(self._pipe)
