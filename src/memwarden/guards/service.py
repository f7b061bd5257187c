"""A monitoring service within a program: one warden with alerts and statistics.

The rules are those of the preset ``worker``, each with a warning and a critical threshold: usage above 80 and 90 % of
the nearest limit (``limit``, the container's or the machine's), growth by more than 100 and 500 MiB, less than 500 and
200 MiB available. An alert pauses before it is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memwarden.engine.warden import Warden
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Limit
from memwarden.model.units import parse_duration, parse_size
from memwarden.policy.presets import preset
from memwarden.policy.rules import Rule
from memwarden.protocols import Clock, Reader, Recorder
from memwarden.records.statistics import Statistics

if TYPE_CHECKING:
    from memwarden.settings import Settings

#: Seconds between two samples.
INTERVAL = 30.0
#: Default rules. ``available`` is the headroom of container and machine: of a limit of 1 GiB of one's own less than
#: 500 MiB are left at half of it.
RULES = tuple(
    replace(rule, when=rule.when.replace("available", "outside.available")) for rule in preset("worker").rules
)

#: Called with each alert, on the thread that calls back.
OnAlert = Callable[[Decision], object]


class MemoryMonitoringService:
    """Monitors this process from :meth:`start` to :meth:`stop`, and reports alerts.

    ``interval`` is seconds between two samples; near a limit it samples more often. ``limit`` (bytes or ``"1GiB"``) is
    a limit of your own for this process. ``rules`` replace :data:`RULES`. ``on_alert(decision)`` is called with each
    alert, and when one is over (``decision.undo``); every alert is also logged. ``recorders`` keep samples and events.
    ``readers`` and ``clock`` are there for tests.

    It can be restarted. Starting twice changes nothing.
    """

    def __init__(
        self,
        interval: float | str = INTERVAL,
        limit: int | str | None = None,
        *,
        rules: Sequence[Rule] = RULES,
        on_alert: OnAlert | None = None,
        recorders: Sequence[Recorder] = (),
        readers: Sequence[Reader] | None = None,
        clock: Clock | None = None,
    ) -> None:
        #: Seconds between two samples.
        self.interval = parse_duration(interval)
        #: The limit in bytes that was given; None where none was.
        self.limit = None if limit is None else parse_size(limit)
        self.statistics = Statistics()
        self.warden = Warden(
            readers,
            interval=self.interval,
            rules=rules,
            recorders=[self.statistics, *recorders],
            asked=None if self.limit is None else Limit(self.limit, "asked"),
            clock=clock,
        )

        def receive(event: Event) -> None:
            if on_alert is not None and event.kind is EventKind.DECISION and event.value.action == "notify":
                on_alert(event.value)

        self.warden.subscribe(receive)

    @property
    def running(self) -> bool:
        """True while it runs; False in a child after ``fork``, where it can be started."""
        return self.warden.running

    def start(self) -> MemoryMonitoringService:
        """Take a first sample and start monitoring."""
        self.warden.start()
        return self

    def stop(self) -> None:
        """Stop monitoring; return at once, and leave no thread."""
        self.warden.stop()

    def status(self) -> dict[str, Any]:
        """Return the current state with statistics since the start, as a dict that JSON can represent."""
        return {**self.warden.status(), "limit_bytes": self.limit}

    def __enter__(self) -> MemoryMonitoringService:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


#: The service that a setting started, under its setting's name.
_autostarted: dict[str, MemoryMonitoringService] = {}


def autostart(
    settings: Settings | None = None, *, environment: Mapping[str, str] | None = None
) -> MemoryMonitoringService | None:
    """Start the service of this process where the setting ``monitor`` is true; else return None.

    Set it by ``MEMWARDEN_MONITOR=true``, or ``monitor = true`` in the settings file; ``interval`` and ``limit`` apply
    too. ``settings`` replaces reading them. A second call returns the same service.
    """
    if settings is None:
        import os

        from memwarden.settings import resolve

        settings = resolve({}, os.environ if environment is None else environment)
    if not settings.monitor:
        return None
    service = _autostarted.get("monitor")
    if service is None:
        if settings.limit is not None and "%" in settings.limit:
            raise SettingsError(f"limit {settings.limit!r}: a service's own limit is a size, such as 512MiB")
        by_default = settings.sources["interval"].kind == "default"
        interval = INTERVAL if by_default else settings.interval
        # Atomic: two threads get the same one.
        service = _autostarted.setdefault("monitor", MemoryMonitoringService(interval, settings.limit))
    return service.start()
