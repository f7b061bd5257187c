"""Text of somebody else: names, paths, command lines."""

from __future__ import annotations


def printable(text: str) -> str:
    """Nothing in it may speak to a terminal or break a line: what cannot be printed becomes ``?``."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)
