"""``memwarden watch``: look on, live on a terminal, in lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memwarden.engine.warden import Warden
from memwarden.errors import RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.configured_actions import actions_of, recorder_of, rules_of
from memwarden.faces.cli.live import plain_output
from memwarden.faces.cli.live.screen import Inbox, Output, Screen
from memwarden.faces.cli.live.target import Target, machine, must_be_there, named, processes
from memwarden.faces.cli.live.watch_state import WatchState
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.exits import ExitReason, ExitReport
from memwarden.model.fast_json import to_json
from memwarden.policy.presets import EMERGENCY
from memwarden.policy.rules import Rule
from memwarden.protocols import Recorder
from memwarden.readers.multi_tree import End
from memwarden.readers.nvidia import NvidiaReader
from memwarden.settings import Settings, SettingsReloader, resolve

if TYPE_CHECKING:
    pass

#: Seconds between two readings where nobody says otherwise, and at most where a person looks on.
INTERVAL = 1.0
#: However fast memory fills, a watch looks no more often: it only tells.
_SHORTEST = 0.1
#: How often the settings file is looked at.
_RULES_SECONDS = 1.0
#: How long a process that has ended may wait for its parent to take note of it.
_REAP_SECONDS = 0.5


class Tell:
    """The action ``notify`` here: whoever looks on has been told by the decision itself."""

    name, harms = "notify", False

    def run(self, decision: Decision) -> Outcome:
        return Outcome(decision=decision, done=True, message="told")


class Elsewhere:
    """An action that only the program itself can do; here it is only said."""

    harms = False

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, decision: Decision) -> Outcome:
        return Outcome(decision=decision, done=False, message="not done: a watch only looks on")


def watch(
    flags: Mapping[str, Any], pids: Sequence[int], name: str | None, *, gpu: bool, as_json: bool, dry_run: bool
) -> int:
    """Watch until the time is over, somebody ends it, or nobody is left; returns the exit code.

    Raises :class:`MemwardenError` for settings that cannot be understood, for a record that cannot be written, and
    where cards are asked for and the package that reads them is missing.
    """
    settings = resolve(flags, os.environ)
    if pids and name is not None:
        raise SettingsError("--pid, --name: choose one of the two")
    if name is not None and not name.strip():
        raise SettingsError("--name: is empty; write a part of a name or of a command line")
    if pids:
        subject = processes(pids)
        title = f"pid {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
    elif name is not None:
        subject, title = named(name), f'"{render.printable(name)}"'
    else:
        subject, title = machine(), "this machine"
    if gpu or any(rule.condition.measure.startswith("gpu.") for rule in rules_of(settings)[1]):
        subject.add(NvidiaReader())
    if subject.forest is not None and (missing := _missing(subject, pids, name)):
        for reader in subject.readers:
            reader.close()
        print(f"memwarden watch: {missing}", file=sys.stderr)
        return 1
    drawn = not as_json and render.wants_colour(sys.stdout)
    return _Session(settings, flags, subject, title, drawn=drawn, as_json=as_json, dry_run=dry_run).run()


def _missing(subject: Target, pids: Sequence[int], name: str | None) -> str:
    """What to say where not everybody who was named is there."""
    if name is not None:
        return must_be_there(subject, f"no process bears {name!r} in its name or command line")
    assert subject.forest is not None
    trouble = must_be_there(subject, f"--pid {pids[0]}: no process with memory of its own has this pid")
    there = {key.pid for key in subject.forest.tree.keys} if subject.forest.tree is not None else set()
    absent = [pid for pid in pids if pid not in there]
    if absent and not trouble:
        return f"--pid {absent[0]}: no process with memory of its own has this pid"
    return trouble


def _interval(settings: Settings, drawn: bool) -> float:
    interval, _ = rules_of(settings, INTERVAL)
    by_itself = settings.sources["interval"].kind == "default"
    return min(interval, INTERVAL) if drawn and by_itself else interval


def open_record(settings: Settings, message: str) -> Recorder | None:
    """A recorder that was tried. Raises :class:`SettingsError` where the record cannot be written."""
    if settings.record is None:
        return None
    recorder = recorder_of(settings.record, every_look=True)  # it can be replayed exactly then
    try:
        recorder.record(Event(EventKind.START, time.time(), time.monotonic(), message))
    except RecordError as error:
        raise SettingsError(f"{settings.sources['record'].where}: {error}") from None
    return recorder


class _Session:
    """One watch, from its first look to its end."""

    def __init__(
        self,
        settings: Settings,
        flags: Mapping[str, Any],
        subject: Target,
        title: str,
        *,
        drawn: bool,
        as_json: bool,
        dry_run: bool,
    ) -> None:
        self._settings, self._flags, self._subject, self._title = settings, flags, subject, title
        self._drawn, self._as_json = drawn, as_json
        interval = _interval(settings, drawn)
        self._course, self._inbox, self._output = WatchState(interval), Inbox(), Output("watch")
        self._over = ""  # the sentence that ends it
        recorder = open_record(settings, f"watching {title}")
        self._warden = Warden(
            subject.readers,
            interval=interval,
            actions=[Tell(), *map(Elsewhere, EMERGENCY), *actions_of(settings)],
            recorders=[] if recorder is None else [recorder],
            shortest=min(interval, _SHORTEST),
            dry_run=dry_run,
        )
        self._warden.subscribe(self._inbox.receive)
        self._watched: SettingsReloader[tuple[Rule, ...]] | None = None
        if settings.config is not None:
            self._watched = SettingsReloader(settings.config, self._put_in_force)
        elif rules := rules_of(settings)[1]:
            self._warden.use_rules(rules)
        self._rules_due = time.monotonic() + _RULES_SECONDS

    def _put_in_force(self, path: str) -> tuple[Rule, ...]:
        _, rules = rules_of(resolve({**self._flags, "config": path}, os.environ))
        if rules or self._warden.rules:
            self._warden.use_rules(rules)
        return rules

    def run(self) -> int:
        """Go on until the end; returns the exit code."""
        ends = None if self._settings.duration is None else time.monotonic() + self._settings.duration
        screen = Screen(self._draw) if self._drawn else None
        with self._output:
            with self._inbox.signals(drawn=self._drawn), contextlib.ExitStack() as stack:
                if screen is not None:
                    stack.enter_context(screen)
                elif not self._as_json:
                    self._output.print(plain_output.header())
                stack.enter_context(self._warden)
                self._follow(ends, screen)
            for event in self._inbox.rest():  # what was told while the warden stopped
                self._take(event)
            if screen is not None:
                screen.leave([*self._last(screen), *([[(self._over, "")]] if self._over else [])])
            elif self._over and not self._as_json:
                self._output.print(f"{render.clock(time.time())} event end: {self._over}")
        return self._output.code

    def _follow(self, ends: float | None, screen: Screen | None) -> None:
        while not self._over:
            now = time.monotonic()
            wait = self._rules_due - now
            if ends is not None:
                if now >= ends:
                    self._over = f"watched for {render.seconds(self._settings.duration or 0.0)}"
                    return
                wait = min(wait, ends - now)
            item = self._inbox.take(wait)
            if isinstance(item, Event):
                self._take(item)
                if screen is not None and not self._inbox.waits:
                    screen.show()
            elif item is not None and (screen is None or not screen.heed(item)):
                if item != signal.SIGINT:
                    self._over = f"ended by {signal.Signals(item).name}"
                return
            if time.monotonic() >= self._rules_due:
                self._rules_due = time.monotonic() + _RULES_SECONDS
                if self._watched is not None and self._watched.look() and self._watched.trouble:
                    self._tell(EventKind.TROUBLE, f"{self._watched.trouble}; the rules stay as they were")

    def _take(self, event: Event) -> None:
        if event.kind is EventKind.SAMPLE:
            self._course.take(event.value)
            if self._as_json:
                self._output.print(to_json(event.value))
            elif not self._drawn:
                self._output.print(plain_output.line(self._course, event.value))
            self._look_for_ends()
        else:
            self._course.events.append(event)
            if self._as_json:
                self._output.print(to_json(event))
            elif not self._drawn and (told := plain_output.event_line(event)) is not None:
                self._output.print(told)

    # --- ends -----------------------------------------------------------------------------------------

    def _look_for_ends(self) -> None:
        forest = self._subject.forest
        if forest is None:
            return
        until = time.monotonic() + _REAP_SECONDS  # for all of them: the view must not stand still for long
        while forest.ends:
            end = forest.ends.pop(0)
            status = _status(end, until)
            end.exit.close()
            sentence = f"{end.name}[{end.key.pid}] {_how(status)}"
            if end.left:
                sentence += f"; of its tree {end.left} {'live' if end.left > 1 else 'lives'} on"
            self._tell(EventKind.ENDING, sentence, _ending(status, self._course.seconds))
            if forest.tree is None and self._subject.ends:
                self._over = render.printable(sentence)
        if forest.tree is None and self._subject.ends and not self._over and not forest.roots:
            self._over = "nobody is left"

    def _tell(self, kind: EventKind, message: str, value: object = None) -> None:
        self._warden.tell(Event(kind, time.time(), time.monotonic(), message, value))

    # --- drawing --------------------------------------------------------------------------------------

    def _draw(self, width: int, height: int) -> Any:
        from memwarden.faces.cli.live.dashboard import view

        return view(self._course, self._name(), width, height, blocks=render.can_draw(sys.stdout))

    def _last(self, screen: Screen) -> Any:
        """The view that stays when the other screen is gone."""
        from memwarden.faces.cli.live.dashboard import view

        return view(self._course, self._name(), screen.width, 24, blocks=screen.blocks, full=True)

    def _name(self) -> str:
        """The title; where one process was named by its pid, with its name."""
        reading = self._course.reading
        process = None if reading is None else reading.sample.process
        if process is None or not self._subject.ends:
            return self._title
        return f"{render.printable(process.name)}[{process.key.pid}]"


def _status(end: End, until: float) -> int | None:
    """How it ended; its parent may still have to take note of it."""
    while (status := end.exit.status()) is None and time.monotonic() < until:
        time.sleep(0.02)
    return status


def _how(status: int | None) -> str:
    if status is None:
        return "has ended; how is not known"
    if status >= 0:
        return f"has ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}{', as the kernel does, too, when memory is short' if status == -9 else ''}"


def _ending(status: int | None, seconds: float) -> ExitReport | None:
    if status is None:
        return None
    if status >= 0:
        return ExitReport(kind=ExitReason.EXIT, code=status, signal=None, seconds=seconds)
    return ExitReport(kind=ExitReason.SIGNAL, code=None, signal=-status, seconds=seconds)
