"""Identity of tasks of one kind, and of hosts on which their peaks are comparable."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from memwarden.model.footprints import TaskKey

_PAGE = "SC_PAGE_SIZE"


def task_key_of(function: Callable[..., Any]) -> TaskKey:
    """Return the key of tasks that call a function: its qualified name and the version of its code."""
    inner = _innermost(function)
    if not isinstance(inner, type) and not hasattr(inner, "__qualname__"):
        inner = type(inner)
    name = getattr(inner, "__qualname__", None) or repr(inner)
    return TaskKey(f"{_module(inner)}.{name}", code_version(function))


def code_version(function: Callable[..., Any]) -> str:
    """Return a hash of a function's code, twelve hexadecimal digits; empty for one without code (written in C).

    It covers the instructions, constants and names of the function and of functions inside it, through ``wraps`` and
    ``partial``; not line numbers, comments, the docstring, and local names. Changes in called functions and in data are
    not seen; they show as drift. Another Python has other instructions, so that peaks are learned anew.
    """
    digest = hashlib.blake2b(digest_size=6)
    found = False
    for code, document in _codes(function):
        found = True
        _add(digest, code, document)
    return digest.hexdigest() if found else ""


def host_class() -> str:
    """Return a name of hosts on which peaks are comparable.

    It holds the page size, the memory (rounded to a power of two) and the processors, because programs size caches and
    threads by them and the C library makes an arena for every few threads; system, architecture and Python, because
    objects have other sizes there.
    """
    page = total = 0
    if hasattr(os, "sysconf") and _PAGE in os.sysconf_names:
        page = os.sysconf(_PAGE)
        total = page * os.sysconf("SC_PHYS_PAGES")
    memory = f"{2 ** round(math.log2(total / 2**30)):g}GiB" if total > 0 else "anyGiB"
    version = f"{sys.implementation.name}{sys.version_info[0]}.{sys.version_info[1]}"
    return f"{sys.platform}-{platform.machine() or 'any'}-page{page}-{memory}-{os.cpu_count() or 0}cpu-{version}"


def _innermost(function: Any) -> Any:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        else:
            return function


def _module(function: Any) -> str:
    """Return the module; for a program its file's name, since every program is called ``__main__``."""
    module = getattr(function, "__module__", None) or "builtins"
    if module not in ("__main__", "__mp_main__"):
        return str(module)
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else module


def _codes(function: Any) -> Iterator[tuple[types.CodeType, str | None]]:
    """Yield the code of a callable, and of those that it wraps, each with its docstring."""
    for _ in range(16):  # a wrapper may name itself
        function = _innermost(function)
        if not isinstance(function, types.FunctionType):
            owner = function if isinstance(function, type) else type(function)
            function = getattr(owner, "__init__" if isinstance(function, type) else "__call__", None)
        code = getattr(function, "__code__", None)
        if not isinstance(code, types.CodeType):
            return
        yield code, getattr(function, "__doc__", None)
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return


def _add(digest: hashlib.blake2b, code: types.CodeType, document: str | None = None) -> None:
    digest.update(code.co_code)
    for name in code.co_names:
        digest.update(name.encode("utf-8", "backslashreplace") + b"\0")
    for at, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            _add(digest, constant)
        elif at > 0 or document is None or constant != document:
            digest.update(_text(constant).encode("utf-8", "backslashreplace") + b"\1")


def _text(constant: object) -> str:
    if isinstance(constant, frozenset):  # its order differs from process to process
        return "frozenset" + repr(sorted(_text(each) for each in constant))
    if isinstance(constant, tuple):
        return "tuple" + repr([_text(each) for each in constant])
    return f"{type(constant).__name__}{constant!r}"
