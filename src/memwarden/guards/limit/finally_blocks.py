"""Which instructions of a function clean up: the body of a ``finally`` when nothing was raised.

The compiler writes that body twice: once for the way without an exception, in line, and once as a handler. Both copies
have the same places in the source. (That a handler runs is seen at once, by the exception that the thread handles.)
"""

from __future__ import annotations

import dis
import itertools
from types import CodeType
from typing import Any

#: Functions whose answer is kept.
_KEPT = 256
_known: dict[CodeType, dict[int, frozenset[int]]] = {}

_LEAVES = frozenset(("RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS", "POP_EXCEPT"))
_JUMPS = frozenset(("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"))


def cleaning_up(code: CodeType, offset: int, begun_at: int = -1) -> bool:
    """Whether the instruction at ``offset`` is in a ``finally`` that the one at ``begun_at`` is not in."""
    copies = _known.get(code)
    if copies is None:
        if len(_known) >= _KEPT:
            _known.clear()
        copies = _known[code] = _copies(code)
    return any(offset in copy and begun_at not in copy for copy in copies.values())


def _copies(code: CodeType) -> dict[int, frozenset[int]]:
    """For each handler that is a ``finally``: the offsets of the same source elsewhere."""
    if not code.co_exceptiontable:
        return {}
    listing: Any = dis.Bytecode(code)
    entries = listing.exception_entries
    instructions = {each.offset: each for each in listing}
    order = sorted(instructions)
    following = dict(itertools.pairwise(order))
    found = {}
    for target in {entry.target for entry in entries}:
        after = following.get(target)
        if instructions[target].opname != "PUSH_EXC_INFO" or after is None:
            continue  # the end of another handler
        if instructions[after].opname == "WITH_EXCEPT_START":
            continue  # its other copy is the call of __exit__, which is known by its name
        body = _handler(target, instructions, following)
        places = {instructions[offset].positions for offset in body if _says(instructions[offset])}
        copy = frozenset(
            unit
            for offset, each in instructions.items()
            if offset not in body and each.positions in places
            # A frame that waits for a call stands on the last unit of its instruction, behind the caches.
            for unit in range(offset, following.get(offset, offset + 2), 2)
        )
        if copy:
            found[target] = copy
    return found


def _says(instruction: dis.Instruction) -> bool:
    """Whether it comes from the source, and is no bookkeeping with a place borrowed from what is around."""
    if instruction.opname in ("PUSH_EXC_INFO", "RERAISE", "COPY", "POP_EXCEPT", "CACHE", "NOP"):
        return False
    positions: Any = instruction.positions
    return positions is not None and positions.lineno is not None and positions.col_offset is not None


def _handler(target: int, instructions: dict[int, dis.Instruction], following: dict[int, int]) -> set[int]:
    """The offsets that run in a handler, from its first instruction until the exception is done with."""
    body: set[int] = set()
    waiting = [target]
    while waiting:
        offset = waiting.pop()
        each = instructions.get(offset)
        if each is None or offset in body:
            continue
        body.add(offset)
        if each.opname in _LEAVES:
            continue
        if "JUMP" in each.opname or each.opname in ("FOR_ITER", "SEND"):
            waiting.append(each.argval)
        if each.opname not in _JUMPS and offset in following:
            waiting.append(following[offset])
    return body
