"""Text from outside: names, paths, command lines."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text safe for a terminal and on one line: what cannot be printed becomes ``?``."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)
