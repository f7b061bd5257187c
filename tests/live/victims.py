"""Many random runs of ending and pausing, in a pid namespace of its own: ``victims.py RUNS SEED``.

Each run has a *spawner*: the parent of targets and bystanders, and their adversary. It kills a target, or what a
target forked, and gives the very same pid to a bystander (by ``ns_last_pid``): at moments of its own, and just
before or just after each check that the actions make. Targets fork, die, ignore SIGTERM, turn into daemons.

A process of a target holds the write end of its pipe: so what is left of a target is found whatever became
of it. A bystander ends itself when it gets any signal: so each one that was sent is seen.

One line of JSON for each run. This process is the first of its namespace: all others end with it.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from memwarden.actions.pause import Pause
from memwarden.actions.targets import Targets
from memwarden.actions.terminate import Terminate
from memwarden.errors import ActionFailed, ReadError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.identity import ProcProbe
from memwarden.readers.linux.process import read_stat

#: Kinds of targets.
KINDS = (
    "sleeper",
    "deaf",
    "tree",
    "forker",
    "deaf forker",
    "mortal",
    "orphaner",
    "daemoniser",
    "late daemoniser",
    "forks when asked",
    "forks when asked, and stays",
    "thread forks",
    "holds an essential one",
)
GRACE = 0.08
#: Folders of daemons, and of processes that a handler of SIGTERM forked.
DAEMON, ASKED = "/sys", "/dev"
_TICK = 0.01
_SIGNALS = (signal.SIGTERM, signal.SIGCONT, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)


def decision(**fields: Any) -> Decision:
    """A decision of the one rule here."""
    return Decision(rule="r", action="a", reason="", wall=0.0, monotonic=0.0, **fields)


def fork(body: Callable[[], object]) -> int:
    """A child that does this and nothing else."""
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def idle() -> NoReturn:
    """Nothing, for long."""
    while True:
        time.sleep(100)


def default_signals() -> None:
    """As a fresh program has them; children that end are not waited for."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def bystander() -> NoReturn:
    """Live until a signal comes, and report its sender."""
    os.closerange(3, 100)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    reply = signal.sigwaitinfo(_SIGNALS)
    print(f"bystander {os.getpid()} got signal {reply.si_signo} from pid {reply.si_pid}", file=sys.stderr, flush=True)
    os._exit(0)


# --- targets -------------------------------------------------------------------------------------------


def forker(chance: random.Random) -> NoReturn:
    """Forks children, and they fork: some die at once, some stay, one in a few is left as an orphan."""
    for _ in range(12):
        fork(lambda: (time.sleep(chance.choice((0, 0.005, 0.05, 100))), fork(idle) if chance.random() < 0.3 else 0))
        time.sleep(chance.random() * 0.01)
    idle()


def daemonise() -> None:
    """Two forks and a session of its own: nothing leads from its starter to it any more."""
    fork(lambda: (os.setsid(), os.chdir(DAEMON), fork(idle)))


def target(kind: str, chance: random.Random, essential: Callable[[int], None]) -> NoReturn:
    """The life of a target."""
    default_signals()
    if "deaf" in kind:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "tree":
        fork(lambda: (fork(lambda: (fork(idle), idle())), fork(idle), idle()))
    elif kind == "mortal":
        fork(idle)
        time.sleep(0.02 + chance.random() * 0.1)
        os._exit(0)
    elif kind == "orphaner":
        fork(lambda: fork(idle))
    elif kind == "daemoniser":
        daemonise()
    elif kind == "late daemoniser":
        time.sleep(chance.random() * 0.1)
        daemonise()
    elif kind.startswith("forks when asked"):
        stays = kind.endswith("stays")
        signal.signal(signal.SIGTERM, lambda *_: (os.chdir(ASKED), fork(idle), None if stays else os._exit(0)))
    elif kind == "thread forks":
        threading.Thread(target=lambda: (fork(idle), idle()), daemon=True).start()
    elif kind == "holds an essential one":
        essential(fork(bystander))
        fork(idle)
    elif "forker" in kind:
        forker(chance)
    idle()


