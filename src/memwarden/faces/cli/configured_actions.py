"""Actions, rules and recorders of a warden, made from the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memwarden.errors import SettingsError
from memwarden.policy.presets import preset
from memwarden.policy.rules import Rule
from memwarden.settings import Settings

if TYPE_CHECKING:  # each is imported where it is used
    from memwarden.actions.alerting.alerts import Alerts
    from memwarden.actions.alerting.webhook import Webhook
    from memwarden.records.jsonl import JsonlRecorder
    from memwarden.records.sqlite import SqliteRecorder

#: File name extensions of a history in SQLite.
SQLITE = (".sqlite", ".sqlite3", ".db")
#: Longest secret in characters: the file may be a device without an end.
_MOST_SECRET = 4096
#: Sources of a setting, highest precedence first.
_NEAREST = ("argument", "flag", "environment", "file", "default")


def actions_of(settings: Settings) -> tuple[Webhook | Alerts, ...]:
    """Return the actions ``webhook`` and ``alerts``, where the settings name a target.

    Raises :class:`SettingsError`, which names the source of the faulty value and no secret, and :class:`ExtraMissing`.
    """
    made: list[Webhook | Alerts] = []
    where = {name: source.where or name for name, source in settings.sources.items()}
    if settings.webhook:
        from memwarden.actions.alerting.webhook import Webhook

        secret = _secret(settings, where)
        try:
            made.append(Webhook(settings.webhook, secret=secret))
        except SettingsError as error:
            raise SettingsError(f"{where['webhook']}: {error}") from None
    if settings.alerts:
        from memwarden.actions.alerting.alerts import Alerts

        try:
            made.append(Alerts(settings.alerts))
        except SettingsError as error:
            raise SettingsError(f"{where['alerts']}: {error}") from None
    return tuple(made)


def _secret(settings: Settings, where: dict[str, str]) -> str | None:
    """Return the secret: given or in a file, whichever has the higher precedence; the file if both have the same."""
    from memwarden.actions.alerting.webhook import key_of

    name = min(("webhook_secret_file", "webhook_secret"), key=lambda name: _NEAREST.index(settings.sources[name].kind))
    path, secret = settings.webhook_secret_file, settings.webhook_secret
    try:
        if name == "webhook_secret_file" and path is not None:
            secret = _content(path)
        if secret is not None:
            key_of(secret)
    except SettingsError as error:
        raise SettingsError(f"{where[name]}: {error}") from None
    return secret


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_SECRET + 1)
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(text) > _MOST_SECRET:
        raise SettingsError(f"{path}: is longer than {_MOST_SECRET} characters; is it the right file?")
    return text


def rules_of(settings: Settings, interval: float | None = None) -> tuple[float, tuple[Rule, ...]]:
    """Return the interval in seconds, and the preset's rules with those of the settings file.

    A rule of the file replaces the preset's of the same name. A preset's rule that notifies also alerts the targets of
    :func:`actions_of`; rules of a file name their targets. ``interval`` is used if neither the settings nor the preset
    have one. Raises :class:`SettingsError`.
    """
    ready = None if settings.preset is None else preset(settings.preset)
    if settings.sources["interval"].kind != "default":
        interval = settings.interval
    elif ready is not None:
        interval = ready.interval
    elif interval is None:
        interval = settings.interval
    try:
        own = [Rule.from_dict(rule) for rule in settings.rules]
    except SettingsError as error:
        raise SettingsError(f"{settings.config}: {error}") from None
    targets = [name for name in ("webhook", "alerts") if getattr(settings, name)]
    rules = {rule.name: _alerting(rule, targets) for rule in (ready.rules if ready is not None else ())}
    rules |= {rule.name: rule for rule in own}
    return interval, tuple(rules.values())


def _alerting(rule: Rule, targets: list[str]) -> Rule:
    return replace(rule, then=(*rule.then, *targets)) if targets and "notify" in rule.then else rule


def recorder_of(path: str, *, every_sample: bool = False) -> JsonlRecorder | SqliteRecorder:
    """Return a recorder: SQLite if the name has an extension of :data:`SQLITE`, else lines of JSON.

    ``every_sample`` also keeps the samples between those of the asked interval.
    """
    if path.lower().endswith(SQLITE):
        from memwarden.records.sqlite import SqliteRecorder

        return SqliteRecorder(path, every_sample=every_sample)
    from memwarden.records.jsonl import JsonlRecorder

    return JsonlRecorder(path, every_sample=every_sample)
