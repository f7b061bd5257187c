"""A command run once for each input, as tasks of an executor.

What it covers: the command's words, its output in files, what came of it. What not: who is let in when, which is the
executor's; any :class:`concurrent.futures.Executor` will do (ours, a thread pool, Dask's).
"""

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
from memwarden.admission.executor.scheduler import FULL
from memwarden.contain.oom_events import OomEvents
from memwarden.errors import DoesNotFit, TaskTooLarge
from memwarden.model.text import printable

if TYPE_CHECKING:
    from memwarden.admission.batch.manifest import Manifest
    from memwarden.admission.executor.batch_report import BatchReport

#: So many are handed to the executor at once: enough to choose from, and a list of a million costs no more.
WINDOW = 256
#: How exactly times are known, seconds.
_SLACK = 0.1
#: The exit codes of shells, for a command that cannot be started and for signals.
_NOT_EXECUTABLE, _NOT_FOUND, _SIGNALLED = 126, 127, 128
_PLACES = re.compile(r"\{(|name|stem)\}")
#: A file's name may have 255 bytes; room is left for what comes behind it.
_LONGEST = 200


class CommandTask(NamedTuple):
    """What a worker is to do."""

    words: tuple[str, ...]
    #: The file for its output, and where that grows until it is whole; None: wherever the worker's goes.
    output: str | None
    growing: str
    #: Whether a command that the kernel killed for want of memory takes its worker with it, to be put back.
    put_back: bool


class CommandRun(NamedTuple):
    """What a worker says of a command."""

    exit_code: int
    began: float
    seconds: float
    peak: int | None
    has_errors: bool
    why: str


class Template:
    """A command in which an input's place is marked: ``{}``; ``{name}`` for the input without its folders, ``{stem}``
    without its suffix, too. With ``replace`` that text is the mark, and nothing else is one. Where there is no mark the
    input comes last."""

    def __init__(self, command: Sequence[str], replace: str | None = None) -> None:
        self.command = tuple(command)
        self._marks = _PLACES if replace is None else re.compile(f"({re.escape(replace)})")
        self._plain = replace is not None
        if not any(map(self._marks.search, self.command)):
            self.command += ("{}" if replace is None else replace,)

    @property
    def program(self) -> str | None:
        """The program, where it is the same for every input."""
        return None if self._marks.search(self.command[0]) else self.command[0]

    def words(self, text: str) -> tuple[str, ...]:
        """The command for this input. Replaced is once: an input may hold marks itself."""
        name = os.path.basename(text.rstrip("/")) or text
        values = {"": text, "name": name, "stem": os.path.splitext(name)[0]}
        return tuple(
            self._marks.sub(lambda mark: text if self._plain else values[mark[1]], word) for word in self.command
        )

    @property
    def kind(self) -> str:
        """What tasks of this command are learned as: its words, without the input."""
        words = " ".join([os.path.basename(self.command[0]), *self.command[1:]])
        text = printable(words)
        if len(text) > 80 or text != words:
            text = f"{text[:68]} {hashlib.blake2b(os.fsencode(words), digest_size=4).hexdigest()}"
        return text


def input_bytes(text: str) -> float | None:
    """The bytes of the file that an input names; None where it names none."""
    try:
        return float(os.stat(text).st_size) if os.path.isfile(text) else None
    except (OSError, ValueError):
        return None


def file_name(text: str, time: int = 1) -> str:
    """A file's name for an input, another one for each: readable, and safe whatever the input holds. ``time``: the
    same input may come more than once."""
    name = quote_from_bytes(os.fsencode(text), safe=" +,=@~")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}#{hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()}"
    return name if time == 1 else f"{name}#{time}"


def run_commands(
    command: Sequence[str],
    inputs: Iterable[str],
    *,
    executor: Executor,
    manifest: Manifest | None = None,
    output: str | None = None,
    scratch: str | None = None,
    kind: str | None = None,
    reserve: int | str | None = None,
    size_of: Callable[[str], float | None] = input_bytes,
    replace: str | None = None,
    fail_fast: bool = False,
) -> Generator[CommandResult, None, None]:
    """Run ``command`` for each of ``inputs``; yields what came of each as it ends.

    Marks are those of :class:`Template`. ``output`` is a folder for ``INPUT.out`` and ``INPUT.err`` (the latter only
    where something was written), which appear when they are whole and grow in the folder ``scratch``. With ``scratch``
    alone they are there, for the caller to take away; with none the output goes where that of the workers goes.
    ``size_of`` says an input's size, ``kind`` and ``reserve`` are hints as
    in :meth:`BudgetedExecutor.with_options`; other executors do not need them.

    An input that ``manifest`` knows as done is left out, and each result is added to it when the caller comes back for
    the next one: what he does with a result is done before it counts as done. ``fail_fast``: after a failure nothing
    new begins. A command may be run more than once for an input: where it had to be ended, and where it failed while
    memory was short.
    """
    template = Template(command, replace)
    ours = isinstance(executor, BudgetedExecutor)
    kind = kind or template.kind
    times: Counter[str] = Counter()
    folder = output or scratch

    def submit(begun: _Begun) -> Future[CommandRun]:
        if not isinstance(executor, BudgetedExecutor):
            return executor.submit(run_command, begun.order)

        def hinted(most: int | str | None) -> Future[CommandRun]:
            tasks = executor.with_options(kind=kind, size=begun.size, reserve=most, name=printable(begun.text))
            return tasks.submit(run_command, begun.order)

        if begun.again:
            with contextlib.suppress(DoesNotFit):  # others have come to share it
                return hinted(max(1, int(executor.report().budget * FULL)))
        return hinted(reserve)

    def plan(number: int, text: str) -> _Begun:
        path = growing = None
        if folder is not None:
            times[text] += 1
            name = file_name(text, times[text])
            path, growing = os.path.join(folder, name), os.path.join(scratch or folder, f"{name}.part")
        return _Begun(number, text, size_of(text), CommandTask(template.words(text), path, growing or "", ours))

    def wanted() -> Iterator[tuple[int, str]]:
        for number, text in enumerate(inputs, 1):
            if manifest is not None and manifest.leaves_out(text):
                times[text] += folder is not None
            else:
                yield number, text

    source, ended = wanted(), SimpleQueue[Future[CommandRun]]()
    pending: dict[Future[CommandRun], _Begun] = {}
    going = True
    try:
        while True:
            while going and len(pending) < WINDOW:
                if (following := next(source, None)) is None:
                    going = False
                    break
                begun = plan(*following)
                pending[future := submit(begun)] = begun
                future.add_done_callback(ended.put)
            if not pending:
                return
            future = ended.get()
            begun = pending.pop(future)
            if future.cancelled():
                continue
            if not begun.again and isinstance(executor, BudgetedExecutor) and _was_starved(future, executor.report()):
                begun = begun._replace(again=True)
                pending[future := submit(begun)] = begun
                future.add_done_callback(ended.put)
                continue
            result = begun.result(future)
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


