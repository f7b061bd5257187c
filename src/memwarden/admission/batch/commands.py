"""A command run once for each input, as tasks of an executor (budgeted, a thread pool, Dask's)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import quote_from_bytes

from memwarden.admission.batch.command_result import CommandResult, State
from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.admission.executor.leasing import FULL
from memwarden.contain.oom_events import OomEvents
from memwarden.errors import DoesNotFit, TaskTooLarge
from memwarden.model.text import printable

if TYPE_CHECKING:
    from memwarden.admission.batch.manifest import Manifest
    from memwarden.admission.executor.batch_report import BatchReport

#: Tasks submitted at once: enough to choose from, and a list of a million inputs costs no more.
WINDOW = 256
#: Uncertainty of times, seconds.
_SLACK = 0.1
#: Exit codes of shells, for a command that cannot be started and for signals.
_NOT_EXECUTABLE, _NOT_FOUND, _SIGNALLED = 126, 127, 128
_MARKS = re.compile(r"\{(|name|stem)\}")
#: A file's name may have 255 bytes; the rest is for suffixes.
_MAX_NAME = 200


class CommandTask(NamedTuple):
    """A command for a worker."""

    words: tuple[str, ...]
    #: The file for its output, and the one that it is written to until it is complete; None: the worker's output.
    output: str | None
    partial: str
    #: If the kernel kills the command for memory, the worker ends, too, and the executor retries the task.
    die_on_oom: bool


class CommandRun(NamedTuple):
    """A worker's report of a command."""

    exit_code: int
    started: float
    seconds: float
    peak: int | None
    has_errors: bool
    reason: str


class Template:
    """A command with placeholders for the input: ``{}``; ``{name}`` for the input without folders, ``{stem}`` without
    suffix, too. With ``replace`` that text is the only placeholder. Without any the input is the last argument."""

    def __init__(self, command: Sequence[str], replace: str | None = None) -> None:
        self.command = tuple(command)
        self._marks = _MARKS if replace is None else re.compile(f"({re.escape(replace)})")
        self._plain = replace is not None
        if not any(map(self._marks.search, self.command)):
            self.command += ("{}" if replace is None else replace,)

    @property
    def program(self) -> str | None:
        """Return the program if it is the same for every input."""
        return None if self._marks.search(self.command[0]) else self.command[0]

    def words(self, text: str) -> tuple[str, ...]:
        """Return the command for an input. Each placeholder is replaced once: the input may hold some itself."""
        name = os.path.basename(text.rstrip("/")) or text
        values = {"": text, "name": name, "stem": os.path.splitext(name)[0]}
        return tuple(
            self._marks.sub(lambda mark: text if self._plain else values[mark[1]], word) for word in self.command
        )

    @property
    def kind(self) -> str:
        """Return the name under which the command's tasks are learned: its words, without the input."""
        words = " ".join([os.path.basename(self.command[0]), *self.command[1:]])
        text = printable(words)
        if len(text) > 80 or text != words:
            text = f"{text[:68]} {hashlib.blake2b(os.fsencode(words), digest_size=4).hexdigest()}"
        return text


def input_bytes(text: str) -> float | None:
    """Return the bytes of the file that an input names; None where it names none."""
    try:
        return float(os.stat(text).st_size) if os.path.isfile(text) else None
    except (OSError, ValueError):
        return None


def file_name(text: str, occurrence: int = 1) -> str:
    """Return a readable and safe file name for an input; names of different inputs, and of the occurrences of one,
    differ."""
    name = quote_from_bytes(os.fsencode(text), safe=" +,=@~")
    if len(name) > _MAX_NAME:
        name = f"{name[:_MAX_NAME]}#{hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()}"
    return name if occurrence == 1 else f"{name}#{occurrence}"


