"""``memwarden map``: a command for each of many inputs, as many at once as there is memory for."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from types import FrameType
from typing import Any, BinaryIO, NamedTuple

from memwarden.admission.batch.command_result import CommandResult
from memwarden.admission.batch.commands import Template, input_bytes, run_commands
from memwarden.admission.batch.figure import require_matplotlib
from memwarden.admission.batch.manifest import Manifest
from memwarden.admission.batch.save_report import report_format, save_report
from memwarden.admission.executor.batch_report import BatchReport
from memwarden.admission.executor.executor import ATTEMPTS, BudgetedExecutor
from memwarden.contain.launcher import resolve as resolve_command
from memwarden.errors import ActionFailed, RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.live.batch_progress import BatchProgress
from memwarden.faces.cli.staging import StagingDirectory
from memwarden.settings import resolve

_PART = 1 << 16


class MapOptions(NamedTuple):
    """The options of the command, apart from those of the option table."""

    inputs: str | None
    null: bool
    globs: tuple[str, ...]
    replace: str | None
    workers: int | None
    kind: str | None
    reserve: str | None
    size_of: str
    attempts: int | None
    ledger: str | None
    output_dir: str | None
    tag: bool
    fail_fast: bool
    results: str | None
    resume: bool
    reports: tuple[str, ...]
    as_json: bool


def perform(command: Sequence[str], flags: Mapping[str, Any], wishes: MapOptions) -> int:
    """Run the command for each input; returns the exit code. Raises :class:`MemwardenError` when it cannot begin."""
    if sys.platform != "linux":
        raise SettingsError("map: needs Linux for now")
    settings = resolve(flags, os.environ)
    _check(wishes)
    if (program := Template(command, wishes.replace).program) is not None:
        resolve_command([program])
    inputs = _inputs(wishes)
    tally = Tally(inputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals())
        scratch = stack.enter_context(StagingDirectory(_folder(wishes.output_dir)))
        manifest = None
        if wishes.results is not None:
            manifest = stack.enter_context(Manifest(wishes.results, command, resume=wishes.resume))
            tally.left_out = (Counter(inputs) & manifest.done).total()
        from multiprocessing import get_context  # not on a system without processes to fork

        progress = BatchProgress(len(inputs), lambda: (tally.left_out + tally.ended, tally.failed))
        stack.callback(progress.close)
        executor = BudgetedExecutor(
            wishes.workers,
            budget=settings.limit,
            mp_context=get_context("fork"),  # nobody but our only thread is there when it forks
            attempts=ATTEMPTS if wishes.attempts is None else wishes.attempts,
            ledger=wishes.ledger,
            cgroup=settings.cgroup,
            name="map",
            progress=False if settings.quiet else progress.show,
        )
        results = run_commands(
            command,
            inputs,
            executor=executor,
            manifest=manifest,
            output=wishes.output_dir,
            scratch=scratch.path,
            kind=wishes.kind,
            reserve=wishes.reserve,
            size_of=_SIZES[wishes.size_of],
            replace=wishes.replace,
            fail_fast=wishes.fail_fast,
        )
        try:
            with executor, contextlib.closing(results):
                for result in results:
                    with progress.hidden():
                        if wishes.output_dir is None:
                            _pass_on(result, wishes.tag)
                        if result.state != "done":
                            _say(f"{render.printable(result.input)}: {render.printable(result.why)}")
                    tally.take(result)
        except _Stopped as stopped:
            tally.stopped = signal.Signals(stopped.number)
        except BrokenPipeError:  # nobody reads any more
            tally.stopped = signal.SIGPIPE
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's end complains
        except BrokenExecutor as error:
            raise ActionFailed(f"the workers cannot go on: {error}") from None
    report = executor.report()
    for path in wishes.reports:
        save_report(report, path)
    if wishes.as_json:
        _say_json(_summary(command, tally, report, wishes))
    elif not settings.quiet:
        _say(tally.text(report))
    return tally.exit_code


class Tally:
    """What came of the inputs until now."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = len(inputs)
        #: Done already, as the results of an earlier time say.
        self.left_out = 0
        self.states: Counter[str] = Counter()
        self.stopped: signal.Signals | None = None

    def take(self, result: CommandResult) -> None:
        """Take in a result."""
        self.states[result.state] += 1

    @property
    def ended(self) -> int:
        """Inputs that came to an end, well or not."""
        return self.states.total()

    @property
    def failed(self) -> int:
        """Inputs that came to a bad end."""
        return self.ended - self.states["done"]

    @property
    def not_ended(self) -> int:
        """Inputs that did not begin, or were ended when all was."""
        return self.inputs - self.left_out - self.ended

    @property
    def exit_code(self) -> int:
        """0: all is done; 1: something is not; 128+N: stopped by signal N."""
        if self.stopped is not None:
            return 128 + self.stopped
        return 1 if self.failed or self.not_ended else 0

    def text(self, report: BatchReport) -> str:
        """In words, on one line."""
        if not self.inputs:
            return "no inputs"
        said = [f"{self.left_out + self.states['done']} of {self.inputs} done"]
        if self.left_out:
            said[0] += f" ({self.left_out} earlier)"
        if self.failed:
            said.append(f"{self.failed} failed")
        if self.not_ended:
            said.append(f"{self.not_ended} not done")
        if self.stopped is not None:
            said.append(f"stopped by {self.stopped.name}")
        if self.ended:
            said.append(f"in {render.seconds(report.makespan)}")
        if report.most_running:  # else it was over before anybody looked
            used = f"{render.size(report.peak_used)} of {render.size(report.budget)}"
            said.append(f"at most {report.most_running} at once and {used}")
        if report.requeues:
            said.append(f"{report.requeues} put back")
        return ", ".join(said)


