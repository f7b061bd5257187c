"""``memwarden ledger``: reservations, waiting requests, and free memory."""

from __future__ import annotations

import json
import os
from typing import Any

from memwarden.admission.ledger.ledger import Ledger
from memwarden.admission.ledger.paths import ledgers, runtime_directory
from memwarden.errors import SettingsError
from memwarden.faces import render
from memwarden.model.units import size_text


def show(name: str | None, path: str | None, *, as_json: bool) -> int:
    """Print the ledgers; return 0."""
    states = [Ledger(name=each, path=file).state() for each, file in _wanted(name, path).items()]
    if as_json:
        print(json.dumps({"schema": 1, "type": "ledgers", "ledgers": states}, indent=2))
    elif states:
        print("\n\n".join(map(_text, states)))
    else:
        print(f"No ledger is in use here ({runtime_directory()}).")
    return 0


def _wanted(name: str | None, path: str | None) -> dict[str, str]:
    if path is not None:
        if not os.path.isfile(path):
            raise SettingsError(f"--path {path}: there is no such file")
        return {name or "default": path}
    found = ledgers()
    if name is None:
        return found
    if name not in found:
        there = ", ".join(found) or "none"
        raise SettingsError(f"ledger {name!r}: not in use here; in use: {there}")
    return {name: found[name]}


def _text(state: dict[str, Any]) -> str:
    lines = [f"Ledger {state['name']}  ({state['path']})"]
    if state["budget_bytes"] is not None:
        lines.append(f"  budget    {size_text(state['budget_bytes'])} ({state['budget_source']})")
    if state["headroom_bytes"] is not None:
        lines.append(f"  headroom  {size_text(state['headroom_bytes'])} ({state['headroom_source']})")
    lines.append(f"  reserved  {size_text(state['reserved_bytes'])}, used {size_text(state['used_bytes'])}")
    lines.append(f"  free      {size_text(state['free_bytes'])} (bounded by {state['free_source']})")
    lines += ["", f"  {'PID':>8}  {'RESERVED':>10}  {'USED':>10}  {'FOR':>8}  LABEL"]
    for row in state["holders"]:
        used = "?" if row["used_bytes"] is None else size_text(row["used_bytes"])
        worker = f" (process {row['worker_pid']})" if "worker_pid" in row else ""
        lines.append(_row(row, used) + worker)
    for place, row in enumerate(state["waiters"], 1):
        lines.append(_row(row, f"waits, {place}."))
    if not state["holders"] and not state["waiters"]:
        lines.append("  no active reservations")
    return "\n".join(line.rstrip() for line in lines)


def _row(row: dict[str, Any], used: str) -> str:
    size, age = size_text(row["reserved_bytes"]), render.seconds(row["age_seconds"])
    return f"  {row['pid']:>8}  {size:>10}  {used:>10}  {age:>8}  {row['label']}"