def run_commands(
    command: Sequence[str],
    inputs: Iterable[str],
    *,
    executor: Executor,
    manifest: Manifest | None = None,
    output: str | None = None,
    staging: str | None = None,
    kind: str | None = None,
    reserve: int | str | None = None,
    size_of: Callable[[str], float | None] = input_bytes,
    replace: str | None = None,
    fail_fast: bool = False,
) -> Generator[CommandResult, None, None]:
    """Run ``command`` for each of ``inputs``; yield each result as it is there.

    Placeholders are those of :class:`Template`. ``output`` is a folder for ``INPUT.out`` and ``INPUT.err`` (the latter
    only if something was written), which appear when they are complete; until then they are in the folder ``staging``.
    With ``staging`` alone they stay there, for the caller; without either the output is the workers'. ``size_of``
    returns an input's size; ``kind`` and ``reserve`` are hints as in :meth:`BudgetedExecutor.with_options`, which other
    executors do not use.

    An input that ``manifest`` has as done is skipped. A result is added to it when the caller asks for the next one, so
    that it counts as done only after the caller has handled it. ``fail_fast``: no command starts after a failure. A
    command may be run more than once for an input: when it was killed, and when it failed while memory was short.
    """
    template = Template(command, replace)
    ours = isinstance(executor, BudgetedExecutor)
    kind = kind or template.kind
    occurrences: Counter[str] = Counter()
    folder = output or staging

    def submit(job: _Submitted) -> Future[CommandRun]:
        if not isinstance(executor, BudgetedExecutor):
            return executor.submit(run_command, job.task)

        def submit_with(most: int | str | None) -> Future[CommandRun]:
            tasks = executor.with_options(kind=kind, size=job.size, reserve=most, name=printable(job.text))
            return tasks.submit(run_command, job.task)

        if job.retried:
            with contextlib.suppress(DoesNotFit):  # other programs have reserved memory meanwhile
                return submit_with(max(1, int(executor.report().budget * FULL)))
        return submit_with(reserve)

    def plan(number: int, text: str) -> _Submitted:
        path = partial = None
        if folder is not None:
            occurrences[text] += 1
            name = file_name(text, occurrences[text])
            path, partial = os.path.join(folder, name), os.path.join(staging or folder, f"{name}.part")
        return _Submitted(number, text, size_of(text), CommandTask(template.words(text), path, partial or "", ours))

    def remaining() -> Iterator[tuple[int, str]]:
        for number, text in enumerate(inputs, 1):
            if manifest is not None and manifest.skips(text):
                occurrences[text] += folder is not None
            else:
                yield number, text

    source, ended = remaining(), SimpleQueue[Future[CommandRun]]()
    pending: dict[Future[CommandRun], _Submitted] = {}
    going = True
    try:
        while True:
            while going and len(pending) < WINDOW:
                if (following := next(source, None)) is None:
                    going = False
                    break
                job = plan(*following)
                pending[future := submit(job)] = job
                future.add_done_callback(ended.put)
            if not pending:
                return
            future = ended.get()
            job = pending.pop(future)
            if future.cancelled():
                continue
            if not job.retried and isinstance(executor, BudgetedExecutor) and _was_starved(future, executor.report()):
                job = job._replace(retried=True)
                pending[future := submit(job)] = job
                future.add_done_callback(ended.put)
                continue
            result = job.result(future)
            yield result
            if manifest is not None:
                manifest.add(result if output is not None else result._replace(output=None, errors=None))
            if fail_fast and result.state != "done":
                going = False
                for each in list(pending):
                    each.cancel()
    finally:
        for each in list(pending):
            each.cancel()


