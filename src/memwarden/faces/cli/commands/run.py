"""``memwarden run``: start a command, limit its memory, report."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memwarden.contain.contained_process import ContainedProcess, popen
from memwarden.contain.kernel import become_subreaper
from memwarden.contain.launcher import inheritable_descriptors
from memwarden.contain.launcher import resolve as resolve_command
from memwarden.engine.warden import Warden
from memwarden.errors import RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.configured_actions import recorder_of
from memwarden.faces.cli.live.terminal import LiveLine, Signals, Terminal
from memwarden.faces.cli.reports.run_history import Groups, RunHistory
from memwarden.faces.cli.reports.run_report import RunReport, as_dict, as_text, share_of
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Limit
from memwarden.model.units import parse_size
from memwarden.model.verdicts import Reading
from memwarden.policy.rules import Rule
from memwarden.protocols import Recorder
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.tree import TreeReader
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.paths import make_private, prune, state_directory
from memwarden.settings import Settings, resolve

if TYPE_CHECKING:
    from memwarden.records.sqlite import SqliteRecorder

#: The rule of a run: the record then shows when pressure was high, and for how long.
RULES = (Rule(name="pressure", when="level >= HIGH", then="notify", sustain=0.0, rest=60.0),)


def run(command: Sequence[str], flags: Mapping[str, Any], *, as_json: bool) -> int:
    """Run a command; return the exit code. Raises :class:`MemwardenError` if it cannot be started."""
    if sys.platform != "linux":
        raise SettingsError(f"run: needs Linux, this is {sys.platform}; `memwarden.watch()` and `Warden` work here")
    settings = resolve(flags, os.environ)
    effective = _effective_limit()
    limit = None
    if settings.limit is not None:
        of = None if effective is None else effective.bytes
        try:
            limit = Limit(parse_size(settings.limit, of=of), "--limit")
        except SettingsError as error:  # a percentage that needs the effective limit
            raise SettingsError(f"{settings.sources['limit'].where}: {error}") from None
    resolve_command(command)  # a command that does not exist gets no record
    recorder, no_record = _open_record(settings, command)

    signals, terminal = Signals(), Terminal()
    init = os.getpid() == 1
    adopts = become_subreaper() or init
    process = popen(
        command,
        limit=limit,
        ceiling=settings.ceiling,
        cgroup=settings.cgroup,
        grace=settings.grace,
        adopt=adopts,
        terminate_orphans=init,
        on_exit=signals.wake,
        blocked=[int(number) for number in signals.before],
        pass_fds=inheritable_descriptors(),
    )
    live = LiveLine()
    history, warden = _watch(process, settings, limit, recorder, adopts)
    if no_record:
        history.troubles.append(no_record)
    if settings.live:
        warden.subscribe(lambda event: live.show(_live_text(event, limit)) if event.kind is EventKind.SAMPLE else None)
        live.resize()
    with warden:
        ended = signals.wait(process, live.resize if settings.live else lambda: None)
        if ended.evidence is not None and limit is not None:
            history.reached(ended.evidence, limit)
        report = RunReport(
            command=command,
            exit=ended,
            history=history,
            effective=effective,
            refused=process.refused,
            record="" if recorder is None else recorder.path,
        )
        _record(warden, report)
    if settings.live:
        live.stop()
    terminal.restore()
    _leave_message(settings, init, report)
    if not settings.quiet:
        _print(report, as_json)
    return report.exit_code


def _effective_limit() -> Limit | None:
    warden = Warden()
    effective = warden.sample().assessment.effective
    warden.close()
    return effective


def _watch(
    process: ContainedProcess, settings: Settings, limit: Limit | None, recorder: Recorder | None, adopts: bool
) -> tuple[RunHistory, Warden]:
    tree = TreeReader(process.pid, adopter=os.getpid() if adopts else None, strangers=process.helpers)
    history = RunHistory(tree, time.monotonic)
    warden = Warden(
        [MeminfoReader(), history, Groups(CgroupReader(process.pid), limit if process.ceiling == "cgroup2" else None)],
        interval=settings.interval,
        rules=RULES,
        recorders=[] if recorder is None else [recorder],
        # A control group of the command has the limit in its files already.
        asked=limit if process.ceiling == "polling" else None,
        eager=True,
        # The guard thread enforces the limit; this warden samples for the report and the record.
        shortest=0.01 if limit is None else 0.05,
    )
    warden.subscribe(history.receive)
    return history, warden


def _open_record(settings: Settings, command: Sequence[str]) -> tuple[JsonlRecorder | SqliteRecorder | None, str]:
    """Return a recorder that has written its first event, and the reason if there is none.

    A requested record that cannot be written is an error before anything is started. The default record falls back
    to the temporary directory, or is left out.
    """
    start = Event(
        kind=EventKind.START,
        wall=time.time(),
        monotonic=time.monotonic(),
        message=f"running {shlex.join(command)}",
        details={"command": list(command)},
    )
    if settings.record is not None:
        recorder = recorder_of(settings.record)
        try:
            recorder.record(start)
        except RecordError as error:
            raise SettingsError(f"{settings.sources['record'].where}: {error}") from None
        return recorder, ""
    program = re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.basename(command[0]))[:40] or "command"
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{program}-{os.getpid()}.jsonl"
    trouble = ""
    for folder in (os.path.join(state_directory(), "runs"), os.path.join(state_directory({}), "runs")):
        if trouble := make_private(folder):
            continue
        prune(folder)
        recorder = JsonlRecorder(os.path.join(folder, name))
        try:
            recorder.record(start)
            return recorder, ""
        except RecordError as error:
            trouble = str(error)
    return None, trouble


def _record(warden: Warden, report: RunReport) -> None:
    warden.publish(
        Event(
            kind=EventKind.EXIT,
            wall=time.time(),
            monotonic=time.monotonic(),
            message=report.verdict(),
            value=report.exit,
            details=as_dict(report),
        )
    )


def _live_text(event: Event, limit: Limit | None) -> str:
    reading = event.value
    assert isinstance(reading, Reading)
    used, assessment = reading.sample.used or 0, reading.assessment
    share = f"  {assessment.level.name} {share_of(assessment)}"
    of = f" of {render.limit(limit.bytes)}" if limit is not None else ""
    members = len(reading.sample.tree.keys) if reading.sample.tree is not None else 0
    return f"memwarden {render.clock(event.wall)}  {render.size(used)}{of}  {members} processes{share}"


def _leave_message(settings: Settings, init: bool, report: RunReport) -> None:
    """Write the verdict for Kubernetes, which reads at most 4096 bytes of /dev/termination-log."""
    path = settings.termination_log
    if path is None:
        path = "/dev/termination-log"
        if not init or not os.path.exists(path):
            return
    peak, _ = report.peak
    message = f"memwarden: {report.verdict()}; peak {render.size(peak)}; exit code {report.exit_code}\n"
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(message[:4096])
    except OSError as error:
        print(f"memwarden run: {path}: {error.strerror}; the verdict was not written", file=sys.stderr)


def _print(report: RunReport, as_json: bool) -> None:
    stream = sys.stderr
    with contextlib.suppress(OSError, ValueError):  # standard error is closed
        if as_json:
            print(json.dumps(as_dict(report), separators=(",", ":")), file=stream)
        else:
            print(as_text(report, colour=render.wants_colour(stream), blocks=render.can_draw(stream)), file=stream)
        stream.flush()
