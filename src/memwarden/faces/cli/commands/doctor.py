"""``memwarden doctor``: the limits, ceilings and readings that this machine supports, each tested."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from memwarden import __version__
from memwarden.engine.warden import Warden
from memwarden.faces import render
from memwarden.model.verdicts import Reading
from memwarden.records.paths import state_directory
from memwarden.settings import resolve


def examine(flags: Mapping[str, Any], *, as_json: bool) -> int:
    """Print what is supported; return 1 where no ceiling can be enforced (below the given group), else 0."""
    settings = resolve(flags, os.environ)
    findings = _findings(settings.cgroup)
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        print(_text(findings))
    usable = [each for each in findings["ceilings"] if settings.cgroup is None or each["kind"] != "polling"]
    return 0 if any(each["granted"] for each in usable) else 1


def _findings(cgroup: str | None) -> dict[str, Any]:
    with contextlib.closing(Warden()) as warden:
        reading = warden.sample()
    assessment = reading.assessment
    effective, binding = assessment.effective, assessment.binding
    return {
        "schema": 1,
        "memwarden": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "kernel": platform.release(),
        "effective_limit_bytes": None if effective is None else effective.bytes,
        "effective_limit_source": None if effective is None else effective.source,
        "available_bytes": assessment.available,
        "level": assessment.level.value,
        "binding_ratio": None if binding is None else round(binding.ratio, 4),
        "binding_source": None if binding is None else binding.limit.source,
        "groups": _groups(reading),
        "gaps": [gap._asdict() for gap in reading.sample.gaps],
        "ceilings": _ceilings(cgroup),
        "facts": _features(),
        "wakeups": _wakeups(),
        "records": os.path.join(state_directory(), "runs"),
    }


def _groups(reading: Reading) -> list[dict[str, Any]]:
    return [
        {
            "path": group.path,
            "version": group.version,
            "limit_bytes": group.limit,
            "usage_bytes": group.usage,
            "working_set_bytes": group.working_set,
            "oom_kills": group.oom_kills,
        }
        for group in reading.sample.cgroups
    ]


def _ceilings(cgroup: str | None) -> list[dict[str, Any]]:
    if sys.platform != "linux":
        return [{"kind": "any", "granted": False, "reason": "limits are enforced on Linux only", "if_killed": ""}]
    from memwarden.contain.capabilities import survey

    return [asdict(each) for each in survey(cgroup)]


def _features() -> list[dict[str, Any]]:
    if sys.platform != "linux":
        return []
    from memwarden.contain.capabilities import survey_kernel_features

    return [
        {"name": each.name, "granted": not each.missing, "reason": each.missing, "otherwise": each.otherwise}
        for each in survey_kernel_features()
    ]


def _wakeups() -> list[dict[str, Any]]:
    from memwarden.readers.linux.wakeups import own_wakeups

    granted, refused = own_wakeups()
    for each in granted:
        each.close()
    rows = [{"name": each.name, "where": each.where, "granted": True, "reason": ""} for each in granted]
    return rows + [
        {"name": gap.what, "where": gap.where, "granted": False, "reason": f"{gap.why}: {gap.detail}"}
        for gap in refused
    ]


def _text(findings: Mapping[str, Any]) -> str:
    colour = render.wants_colour(sys.stdout)

    def mark(granted: bool) -> str:
        word = "yes" if granted else "no "
        return click.style(word, fg="green" if granted else "yellow") if colour else word

    lines = [
        f"memwarden {findings['memwarden']}, Python {findings['python']}, {findings['system']} {findings['kernel']}",
        "",
        "Limit",
    ]
    if findings["effective_limit_bytes"] is not None:
        lines.append(
            f"  effective  {render.limit(findings['effective_limit_bytes'])} ({findings['effective_limit_source']})"
        )
        lines.append(f"  available  {render.size(findings['available_bytes'])}")
        lines.append(
            f"  level      {findings['level'].upper()}: {findings['binding_ratio']:.0%} of {findings['binding_source']}"
        )
    lines += [f"  unread     {gap['what']}: {gap['why']} ({gap['where']})" for gap in findings["gaps"]]
    lines += ["", "Ceilings for `memwarden run --limit`, best first"]
    for each in findings["ceilings"]:
        lines.append(f"  {mark(each['granted'])}  {each['kind']:<10} {each['reason']}".rstrip())
        if each["granted"]:
            lines.append(f"                  if memwarden is killed: {each['if_killed']}")
    lines += ["", "Readings"]
    for each in findings["facts"]:
        lines.append(f"  {mark(each['granted'])}  {each['name']}")
        if not each["granted"]:
            lines.append(f"       {each['reason']}; {each['otherwise']}")
    lines += ["", "Wake-ups"]
    for each in findings["wakeups"]:
        lines.append(f"  {mark(each['granted'])}  {each['name']}")
        if not each["granted"]:
            lines.append(f"       {each['reason']} ({each['where']})")
    lines += ["", f"Records go to {findings['records']}"]
    return "\n".join(lines)