class _Submitted(NamedTuple):
    """A submitted input."""

    number: int
    text: str
    size: float | None
    task: CommandTask
    #: It failed, perhaps for lack of memory; this attempt reserves nearly the whole budget.
    retried: bool = False

    def result(self, future: Future[CommandRun]) -> CommandResult:
        """Return the result. Raises :class:`BrokenExecutor`, which concerns all inputs."""
        try:
            ran = future.result()
        except BrokenExecutor:
            raise
        except Exception as error:  # noqa: BLE001 - it concerns this input alone
            state: State = "too-large" if isinstance(error, TaskTooLarge) else "lost"
            reason = str(error) or type(error).__name__
            return CommandResult(self.number, self.text, state, None, None, None, None, self.size, None, None, reason)
        state = "not-started" if ran.exit_code in (_NOT_EXECUTABLE, _NOT_FOUND) and ran.reason else "failed"
        if ran.exit_code == 0:
            state = "done"
        path = self.task.output
        written = path is not None and state != "not-started"
        return CommandResult(
            self.number,
            self.text,
            state,
            ran.exit_code,
            ran.started,
            ran.seconds,
            ran.peak,
            self.size,
            f"{path}.out" if written else None,
            f"{path}.err" if written and ran.has_errors else None,
            ran.reason,
        )


def _was_starved(future: Future[CommandRun], report: BatchReport) -> bool:
    """Return whether it may have failed because the workers' cgroup was full: then the kernel refuses memory inside
    of system calls (ENOMEM, EFAULT), which makes programs fail (seen with cgroup v1)."""
    if (error := future.exception()) is not None:
        return isinstance(error, OSError | subprocess.SubprocessError)
    ran = future.result()
    if ran.exit_code == 0 or report.enforcement == "polling":
        return False
    begin = ran.started - report.started - _SLACK
    end = begin + ran.seconds + 2 * _SLACK
    near = [each for each in report.points if begin <= each.seconds <= end]
    return any(each.paused or each.used >= each.budget * FULL for each in near)


# --- in the worker ---------------------------------------------------------------------------------------


def run_command(task: CommandTask) -> CommandRun:
    """Run one command. Raises ``OSError`` where its output cannot be written."""
    witness = OomEvents() if task.die_on_oom else None
    own = _own_peak()
    started, clock = time.time(), time.perf_counter()
    with contextlib.ExitStack() as files:
        out = err = None
        if task.output is not None:
            out = files.enter_context(_fresh(f"{task.partial}.out"))
            err = files.enter_context(_fresh(f"{task.partial}.err"))
        try:
            process = subprocess.Popen(task.words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            return _not_started(task, error, started)
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - clock
    if code == -signal.SIGKILL and witness is not None and witness.seen():
        # The kernel killed the command for memory; the executor learns that from the end of this worker.
        os.kill(os.getpid(), signal.SIGKILL)
    has_errors = task.output is not None and os.path.getsize(f"{task.partial}.err") > 0
    if task.output is not None:
        os.replace(f"{task.partial}.out", f"{task.output}.out")
        if has_errors:
            os.replace(f"{task.partial}.err", f"{task.output}.err")
        else:
            os.unlink(f"{task.partial}.err")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{task.output}.err")  # of an earlier run
    peak = usage.ru_maxrss << 10
    reason = "" if code >= 0 else f"killed by signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    if code > 0:
        reason = f"exit code {code}"
    return CommandRun(
        _SIGNALLED - code if code < 0 else code,
        started,
        seconds,
        peak if peak > own else None,
        has_errors,
        reason,
    )


def _fresh(path: str) -> BinaryIO:
    """Open a new file; a killed attempt's program may still write to the old one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return open(path, "xb", buffering=0)


def _not_started(task: CommandTask, error: OSError | ValueError, started: float) -> CommandRun:
    if task.output is not None:
        for suffix in ("out", "err"):
            os.unlink(f"{task.partial}.{suffix}")
    number = error.errno if isinstance(error, OSError) else None
    text = os.strerror(number) if number else str(error)
    code = _NOT_FOUND if number == errno.ENOENT else _NOT_EXECUTABLE
    return CommandRun(code, started, 0.0, None, False, f"{task.words[0]} cannot be started: {text}")


def _own_peak() -> int:
    """Return this process's peak, which the kernel counts into that of a new process."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
