"""The public API: the names of ``import memwarden``, and the cost of the import."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden

SOURCE = Path(memwarden.__file__).parents[1]

#: Modules that the import must not load: each costs a program that may never use it.
NOT_YET = [
    "asyncio",
    "click",
    "ctypes",
    "email",
    "http",
    "json",
    "logging",
    "psutil",
    "rich",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
]


def modules_after(statement: str) -> set[str]:
    """The modules that a bare interpreter has loaded after a statement."""
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{statement}\nimport json; print(json.dumps(before))"
    code = code.replace(statement, f"{statement}\nbefore = sorted(sys.modules)")
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize("name", memwarden.__all__)
def test_every_name_leads_somewhere_and_is_documented(name: str) -> None:
    """Each has a sentence of its own, in the place where it is made."""
    home = memwarden._HOME_OF.get(name)
    value = getattr(importlib.import_module(f"memwarden.{home}") if home else memwarden, name)
    if name == "__version__":
        assert isinstance(value, str)
        return
    assert inspect.getdoc(value)
    assert value.__name__ == name
    assert value.__doc__ is not None
    assert not value.__doc__.startswith(f"{name}("), "the signature that dataclasses make is no documentation"


def test_no_public_name_is_hidden_by_a_package() -> None:
    """Importing a subpackage sets its name on memwarden: a public name of the same word would be lost."""
    packages = {module.name for module in pkgutil.iter_modules(memwarden.__path__)}
    assert not packages & set(memwarden.__all__)


def test_every_public_name_resolves() -> None:
    """Used as a user does, each is what its home has."""
    for name, home in memwarden._HOME_OF.items():
        assert getattr(memwarden, name) is getattr(importlib.import_module(f"memwarden.{home}"), name)


def test_dir_and_a_star_import_give_the_public_names() -> None:
    """``dir`` shows what is public and no more; nothing stands twice; a star import takes all of it."""
    assert sorted(dir(memwarden)) == sorted(set(memwarden.__all__)) == sorted(memwarden.__all__)
    taken: dict[str, object] = {}
    exec("from memwarden import *", taken)
    assert set(memwarden.__all__) <= set(taken)


def test_no_other_name_is_public() -> None:
    """A public class lives in its package; only what the module itself needs is beside the list."""
    own = {name for name, value in vars(memwarden).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert own - set(memwarden.__all__) <= {"annotations", "TYPE_CHECKING", "Any", "import_module"}


def test_the_names_for_type_checkers_are_the_same() -> None:
    """A name that resolves at run time is known to type checkers, too."""
    source = Path(memwarden.__file__).read_text(encoding="utf-8")
    named = {line.rpartition(" as ")[2] for line in source.splitlines() if line.startswith("    from memwarden.")}
    shown = {name for name in named if not name.startswith("from ") and "import" not in name}
    assert shown == set(memwarden.__all__) - {"__version__", "watch", "status"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """With the name in its message, so that ``hasattr`` and spelling hints work."""
    with pytest.raises(AttributeError, match="'Warten'"):
        memwarden.Warten  # noqa: B018 - the access is the test


def test_the_import_brings_nothing_heavy() -> None:
    """The import loads the package alone."""
    loaded = modules_after("import memwarden")
    assert not loaded & set(NOT_YET)
    assert {name for name in loaded if name.startswith("memwarden")} == {"memwarden"}


def test_a_value_loads_its_package_only() -> None:
    """Catching an error must not load a sampler."""
    loaded = modules_after("from memwarden import ReadError, PressureLevel, Limit")
    assert not loaded & {"asyncio", "threading", "logging", "psutil", "click", "rich"}
    assert not any(name.startswith(("memwarden.engine", "memwarden.readers")) for name in loaded)


def test_measuring_is_light() -> None:
    """A decorated function loads neither a sampler nor logging nor inspect."""
    loaded = modules_after("from memwarden import track; track(print)")
    assert "memwarden.guards.measure.track" in loaded
    assert not loaded & {"asyncio", "inspect", "logging", "psutil", "click", "rich", "memwarden.engine.warden"}


@pytest.mark.skipif(sys.platform != "linux", reason="the portable reader needs psutil")
def test_a_sample_needs_the_standard_library_alone() -> None:
    """On Linux: no psutil, and no asyncio, from import to the first judged sample."""
    loaded = modules_after("import memwarden; memwarden.status()")
    assert "memwarden.engine.warden" in loaded
    assert not loaded & {"asyncio", "psutil", "click", "rich", "ssl", "http"}


@pytest.mark.skipif(sys.platform != "linux", reason="the portable reader needs psutil")
def test_a_quiet_warden_loads_no_logging() -> None:
    """``logging`` comes with the first message; actions, rules and statistics with their first use."""
    loaded = modules_after("from memwarden import Warden; w = Warden().start(); w.status(); w.stop()")
    assert "memwarden.engine.warden" in loaded
    assert not loaded & {"logging", "memwarden.policy.rules", "memwarden.records.statistics"}
    assert not any(name.startswith("memwarden.actions") for name in loaded)