def _summary(command: Sequence[str], tally: Tally, report: BatchReport, wishes: MapOptions) -> dict[str, Any]:
    batch = report.as_dict()
    del batch["points"]
    return {
        "schema": 1,
        "type": "map",
        "command": list(command),
        "inputs": tally.inputs,
        "left_out": tally.left_out,
        "done": tally.states["done"],
        "failed": tally.failed,
        "not_ended": tally.not_ended,
        "states": dict(tally.states),
        "stopped": None if tally.stopped is None else tally.stopped.name,
        "exit_code": tally.exit_code,
        "results": wishes.results,
        "batch": batch,
    }


# --- what goes in -----------------------------------------------------------------------------------------


def _check(wishes: MapOptions) -> None:
    """What does not go together, before anything begins."""
    if wishes.resume and wishes.results is None:
        raise SettingsError("--resume: needs --results FILE, where what is done is kept")
    if wishes.tag and wishes.output_dir is not None:
        raise SettingsError("--tag: nothing is printed with --output-dir; leave one of them out")
    if wishes.replace == "":
        raise SettingsError("--replace: must not be empty")
    for path in wishes.reports:
        if report_format(path) in ("svg", "png"):
            require_matplotlib()
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise RecordError(f"--report {path}: there is no folder {folder}", path=path)


def _inputs(wishes: MapOptions) -> list[str]:
    """All of them: read to the end before the first begins."""
    found: list[str] = []
    name = wishes.inputs
    if name is None and not wishes.globs:
        if sys.stdin.isatty():
            raise SettingsError("no inputs; pipe them in, one a line, or use --inputs FILE or --glob PATTERN")
        name = "-"
    if name is not None:
        try:
            if name == "-":
                data = sys.stdin.buffer.read()
            else:
                with open(name, "rb") as file:
                    data = file.read()
        except OSError as error:
            raise SettingsError(f"--inputs {name}: {error.strerror or error}") from None
        if not wishes.null and b"\0" in data:
            raise SettingsError("the inputs are separated by NUL characters; say --null")
        found += [os.fsdecode(each) for each in data.split(b"\0" if wishes.null else b"\n") if each]
    for pattern in wishes.globs:
        # A name that begins with a dash would be taken for an option.
        found += [f"./{each}" if each.startswith("-") else each for each in sorted(glob.glob(pattern, recursive=True))]
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return abs(number) if math.isfinite(number) else None


_SIZES: dict[str, Callable[[str], float | None]] = {"bytes": input_bytes, "number": _number, "none": lambda text: None}


def _folder(output: str | None) -> str:
    """Where output grows."""
    if output is None:
        return tempfile.gettempdir()
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise RecordError(f"--output-dir {output}: {error.strerror or error}", path=output) from None
    return output


# --- what comes out ---------------------------------------------------------------------------------------


def _pass_on(result: CommandResult, tag: bool) -> None:
    """A command's output, whole."""
    mark = os.fsencode(render.printable(result.input)) + b"\t" if tag else None
    for path, stream in ((result.output, sys.stdout.buffer), (result.errors, sys.stderr.buffer)):
        if path is not None:
            with open(path, "rb") as file:
                _copy(file, stream, mark)
            stream.flush()
            os.unlink(path)


def _copy(file: BinaryIO, stream: BinaryIO, mark: bytes | None) -> None:
    if mark is None:
        while part := file.read(_PART):
            stream.write(part)
        return
    begins = True
    while part := file.readline(_PART):  # a line may have no end
        stream.write(mark + part if begins else part)
        begins = part.endswith(b"\n")
    if not begins:
        stream.write(b"\n")


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"memwarden map: {text}", file=sys.stderr, flush=True)


def _say_json(value: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(json.dumps(value, separators=(",", ":"), allow_nan=False), file=sys.stderr, flush=True)


# --- the end ----------------------------------------------------------------------------------------------


class _Stopped(KeyboardInterrupt):
    """A signal asks to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end it: once, so that nothing disturbs what comes then to the very end."""
    before: dict[int, Any] = {}
    own = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # who was forked from us ends as if we had never asked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        before.clear()
        raise _Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and a shell's background job, mean it
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
