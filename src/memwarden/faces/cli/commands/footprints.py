"""``memwarden footprints``: what was learned of each kind of task, as a table, as JSON, and as a picture."""

from __future__ import annotations

import json
import os
from typing import Any

from memwarden.admission.batch.figure import render_figure
from memwarden.admission.footprints.footprint import Footprint
from memwarden.admission.footprints.regression import Costs
from memwarden.admission.footprints.store import StoredKind, default_path, stored
from memwarden.admission.footprints.task_key import host_class
from memwarden.errors import RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.reports.footprint_plot import footprint_plot
from memwarden.model.serialize import iso


def show(file: str | None, *, as_json: bool) -> int:
    """Print every kind; returns 0. Raises :class:`RecordError` where the file cannot be read."""
    path, kinds = _kinds(file)
    described = [_described(each) for each in kinds]
    if as_json:
        print(json.dumps({"schema": 1, "file": path, "host": host_class(), "kinds": described}, allow_nan=False))
    elif not kinds:
        print(f"nothing was learned yet ({path})")
    else:
        print("\n".join(_table(described)))
    return 0


def draw(file: str | None, name: str, output: str | None) -> int:
    """Draw one kind of task as SVG, or PNG for an ``output`` that ends with ``.png``; return 0.

    Raises :class:`SettingsError` for a name that matches no kind or several, :class:`ExtraMissing` without the extra
    ``plot``.
    """
    path, kinds = _kinds(file)
    figure = footprint_plot(_described(_named(kinds, name, path)))
    file_format = "png" if output is not None and output.lower().endswith(".png") else "svg"
    content = render_figure(figure, file_format)
    if output is None:
        print(content.decode(), end="")
        return 0
    try:
        with open(output, "wb") as target:
            target.write(content)
    except OSError as error:
        raise RecordError(f"--output {output}: {error.strerror or error}", path=output) from None
    return 0


def _kinds(file: str | None) -> tuple[str, list[StoredKind]]:
    path = file or default_path()
    if file is None and not os.path.exists(path):
        return path, []
    return path, stored(path)


def _named(kinds: list[StoredKind], name: str, path: str) -> StoredKind:
    """By its whole name, else by its end; of several versions and hosts this host's, and then the newest."""
    names = {each.kind.name for each in kinds}
    found = {each for each in names if each == name} or {each for each in names if each.endswith(name)}
    if len(found) != 1:
        there = ", ".join(sorted(found or names)[:8]) or "nothing"
        raise SettingsError(
            f"--plot {name}: {'several kinds' if found else 'no kind'} of that name; {path} has {there}"
        )
    own = host_class()
    return min((each for each in kinds if each.kind.name in found), key=lambda each: (each.host != own, -each.seen))


def _described(each: StoredKind) -> dict[str, Any]:
    footprint = Footprint()
    footprint.add_all(each.tasks)
    footprint.learn_now(0.0, Costs())
    footprint.drifts = each.drifts
    return {
        "kind": each.kind.name,
        "version": each.kind.version,
        "host": each.host,
        "seen": iso(each.seen),
        **footprint.describe(),
    }


def _table(described: list[dict[str, Any]]) -> list[str]:
    hosts = {each["host"] for each in described} | {host_class()}
    rows = [("kind", "finished", "killed", "drifts", "typical", "reserved", "confidence", "curve", "seen", "version")]
    for each in described:
        curve = each["curve"]
        figures = ("-", "-", "none", "none has finished")
        if curve is not None:
            reserved = f"x{curve['reserve_ratio']:.2f}"
            figures = (render.size(curve["typical_bytes"]), reserved, curve["confidence"], curve["shape"])
        seen = each["seen"][:16].replace("T", " ")
        counts = (str(each[name]) for name in ("finished", "kills", "drifts"))
        where = f" on {each['host']}" if len(hosts) > 1 else ""
        rows.append((each["kind"], *counts, *figures, seen, (each["version"] or "-") + where))
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = range(1, 6)
    return [
        "  ".join(cell.rjust(wide[at]) if at in right else cell.ljust(wide[at]) for at, cell in enumerate(row)).rstrip()
        for row in rows
    ]
