"""The exec launcher: a small process that becomes the command.

Started as ``python -I -S _exec.py …`` and never imported. It joins the memory group, asks for a death signal
(PR_SET_PDEATHSIG), undoes what Python did to signals, and execs. It is a process and not a ``preexec_fn``, because
code between fork and exec in a program with threads may deadlock.

It imports built-in modules only (and ctypes for the death signal), so that it starts in some ten milliseconds. A
failure is written to the error pipe as ``STAGE ERRNO``; an empty pipe means success.
"""

import _signal  # type: ignore[import-not-found]
import posix
import sys


def main(argv: list[str]) -> None:
    error_pipe, parent, forget_ctype, blocked, joins = argv[1:6]
    groups, path, command = argv[6 : 6 + int(joins)], argv[6 + int(joins)], argv[7 + int(joins) :]
    error_fd = int(error_pipe)
    posix.set_inheritable(error_fd, False)
    stage = "join"
    try:
        for procs in groups:
            fd = posix.open(procs, posix.O_WRONLY)
            posix.write(fd, b"0")
            posix.close(fd)
        stage = "exec"
        _set_death_signal()
        if posix.getppid() != int(parent):  # it died before the death signal was set
            posix._exit(137)
        environment = dict(posix.environ)
        if int(forget_ctype):
            # Python sets LC_CTYPE in the C locale (PEP 538); the command gets the environment of the user.
            environment.pop(b"LC_CTYPE", None)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [int(each) for each in blocked.split(",") if each])
        posix.execve(path, command, environment)
    except (OSError, MemoryError) as error:
        number = getattr(error, "errno", None) or 12  # ENOMEM
        try:
            posix.write(error_fd, b"%s %d" % (stage.encode(), number))
        except OSError:
            pass  # too little memory even for that
    posix._exit(127)


def _set_death_signal() -> None:
    try:
        import ctypes

        # As memwarden.process.death_signal does it; with -I -S that module cannot be imported.
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    except (ImportError, AttributeError, OSError):
        pass  # a Python without ctypes: the command then outlives a parent that is killed


main(sys.argv)