# --- the spawner ---------------------------------------------------------------------------------------


class Born(NamedTuple):
    """A target as reported to the harness."""

    pid: int
    kind: str


class Spawner:
    """Parent and adversary; runs in a process of its own and reads commands from a pipe."""

    def __init__(self, chance: random.Random, asked: int, answers: int) -> None:
        self.chance, self.asked, self.answers = chance, asked, answers
        self.targets: list[int] = []
        self.untouchable: set[int] = set()
        self.buffer = b""

    def say(self, **what: Any) -> None:
        """One line to the harness."""
        os.write(self.answers, json.dumps(what).encode() + b"\n")

    def run(self, marks: list[int]) -> None:
        """Fork all processes, then follow commands, with random acts in between."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        chance = self.chance
        innocent = [fork(bystander) for _ in range(chance.randint(1, 3))]
        essentials: list[int] = []
        for mark in marks:
            kind, leads, seed = chance.choice(KINDS), chance.random() < 0.4, chance.random()
            reply, telling = os.pipe()

            def life(
                mark: int = mark, kind: str = kind, leads: bool = leads, seed: float = seed, telling: int = telling
            ) -> None:
                for other in {*marks, self.asked, self.answers} - {mark}:
                    os.close(other)
                if leads:
                    os.setsid()
                target(kind, random.Random(seed), lambda spared, to=telling: os.write(to, b"%d\n" % spared))

            pid = fork(life)
            self.targets.append(pid)
            if kind == "holds an essential one":
                essentials.append(int(os.read(reply, 100)))
            os.close(reply)
            os.close(telling)
            self.say(pid=pid, kind=f"{kind}, leads" if leads else kind)
        for mark in marks:
            os.close(mark)
        innocent.append(fork(bystander))
        self.say(innocent=innocent, essentials=essentials)
        self.untouchable.update(essentials)
        wild = chance.random() < 0.5
        while True:
            ready, _, _ = select.select([self.asked], [], [], chance.random() * 0.02 if wild else None)
            if ready:
                line = os.read(self.asked, 100)
                if not line:
                    return
                self.say(answer=True, **self.replace(int(line)))
            elif chance.random() < 0.1:
                pid = chance.choice(family(chance.choice(self.targets)) or [0])
                self.say(**self.replace(pid))

    def replace(self, pid: int) -> dict[str, Any]:
        """Kill it and give its pid to a bystander. Report whether it was killed, and the bystander if that went well.

        No process is replaced within 10 ms of its start: that is the resolution of start times.
        The pid of a session's leader is kept as long as the session has members.
        """
        if not pid or pid in self.untouchable:
            return {}
        try:
            if read_stat(pid).start + 2 > time.clock_gettime(time.CLOCK_BOOTTIME) / _TICK:
                return {}
            os.kill(pid, signal.SIGKILL)
        except (ReadError, ProcessLookupError):
            time.sleep(3 * _TICK)
        until = time.monotonic() + 0.1
        while os.path.exists(f"/proc/{pid}"):
            if time.monotonic() > until:
                return {"killed": pid}
        for _ in range(10):
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(pid - 1))
            born = fork(bystander)
            if born == pid:
                self.untouchable.add(pid)
                return {"killed": pid, "successor": [pid, read_stat(pid).start]}
            os.kill(born, signal.SIGKILL)
        return {"killed": pid}


def family(root: int) -> list[int]:
    """Its descendants now, itself first; found by parents, independently of what is tested."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                parents.setdefault(read_stat(name).ppid, []).append(int(name))
            except ReadError:
                continue
    found = [root] if os.path.exists(f"/proc/{root}") else []
    for pid in found:
        found += parents.get(pid, [])
    return found


# --- the harness ---------------------------------------------------------------------------------------


class Registered(NamedTuple):
    """A target that was registered, the pipe of its family, and its members that could not be found before."""

    kind: str
    key: ProcessKey
    pipe: int
    lost: set[int]


