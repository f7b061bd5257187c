"""A kernel for one process: what is resident, and the mark of the most that was."""

from memwarden.errors import ReadError
from memwarden.guards.measure.peak_rss import PeakScopes

MIB = 1 << 20


class Kernel:
    """Memory is taken and given back by the test; the mark follows, and may be set back."""

    def __init__(self, resident=100 * MIB, grants=True):
        self.resident = self.mark = resident
        self.grants, self.fails = grants, None
        self.reads = 0

    def hold(self, size):
        """So much is resident from now on."""
        self.resident = size
        self.mark = max(self.mark, size)

    def spike(self, size):
        """So much was resident for a moment."""
        self.mark = max(self.mark, size)

    def read(self):
        self.reads += 1
        if self.fails is not None:
            raise self.fails
        return self.mark, self.resident

    def reset(self):
        if self.grants:
            self.mark = self.resident
        return self.grants

    def close(self):
        """Nothing is held."""

    def scopes(self):
        """Marks over this kernel."""
        return PeakScopes(lambda: self, self.reset)


def unreadable():
    """What a reader says where there is no such file."""
    return ReadError("status", "/proc/self/status", "absent")