class _Begun(NamedTuple):
    """An input that was handed to the executor."""

    number: int
    text: str
    size: float | None
    order: CommandTask
    #: It failed, perhaps for want of memory; this time it gets nearly all of it.
    again: bool = False

    def result(self, future: Future[CommandRun]) -> CommandResult:
        """What came of it. Raises where the whole executor is broken."""
        try:
            ran = future.result()
        except BrokenExecutor:
            raise
        except Exception as error:  # noqa: BLE001 - of this input; the others go on
            state: State = "too-large" if isinstance(error, TaskTooLarge) else "lost"
            why = str(error) or type(error).__name__
            return CommandResult(self.number, self.text, state, None, None, None, None, self.size, None, None, why)
        state = "not-started" if ran.exit_code in (_NOT_EXECUTABLE, _NOT_FOUND) and ran.why else "failed"
        if ran.exit_code == 0:
            state = "done"
        path = self.order.output
        written = path is not None and state != "not-started"
        return CommandResult(
            self.number,
            self.text,
            state,
            ran.exit_code,
            ran.began,
            ran.seconds,
            ran.peak,
            self.size,
            f"{path}.out" if written else None,
            f"{path}.err" if written and ran.has_errors else None,
            ran.why,
        )


def _was_starved(future: Future[CommandRun], report: BatchReport) -> bool:
    """Whether it may have failed only because the workers' memory group was full: then the kernel refuses memory inside
    of system calls (ENOMEM, EFAULT), and programs fail that do not fail otherwise. Seen with version 1 of groups."""
    if (error := future.exception()) is not None:
        return isinstance(error, OSError | subprocess.SubprocessError)
    ran = future.result()
    if ran.exit_code == 0 or report.enforcement == "polling":
        return False
    begin = ran.began - report.started - _SLACK
    end = begin + ran.seconds + 2 * _SLACK
    near = [each for each in report.points if begin <= each.seconds <= end]
    return any(each.paused or each.used >= each.budget * FULL for each in near)


# --- in the worker ---------------------------------------------------------------------------------------


def run_command(order: CommandTask) -> CommandRun:
    """Run one command to its end. Raises OSError where its output cannot be kept."""
    witness = OomEvents() if order.put_back else None
    own = _own_peak()
    began, clock = time.time(), time.perf_counter()
    with contextlib.ExitStack() as files:
        out = err = None
        if order.output is not None:
            out = files.enter_context(_fresh(f"{order.growing}.out"))
            err = files.enter_context(_fresh(f"{order.growing}.err"))
        try:
            process = subprocess.Popen(order.words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            return _not_started(order, error, began)
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - clock
    if code == -signal.SIGKILL and witness is not None and witness.seen():
        # For want of memory, and it took the command alone: the executor hears of it by the end of this worker.
        os.kill(os.getpid(), signal.SIGKILL)
    has_errors = order.output is not None and os.path.getsize(f"{order.growing}.err") > 0
    if order.output is not None:
        os.replace(f"{order.growing}.out", f"{order.output}.out")
        if has_errors:
            os.replace(f"{order.growing}.err", f"{order.output}.err")
        else:
            os.unlink(f"{order.growing}.err")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{order.output}.err")  # of an earlier run
    peak = usage.ru_maxrss << 10
    why = "" if code >= 0 else f"ended by signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    if code > 0:
        why = f"exit code {code}"
    return CommandRun(
        _SIGNALLED - code if code < 0 else code,
        began,
        seconds,
        peak if peak > own else None,
        has_errors,
        why,
    )


def _fresh(path: str) -> BinaryIO:
    """A new file; that of an attempt that was ended may still be somebody's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return open(path, "xb", buffering=0)


def _not_started(order: CommandTask, error: OSError | ValueError, began: float) -> CommandRun:
    if order.output is not None:
        for suffix in ("out", "err"):
            os.unlink(f"{order.growing}.{suffix}")
    number = error.errno if isinstance(error, OSError) else None
    words = os.strerror(number) if number else str(error)
    code = _NOT_FOUND if number == errno.ENOENT else _NOT_EXECUTABLE
    return CommandRun(code, began, 0.0, None, False, f"{order.words[0]} cannot be started: {words}")


def _own_peak() -> int:
    """What the system counts into a new process's highest before it becomes the command: this one's memory."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
