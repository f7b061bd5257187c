"""``memwarden map``: run a command for each of many inputs, as many at once as the memory allows."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import signal
import sys
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
from memwarden.guards.resources.managed import managed_temp_directory
from memwarden.settings import resolve

_PART = 1 << 16


class MapOptions(NamedTuple):
    """Options of the command, apart from those of the option table."""

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


def perform(command: Sequence[str], flags: Mapping[str, Any], options: MapOptions) -> int:
    """Run the command for each input; return the exit code. Raises :class:`MemwardenError` if it cannot start."""
    if sys.platform != "linux":
        raise SettingsError("map: needs Linux for now")
    settings = resolve(flags, os.environ)
    _check(options)
    if (program := Template(command, options.replace).program) is not None:
        resolve_command([program])
    inputs = _inputs(options)
    tally = Tally(inputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals())
        staging = _staging(stack, options.output_dir)
        manifest = None
        if options.results is not None:
            manifest = stack.enter_context(Manifest(options.results, command, resume=options.resume))
            tally.skipped = (Counter(inputs) & manifest.done).total()
        from multiprocessing import get_context  # not on a system without fork

        progress = BatchProgress(len(inputs), lambda: (tally.skipped + tally.finished, tally.failed))
        stack.callback(progress.close)
        executor = BudgetedExecutor(
            options.workers,
            budget=settings.limit,
            mp_context=get_context("fork"),  # this process has a single thread when it forks
            attempts=ATTEMPTS if options.attempts is None else options.attempts,
            ledger=options.ledger,
            cgroup=settings.cgroup,
            name="map",
            progress=False if settings.quiet else progress.show,
        )
        results = run_commands(
            command,
            inputs,
            executor=executor,
            manifest=manifest,
            output=options.output_dir,
            staging=staging,
            kind=options.kind,
            reserve=options.reserve,
            size_of=_SIZES[options.size_of],
            replace=options.replace,
            fail_fast=options.fail_fast,
        )
        try:
            with executor, contextlib.closing(results):
                for result in results:
                    with progress.hidden():
                        if options.output_dir is None:
                            _print_output(result, options.tag)
                        if result.state != "done":
                            _log(f"memwarden map: {render.printable(f'{result.input}: {result.reason}')}")
                    tally.add(result)
        except _Stopped as stopped:
            tally.stopped = signal.Signals(stopped.number)
        except BrokenPipeError:  # the reader has gone
            tally.stopped = signal.SIGPIPE
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports an error at its exit
        except BrokenExecutor as error:
            raise ActionFailed(f"the workers failed: {error}") from None
    report = executor.report()
    for path in options.reports:
        save_report(report, path)
    if options.as_json:
        summary = _summary(command, tally, report, options)
        _log(json.dumps(summary, separators=(",", ":"), allow_nan=False))
    elif not settings.quiet:
        _log(f"memwarden map: {tally.text(report)}")
    return tally.exit_code


class Tally:
    """Counts of results."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = len(inputs)
        #: Done in an earlier run.
        self.skipped = 0
        self.states: Counter[str] = Counter()
        self.stopped: signal.Signals | None = None

    def add(self, result: CommandResult) -> None:
        """Count a result."""
        self.states[result.state] += 1

    @property
    def finished(self) -> int:
        """Return the inputs with a result, good or bad."""
        return self.states.total()

    @property
    def failed(self) -> int:
        """Return the inputs that failed."""
        return self.finished - self.states["done"]

    @property
    def not_run(self) -> int:
        """Return the inputs without a result: not started, or stopped with the batch."""
        return self.inputs - self.skipped - self.finished

    @property
    def exit_code(self) -> int:
        """Return 0 if all is done, 1 if something is not, 128+N if signal N stopped it."""
        if self.stopped is not None:
            return 128 + self.stopped
        return 1 if self.failed or self.not_run else 0

    def text(self, report: BatchReport) -> str:
        """Return a summary on one line."""
        if not self.inputs:
            return "no inputs"
        parts = [f"{self.skipped + self.states['done']} of {self.inputs} done"]
        if self.skipped:
            parts[0] += f" ({self.skipped} earlier)"
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.not_run:
            parts.append(f"{self.not_run} not done")
        if self.stopped is not None:
            parts.append(f"stopped by {self.stopped.name}")
        if self.finished:
            parts.append(f"in {render.seconds(report.makespan)}")
        if report.most_running:  # else it ended before the first sample
            used = f"{render.size(report.peak_used)} of {render.size(report.budget)}"
            parts.append(f"at most {report.most_running} at once and {used}")
        if report.requeues:
            parts.append(f"{report.requeues} requeued")
        return ", ".join(parts)


