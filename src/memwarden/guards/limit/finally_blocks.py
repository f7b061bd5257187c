"""Instructions of a function that belong to a ``finally`` body, on the path without an exception.

The compiler writes such a body twice: inline, and as an exception handler. Both copies have the same source positions.
(That a handler runs is visible at once, by the exception that the thread handles.)
"""

from __future__ import annotations

import dis
import itertools
from types import CodeType
from typing import Any

#: Functions for which the result is cached.
_CACHED = 256
_cache: dict[CodeType, list[frozenset[int]]] = {}

_HANDLER_ENDS = frozenset(("RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS", "POP_EXCEPT"))
_UNCONDITIONAL_JUMPS = frozenset(("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"))


def in_finally(code: CodeType, offset: int, entered_at: int = -1) -> bool:
    """Return whether the instruction at ``offset`` is in a ``finally`` that the one at ``entered_at`` is not in."""
    copies = _cache.get(code)
    if copies is None:
        if len(_cache) >= _CACHED:
            _cache.clear()
        copies = _cache[code] = _inline_copies(code)
    return any(offset in copy and entered_at not in copy for copy in copies)


def _inline_copies(code: CodeType) -> list[frozenset[int]]:
    """Return, for each handler that is a ``finally``, the offsets of the same source elsewhere."""
    if not code.co_exceptiontable:
        return []
    listing: Any = dis.Bytecode(code)
    entries = listing.exception_entries
    instructions = {each.offset: each for each in listing}
    order = sorted(instructions)
    following = dict(itertools.pairwise(order))
    found = []
    for target in {entry.target for entry in entries}:
        after = following.get(target)
        if instructions[target].opname != "PUSH_EXC_INFO" or after is None:
            continue  # the end of another handler
        if instructions[after].opname == "WITH_EXCEPT_START":
            continue  # its other copy is the call of __exit__, which is recognized by name
        body = _handler_body(target, instructions, following)
        positions = {instructions[offset].positions for offset in body if _from_source(instructions[offset])}
        copy = frozenset(
            unit
            for offset, each in instructions.items()
            if offset not in body and each.positions in positions
            # A frame in a call is at the last unit of its instruction, behind the caches.
            for unit in range(offset, following.get(offset, offset + 2), 2)
        )
        if copy:
            found.append(copy)
    return found


def _from_source(instruction: dis.Instruction) -> bool:
    """Return False for bookkeeping, which has the position of the code around it."""
    if instruction.opname in ("PUSH_EXC_INFO", "RERAISE", "COPY", "POP_EXCEPT", "CACHE", "NOP"):
        return False
    positions: Any = instruction.positions
    return positions is not None and positions.lineno is not None and positions.col_offset is not None


def _handler_body(target: int, instructions: dict[int, dis.Instruction], following: dict[int, int]) -> set[int]:
    """Return the offsets that run in a handler, from its first instruction until the exception is handled."""
    body: set[int] = set()
    waiting = [target]
    while waiting:
        offset = waiting.pop()
        each = instructions.get(offset)
        if each is None or offset in body:
            continue
        body.add(offset)
        if each.opname in _HANDLER_ENDS:
            continue
        if "JUMP" in each.opname or each.opname in ("FOR_ITER", "SEND"):
            waiting.append(each.argval)
        if each.opname not in _UNCONDITIONAL_JUMPS and offset in following:
            waiting.append(following[offset])
    return body
