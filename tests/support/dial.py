"""A machine whose memory use a test sets."""

from __future__ import annotations

import threading

from memwarden.model.facts import SystemMemory


class Dial:
    """Reader of a machine with ``percent`` of its memory in use; an exception there is raised."""

    name = "dial"

    def __init__(self, percent: float, total: int) -> None:
        self.percent: float | Exception = percent
        self.total = total
        self.threads: set[threading.Thread] = set()

    def read(self) -> dict[str, SystemMemory]:
        self.threads.add(threading.current_thread())
        if isinstance(self.percent, Exception):
            raise self.percent
        free = self.total - round(self.total * self.percent / 100)
        return {"system": SystemMemory(self.total, free, free, 0, 0, 0)}

    def close(self) -> None:
        pass