class Swapping(ProcProbe):
    """Around a few of its answers, the pid is given to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.swap: Callable[[int], None] = lambda pid: None

    def key_of(self, pid: int) -> ProcessKey:
        """Before and after."""
        self.swap(pid)
        key = super().key_of(pid)
        self.swap(pid)
        return key

    def alive(self, key: ProcessKey) -> bool:
        """Before and after."""
        self.swap(key.pid)
        answer = super().alive(key)
        self.swap(key.pid)
        return answer

    def stopped(self, key: ProcessKey) -> bool:
        """Before and after."""
        self.swap(key.pid)
        answer = super().stopped(key)
        self.swap(key.pid)
        return answer

    def _start(self, folder: int) -> int | None:
        self.swap(0)
        return super()._start(folder)

    def _listed(self, folder: int, parent: int) -> list[int]:
        self.swap(parent)
        pids = super()._listed(folder, parent)
        for pid in pids:
            self.swap(pid)
        return pids


class Run:
    """One run, and what came of it."""

    def __init__(self, number: int, seed: int) -> None:
        self.number, self.chance = number, random.Random(f"{seed}/{number}")
        self.probe = Swapping()
        self.bystanders: dict[int, ProcessKey] = {}
        self.killed: set[int] = set()
        self.swaps = 0
        self.buffer = b""
        self.messages: list[str] = []

    def hear(self) -> dict[str, Any]:
        """The spawner's next answer; its random acts are noted on the way."""
        while True:
            while b"\n" not in self.buffer:
                part = os.read(self.answers, 4096)
                if not part:
                    raise RuntimeError("the spawner is gone")
                self.buffer += part
            line, self.buffer = self.buffer.split(b"\n", 1)
            reply: dict[str, Any] = json.loads(line)
            if pid := reply.get("killed"):
                self.killed.add(pid)
            if successor := reply.get("successor"):
                self.bystanders[successor[0]] = ProcessKey(*successor)
                self.swaps += 1
            if "answer" in reply or "innocent" in reply or "kind" in reply:
                return reply

    def may_swap(self, pid: int) -> None:
        """Called at every check: now and then a member of the trees is replaced, mostly the one just asked for."""
        if self.chance.random() > self.eagerness:
            return
        if pid not in self.replaceable or self.chance.random() < 0.2:
            pid = self.chance.choice(sorted(self.replaceable))
            pid = self.chance.choice(family(pid) or [0])
        if not pid or pid in self.bystanders or pid in (os.getpid(), self.spawner):
            return
        os.write(self.asking, b"%d" % pid)
        self.hear()

    def __call__(self) -> dict[str, Any]:
        """Fork, register, act, look for survivors."""
        chance, probe = self.chance, self.probe
        count = chance.randint(1, 3)
        pipes = [os.pipe() for _ in range(count)]
        asked, self.asking = os.pipe()
        self.answers, answering = os.pipe()

        def spawner() -> None:
            os.close(self.asking)
            os.close(self.answers)
            for reading, _ in pipes:
                os.close(reading)
            Spawner(chance, asked, answering).run([writing for _, writing in pipes])

        self.spawner = fork(spawner)
        chance.random()
        for fd in (asked, answering, *(writing for _, writing in pipes)):
            os.close(fd)
        born = []
        for _ in range(count):
            reply = self.hear()
            born.append(Born(reply["pid"], reply["kind"]))
        reply = self.hear()
        for pid in (*reply["innocent"], *reply["essentials"], self.spawner):
            self.bystanders[pid] = ProcProbe().key_of(pid)
        targets = Targets(probe)
        registered: list[Registered] = []
        for pid in reply["essentials"]:
            targets.track_process(pid, "essential", essential=True)
        for each, (reading, _) in zip(born, pipes, strict=True):
            try:
                made = targets.track_process(each.pid, each.kind, essential=False)
            except (ReadError, ActionFailed):
                continue  # it has died, or was replaced
            if each.pid not in self.bystanders:
                registered.append(Registered(each.kind, made.key, reading, set()))
        targets.track_process(reply["innocent"][0], "essential", essential=True)
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.06)
        self.replaceable = {each.key.pid for each in registered}
        self.eagerness = chance.choice((0.0, 0.01, 0.05)) if registered else 0.0
        probe.swap = self.may_swap
        self.act(targets, registered)
        probe.swap = lambda pid: None
        reply = self.judge(registered)
        for fd in (self.asking, self.answers, *(reading for reading, _ in pipes)):
            os.close(fd)
        return reply

    def act(self, targets: Targets, registered: list[Registered]) -> None:
        """End them all, some after a pause."""
        chance = self.chance
        pause = Pause(targets, self.probe, patience=0.3)
        if chance.random() < 0.4:
            for _ in range(chance.randint(1, 4)):
                self.attempt(pause.run)
            if chance.random() < 0.5:
                self.attempt(pause.undo)
        terminate = Terminate(targets, self.probe, grace=GRACE)
        for _ in range(12):
            for each in registered:
                each.lost.update(holders(each.pipe) - reachable(each.key.pid))
            outcome = self.attempt(terminate.run)
            if outcome is not None and "nothing to" in outcome.message:
                break
        pause.close()

    def attempt(self, action: Callable[[Decision], Outcome]) -> Outcome | None:
        """Run an action; its refusals are recorded."""
        try:
            outcome = action(decision())
        except ActionFailed as error:
            self.messages.append(repr(error))
            return None
        self.messages.append(outcome.message)
        return outcome

    def judge(self, registered: list[Registered]) -> dict[str, Any]:
        """Dead bystanders, and survivors of targets."""
        os.write(self.asking, b"0")  # no replacement; earlier reports come first
        self.hear()
        plain = ProcProbe()
        wrong = [key.pid for key in self.bystanders.values() if not plain.alive(key) or plain.stopped(key)]
        survivors = [each.kind for each in registered if plain.alive(each.key) and each.key.pid not in self.bystanders]
        escapes: list[str] = []
        stopped = []
        for each in registered:
            ended = any(text.startswith(f"terminated {each.kind} (pid {each.key.pid})") for text in self.messages)
            for pid in holders(each.pipe) - set(self.bystanders):
                try:
                    folder, state = os.readlink(f"/proc/{pid}/cwd"), read_stat(pid).state
                except (OSError, ReadError):
                    continue  # it ends by itself just now
                if folder == DAEMON:
                    why = "daemon"
                elif folder == ASKED:
                    why = "forked when asked to end"
                elif not ended or each.key.pid in self.killed:
                    why = "the target had exited by itself"
                elif pid in each.lost:
                    why = "its parent had ended before"
                else:
                    why = f"{each.kind}: could have been found"
                escapes.append(why)
                if state == "T":
                    stopped.append(pid)
        return {
            "run": self.number,
            "kinds": [each.kind for each in registered],
            "bystanders": len(self.bystanders),
            "swaps": self.swaps,
            "wrong": wrong,
            "survivors": survivors,
            "escapes": escapes,
            "stopped": stopped,
            "messages": self.messages,
        }


def reachable(root: int) -> set[int]:
    """Its descendants as far as the system shows: by parents, and by the session that it leads."""
    session = set()
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.getsid(int(name)) == root:
                session.add(int(name))
        except ProcessLookupError:
            continue
    return session.union(*(family(pid) for pid in {root, *session}))


def holders(reading: int) -> set[int]:
    """Processes that hold the other end of this pipe."""
    wanted, found = os.readlink(f"/proc/self/fd/{reading}"), set()
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                if any(os.readlink(f"/proc/{name}/fd/{fd}") == wanted for fd in os.listdir(f"/proc/{name}/fd")):
                    found.add(int(name))
            except OSError:
                continue
    return found


def sweep() -> None:
    """Kill all others."""
    while others := [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]:
        for pid in others:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.001)


def main() -> None:
    """All runs."""
    runs, seed = int(sys.argv[1]), int(sys.argv[2])
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are given to this process
    for number in range(first, first + runs):
        started = time.monotonic()
        reply = Run(number, seed)()
        sweep()
        print(json.dumps(reply | {"seconds": round(time.monotonic() - started, 3)}), flush=True)


if __name__ == "__main__":
    main()