def _summary(command: Sequence[str], tally: Tally, report: BatchReport, options: MapOptions) -> dict[str, Any]:
    batch = report.as_dict()
    del batch["points"]
    return {
        "schema": 1,
        "type": "map",
        "command": list(command),
        "inputs": tally.inputs,
        "skipped": tally.skipped,
        "done": tally.states["done"],
        "failed": tally.failed,
        "not_run": tally.not_run,
        "states": dict(tally.states),
        "stopped": None if tally.stopped is None else tally.stopped.name,
        "exit_code": tally.exit_code,
        "results": options.results,
        "batch": batch,
    }


# --- inputs -----------------------------------------------------------------------------------------


def _check(options: MapOptions) -> None:
    """Check what options need, before anything starts."""
    if options.resume and options.results is None:
        raise SettingsError("--resume: needs --results FILE, which holds what is done")
    if options.tag and options.output_dir is not None:
        raise SettingsError("--tag: nothing is printed with --output-dir; use one of them")
    if options.replace == "":
        raise SettingsError("--replace: must not be empty")
    for path in options.reports:
        if report_format(path) in ("svg", "png"):
            require_matplotlib()
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise RecordError(f"--report {path}: there is no folder {folder}; make it first", path=path)


def _inputs(options: MapOptions) -> list[str]:
    """Return all inputs; they are read to the end before the first command starts."""
    found: list[str] = []
    name = options.inputs
    if name is None and not options.globs:
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
        if not options.null and b"\0" in data:
            raise SettingsError("the inputs are separated by NUL characters; add --null")
        found += [os.fsdecode(each) for each in data.split(b"\0" if options.null else b"\n") if each]
    for pattern in options.globs:
        # A name that starts with a dash would be taken for an option.
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise SettingsError(f"--glob {pattern}: no file matches; quote the pattern, and see where it starts from")
        found += [f"./{each}" if each.startswith("-") else each for each in matches]
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return abs(number) if math.isfinite(number) else None


_SIZES: dict[str, Callable[[str], float | None]] = {"bytes": input_bytes, "number": _number, "none": lambda text: None}


def _staging(stack: contextlib.ExitStack, output: str | None) -> str:
    """Return a temporary folder for incomplete output, in the folder of the complete one."""
    try:
        if output is not None:
            os.makedirs(output, exist_ok=True)
        return stack.enter_context(managed_temp_directory(prefix=".memwarden-map-", directory=output))
    except OSError as error:
        where = "temporary folder" if output is None else f"--output-dir {output}"
        raise RecordError(f"{where}: {error.strerror or error}; no output can be written", path=output or "") from None


# --- output ---------------------------------------------------------------------------------------


def _print_output(result: CommandResult, tag: bool) -> None:
    """Print the complete output of a command."""
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
    at_start = True
    while part := file.readline(_PART):  # a line may have no end
        stream.write(mark + part if at_start else part)
        at_start = part.endswith(b"\n")
    if not at_start:
        stream.write(b"\n")


def _log(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


# --- signals ----------------------------------------------------------------------------------------------


class _Stopped(KeyboardInterrupt):
    """A signal stops the batch."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Stop at the first Ctrl-C, SIGTERM or SIGHUP; later ones are ignored, so that nothing interrupts the cleanup."""
    before: dict[int, Any] = {}
    own = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # a forked child ends as without this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        before.clear()
        raise _Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, and in a shell's background job
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
