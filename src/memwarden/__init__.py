"""memwarden keeps Python workloads from running out of memory, and shows where memory goes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memwarden.actions.alerting.alerts import Alerts as Alerts
    from memwarden.actions.alerting.webhook import Webhook as Webhook
    from memwarden.admission.batch.report_plot import report_plot as report_plot
    from memwarden.admission.batch.report_text import report_text as report_text
    from memwarden.admission.batch.save_report import save_report as save_report
    from memwarden.admission.executor.batch_report import BatchReport as BatchReport
    from memwarden.admission.executor.executor import BudgetedExecutor as BudgetedExecutor
    from memwarden.admission.ledger.ledger import Ledger as Ledger
    from memwarden.admission.ledger.ledger import admit as admit
    from memwarden.contain.contained_process import ContainedProcess as ContainedProcess
    from memwarden.contain.contained_process import popen as popen
    from memwarden.engine.awatch import awatch as awatch
    from memwarden.engine.warden import Warden as Warden
    from memwarden.errors import ActionFailed as ActionFailed
    from memwarden.errors import CeilingUnavailable as CeilingUnavailable
    from memwarden.errors import DoesNotFit as DoesNotFit
    from memwarden.errors import ExtraMissing as ExtraMissing
    from memwarden.errors import IsolationFailed as IsolationFailed
    from memwarden.errors import LaunchError as LaunchError
    from memwarden.errors import LimitExceeded as LimitExceeded
    from memwarden.errors import MemwardenError as MemwardenError
    from memwarden.errors import NotAdmitted as NotAdmitted
    from memwarden.errors import ReadError as ReadError
    from memwarden.errors import RecordError as RecordError
    from memwarden.errors import SettingsError as SettingsError
    from memwarden.errors import TargetChanged as TargetChanged
    from memwarden.errors import TaskTooLarge as TaskTooLarge
    from memwarden.errors import WorkerLost as WorkerLost
    from memwarden.guards.budget.memory_guard import memory_guard as memory_guard
    from memwarden.guards.budget.operation import memory_constrained_operation as memory_constrained_operation
    from memwarden.guards.budget.processing_config import safe_processing_config as safe_processing_config
    from memwarden.guards.budget.reclaim import force_garbage_collection as force_garbage_collection
    from memwarden.guards.limit.memory_limit import memory_limit as memory_limit
    from memwarden.guards.measure.profile import memory_profile as memory_profile
    from memwarden.guards.measure.track import track as track
    from memwarden.guards.measure.tracker import MemoryTracker as MemoryTracker
    from memwarden.guards.notebook import load_ipython_extension as load_ipython_extension
    from memwarden.guards.service import MemoryMonitoringService as MemoryMonitoringService
    from memwarden.guards.service import autostart as autostart
    from memwarden.model.events import Event as Event
    from memwarden.model.events import EventKind as EventKind
    from memwarden.model.exits import ExitReason as ExitReason
    from memwarden.model.exits import ExitReport as ExitReport
    from memwarden.model.facts import CacheFill as CacheFill
    from memwarden.model.facts import ProgramMemory as ProgramMemory
    from memwarden.model.limits import Limit as Limit
    from memwarden.model.verdicts import Assessment as Assessment
    from memwarden.model.verdicts import PressureLevel as PressureLevel
    from memwarden.model.verdicts import Reading as Reading
    from memwarden.policy.presets import Preset as Preset
    from memwarden.policy.presets import preset as preset
    from memwarden.policy.rules import Rule as Rule
    from memwarden.protocols import Stop
    from memwarden.records.jsonl import JsonlRecorder as JsonlRecorder
    from memwarden.records.sqlite import SqliteRecorder as SqliteRecorder

#: Where each name of the front door lives; it is imported when it is first used.
_HOMES = {
    "actions.alerting.alerts": "Alerts",
    "actions.alerting.webhook": "Webhook",
    "admission.batch.report_plot": "report_plot",
    "admission.batch.report_text": "report_text",
    "admission.batch.save_report": "save_report",
    "admission.executor.batch_report": "BatchReport",
    "admission.executor.executor": "BudgetedExecutor",
    "admission.ledger.ledger": "Ledger admit",
    "contain.contained_process": "ContainedProcess popen",
    "engine.awatch": "awatch",
    "engine.warden": "Warden",
    "errors": "ActionFailed CeilingUnavailable DoesNotFit ExtraMissing IsolationFailed LaunchError"
    " LimitExceeded MemwardenError NotAdmitted ReadError RecordError SettingsError"
    " TargetChanged TaskTooLarge WorkerLost",
    "guards.budget.processing_config": "safe_processing_config",
    "guards.budget.reclaim": "force_garbage_collection",
    "guards.budget.memory_guard": "memory_guard",
    "guards.limit.memory_limit": "memory_limit",
    "guards.notebook": "load_ipython_extension",
    "guards.budget.operation": "memory_constrained_operation",
    "guards.measure.profile": "memory_profile",
    "guards.service": "MemoryMonitoringService autostart",
    "guards.measure.track": "track",
    "guards.measure.tracker": "MemoryTracker",
    "model.exits": "ExitReason ExitReport",
    "model.events": "Event EventKind",
    "model.facts": "CacheFill ProgramMemory",
    "model.verdicts": "Assessment PressureLevel Reading",
    "model.limits": "Limit",
    "policy.presets": "Preset preset",
    "policy.rules": "Rule",
    "records.jsonl": "JsonlRecorder",
    "records.sqlite": "SqliteRecorder",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", "status", "watch", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'memwarden' has no attribute {name!r}")
    value = getattr(import_module(f"memwarden.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def watch(interval: float | str = 1.0, stop: Stop | None = None) -> Iterator[Reading]:
    """Readings of this process, its memory group and the machine, one every ``interval`` seconds.

    Ends when ``stop`` (anything with ``is_set()``) is set, or when the loop over it is left.
    """
    warden = import_module("memwarden.engine.warden").Warden(interval=interval)
    readings: Iterator[Reading] = warden.watch(stop)
    return readings


def status() -> dict[str, Any]:
    """One sample of this process, its memory group and the machine, as a dict that JSON can hold."""
    warden = import_module("memwarden.engine.warden").Warden()
    try:
        warden.sample()
        result: dict[str, Any] = warden.status()
    finally:
        warden.close()
    return result
