"""What the compat modules offer stands on their page, and that an MB is a MiB there stands too."""

import inspect
import re
from pathlib import Path

import pytest

from memwarden import compat
from memwarden.compat import (
    config,
    guarding,
    memory_init,
    memory_manager,
    memory_monitor,
    memory_optimizer,
    optimizer_service,
    resource_manager,
    simple_memory_monitor,
)
from memwarden.compat.memory_manager import MemoryPressureLevel
from memwarden.compat.support.process_info import ProcessInfo
from memwarden.compat.support.readings import whole_mb

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "compat.md").read_text(encoding="utf-8")

MODULES = (
    config,
    guarding,
    memory_init,
    memory_manager,
    memory_monitor,
    memory_optimizer,
    optimizer_service,
    resource_manager,
    simple_memory_monitor,
)


def _offered():
    for module in (
        config,
        guarding,
        memory_init,
        memory_manager,
        memory_monitor,
        memory_optimizer,
        optimizer_service,
        resource_manager,
        simple_memory_monitor,
    ):
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", "") not in (module.__name__, _HOMES.get(name)):
                continue
            yield name
            if inspect.isclass(value) and value is not MemoryPressureLevel:  # its members have a page of their own
                yield from (each for each in vars(value) if not each.startswith("_"))
    yield from ProcessInfo.__slots__


#: Names that a module serves though they live in another file.
_HOMES = {
    "MemoryMetrics": "memwarden.compat.support.metrics",
    "MemoryAlert": "memwarden.compat.support.alert",
    "MemoryPressureLevel": "memwarden.model.verdicts",
}

#: Parts that the page describes by what they do.
_PARTS = {"due", "over", "rule", "threshold_text", "count_alert", "window", "alert_threshold_percent"}


@pytest.mark.parametrize("name", sorted(set(_offered()) - _PARTS))
def test_every_name_is_described(name):
    """A name that is not on the page cannot be found."""
    assert re.search(rf"\b{name}\b", PAGE), f"{name} does not stand in docs/compat.md"


@pytest.mark.contract("X-20")
def test_a_megabyte_is_documented_as_a_mebibyte():
    """It is written down on the page and in the package, and counted so."""
    assert re.search(r"`mb` and print \"MB\" .* mean 1024 . 1024 bytes \(MiB\)", PAGE, re.DOTALL)
    assert "mean 2**20 bytes" in compat.__doc__
    assert (whole_mb(500 * 2**20), whole_mb(10**9)) == ("500", "954")
