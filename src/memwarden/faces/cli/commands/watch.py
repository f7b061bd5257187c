"""``memwarden watch``: a live view on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from memwarden.engine.warden import Warden
from memwarden.errors import RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.configured_actions import actions_of, recorder_of, rules_of
from memwarden.faces.cli.live import plain_output
from memwarden.faces.cli.live.target import Target, find, machine, named, processes
from memwarden.faces.cli.live.tui import Inbox, Output, Screen
from memwarden.faces.cli.live.watch_state import WatchState
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.exits import ExitReason, ExitReport
from memwarden.model.serialize import to_json
from memwarden.policy.presets import EMERGENCY
from memwarden.policy.rules import Rule
from memwarden.protocols import Recorder
from memwarden.readers.multi_tree import EndedTree
from memwarden.readers.nvidia import NvidiaReader
from memwarden.settings import Settings, SettingsReloader, resolve

#: Default seconds between two readings, and the maximum in a live view.
INTERVAL = 1.0
#: Minimum seconds between two samples, however fast memory fills: a watch enforces nothing.
_SHORTEST = 0.1
#: Seconds between two checks of the settings file.
_RULES_SECONDS = 1.0
#: Maximum wait for the parent of an ended process to reap it.
_REAP_SECONDS = 0.5


class NotPerformed:
    """Action that a watch does not run: only the program itself can. ``notify`` is done by the printed decision."""

    harms = False

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, decision: Decision) -> Outcome:
        done = self.name == "notify"
        return Outcome(decision=decision, done=done, message="shown" if done else "not run: watch only observes")


def watch(
    flags: Mapping[str, Any], pids: Sequence[int], name: str | None, *, gpu: bool, as_json: bool, dry_run: bool
) -> int:
    """Watch until the time is over, a signal arrives, or no process is left; return the exit code.

    Raises :class:`MemwardenError` for bad settings, a record that cannot be written, and a missing extra.
    """
    settings = resolve(flags, os.environ)
    if pids and name is not None:
        raise SettingsError("--pid and --name exclude each other; give one")
    if name is not None and not name.strip():
        raise SettingsError("--name is empty; give a part of a name or command line")
    if pids:
        target = processes(pids)
        title = f"pid {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
    elif name is not None:
        target, title = named(name), f'"{render.printable(name)}"'
    else:
        target, title = machine(), "this machine"
    if gpu or any(rule.condition.metric.startswith("gpu.") for rule in rules_of(settings)[1]):
        target.readers += (NvidiaReader(),)
    if missing := _missing(target, pids, name):
        for reader in target.readers:
            reader.close()
        print(f"memwarden watch: {missing}", file=sys.stderr)
        return 1
    drawn = not as_json and render.wants_colour(sys.stdout)
    return _Session(settings, flags, target, title, drawn=drawn, as_json=as_json, dry_run=dry_run).run()


def _missing(target: Target, pids: Sequence[int], name: str | None) -> str:
    """Return the message for a named process that was not found, else ""."""
    if target.trees is None:
        return ""
    if name is not None:
        return find(target, f"no process has {name!r} in its name or command line")
    message = "--pid {}: no process with memory of its own has this pid"
    trouble = find(target, message.format(pids[0]))
    found = {key.pid for key in target.trees.tree.keys} if target.trees.tree is not None else set()
    return trouble or next((message.format(pid) for pid in pids if pid not in found), "")


def open_record(settings: Settings, message: str) -> Recorder | None:
    """Return a recorder that has written its first event. Raises :class:`SettingsError` where it cannot."""
    if settings.record is None:
        return None
    recorder = recorder_of(settings.record, every_sample=True)  # an exact replay needs every sample
    try:
        recorder.record(Event(EventKind.START, time.time(), time.monotonic(), message))
    except RecordError as error:
        raise SettingsError(f"{settings.sources['record'].where}: {error}") from None
    return recorder


class _Session:
    """One watch, from its first reading to its end."""

    def __init__(
        self,
        settings: Settings,
        flags: Mapping[str, Any],
        target: Target,
        title: str,
        *,
        drawn: bool,
        as_json: bool,
        dry_run: bool,
    ) -> None:
        self._flags, self._duration, self._target, self._title = flags, settings.duration, target, title
        self._as_json, self._screen = as_json, Screen(self._draw) if drawn else None
        interval = rules_of(settings, INTERVAL)[0]
        if drawn and settings.sources["interval"].kind == "default":
            interval = min(interval, INTERVAL)
        self._state, self._inbox, self._output = WatchState(interval), Inbox(), Output("watch")
        self._reason = ""  # why the watch stops, as a sentence
        recorder = open_record(settings, f"watching {title}")
        self._warden = Warden(
            target.readers,
            interval=interval,
            actions=[*map(NotPerformed, ("notify", *EMERGENCY)), *actions_of(settings)],
            recorders=[] if recorder is None else [recorder],
            shortest=min(interval, _SHORTEST),
            dry_run=dry_run,
        )
        self._warden.subscribe(self._inbox.put)
        self._reloader: SettingsReloader[tuple[Rule, ...]] | None = None
        if settings.config is not None:
            self._reloader = SettingsReloader(settings.config, self._load_rules)
        elif rules := rules_of(settings)[1]:
            self._warden.use_rules(rules)
        self._rules_due = time.monotonic() + _RULES_SECONDS

    def _load_rules(self, path: str) -> tuple[Rule, ...]:
        _, rules = rules_of(resolve({**self._flags, "config": path}, os.environ))
        if rules or self._warden.rules:
            self._warden.use_rules(rules)
        return rules

    def run(self) -> int:
        """Watch until the end; return the exit code."""
        screen = self._screen
        with self._output:
            with self._inbox.signals(drawn=screen is not None), contextlib.ExitStack() as stack:
                if screen is not None:
                    stack.enter_context(screen)
                elif not self._as_json:
                    self._output.print(plain_output.header())
                stack.enter_context(self._warden)
                self._loop()
            for event in self._inbox.drain():  # events of the warden's stop
                self._handle(event)
            if screen is not None:
                last = self._draw(screen.width, 24, final=True)
                screen.print([*last, *([[(self._reason, "")]] if self._reason else [])])
            elif self._reason and not self._as_json:
                self._output.print(f"{render.clock(time.time())} event end: {self._reason}")
        return self._output.code

    def _loop(self) -> None:
        end = None if self._duration is None else time.monotonic() + self._duration
        while not self._reason:
            now = time.monotonic()
            wait = self._rules_due - now
            if end is not None:
                if now >= end:
                    self._reason = f"watched for {render.seconds(self._duration or 0.0)}"
                    return
                wait = min(wait, end - now)
            item = self._inbox.get(wait)
            if isinstance(item, Event):
                self._handle(item)
                if self._screen is not None and not self._inbox.pending:
                    self._screen.refresh()
            elif item is not None and (self._screen is None or not self._screen.handle(item)):
                if item != signal.SIGINT:
                    self._reason = f"stopped by {signal.Signals(item).name}"
                return
            if time.monotonic() >= self._rules_due:
                self._rules_due = time.monotonic() + _RULES_SECONDS
                if self._reloader is not None and self._reloader.check() and self._reloader.error:
                    self._report(EventKind.TROUBLE, f"{self._reloader.error}; the rules stay as they were")

    def _handle(self, event: Event) -> None:
        reading = event.value if event.kind is EventKind.SAMPLE else None
        if reading is not None:
            self._state.add(reading)
        else:
            self._state.events.append(event)
        if self._as_json:
            self._output.print(to_json(event if reading is None else reading))
        elif self._screen is None:
            line = plain_output.event_line(event) if reading is None else plain_output.line(self._state, reading)
            if line is not None:
                self._output.print(line)
        if reading is not None:
            self._report_exits()

    def _report_exits(self) -> None:
        trees = self._target.trees
        if trees is None:
            return
        until = time.monotonic() + _REAP_SECONDS  # for all of them: the view must not freeze for long
        while trees.ended:
            end = trees.ended.pop(0)
            status = _status(end, until)
            end.exit.close()
            message = f"{end.name}[{end.key.pid}] {_exit_text(status)}"
            if end.left:
                message += f"; {end.left} of its tree still run{'s' if end.left == 1 else ''}"
            self._report(EventKind.EXIT, message, _exit_report(status, self._state.seconds))
            if trees.tree is None and self._target.ends:
                self._reason = render.printable(message)
        if trees.tree is None and self._target.ends and not self._reason and not trees.roots:
            self._reason = "no watched process is left"

    def _report(self, kind: EventKind, message: str, value: object = None) -> None:
        self._warden.publish(Event(kind, time.time(), time.monotonic(), message, value))

    def _draw(self, width: int, height: int, final: bool = False) -> Any:
        from memwarden.faces.cli.live.dashboard import view

        return view(self._state, self._name(), width, height, blocks=render.can_draw(sys.stdout), final=final)

    def _name(self) -> str:
        """Return the title; for a single pid with the process's name."""
        reading = self._state.reading
        process = None if reading is None else reading.sample.process
        if process is None or not self._target.ends:
            return self._title
        return f"{render.printable(process.name)}[{process.key.pid}]"


def _status(end: EndedTree, until: float) -> int | None:
    """Return the exit status; wait for the parent to reap the process."""
    while (status := end.exit.status()) is None and time.monotonic() < until:
        time.sleep(0.02)
    return status


def _exit_text(status: int | None) -> str:
    if status is None:
        return "ended; its exit status is not known"
    if status >= 0:
        return f"exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}{', which the kernel also sends when memory runs out' if status == -9 else ''}"


def _exit_report(status: int | None, seconds: float) -> ExitReport | None:
    if status is None:
        return None
    if status >= 0:
        return ExitReport(reason=ExitReason.EXITED, exit_code=status, signal=None, seconds=seconds)
    return ExitReport(reason=ExitReason.SIGNALED, exit_code=None, signal=-status, seconds=seconds)
