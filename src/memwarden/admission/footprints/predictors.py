"""Predictors of tasks' peak memory: one that learns, and one that calls a function."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memwarden.admission.footprints.footprint import Footprint
from memwarden.admission.footprints.regression import Costs
from memwarden.errors import SettingsError
from memwarden.model.footprints import PastTask, Prediction, TaskKey, TaskOutcome
from memwarden.model.units import MIB, size_text

if TYPE_CHECKING:
    from memwarden.admission.footprints.store import FootprintStore

#: Kinds that are kept in a process; the one that was used longest ago goes first.
KEPT_KINDS = 512
#: A retry reserves at least so many times what the task used.
RETRY_FACTOR = 1.5
#: Killed at so much of what it would reserve now, a task had outgrown its reservation: the curve may have moved.
_OUTGROWN = 0.9
_PAGE = 4096
_MAX_BYTES, _MAX_SIZE = (1 << 63) - 1, 1e18


class Footprints:
    """A :class:`~memwarden.protocols.Predictor` that learns.

    ``budget`` (bytes; by default this machine's memory) and ``slots`` (tasks at once; by default its processors) decide
    the cost of over-reserving and the reservation of a first task; they may be changed at any time. A ``store`` keeps
    what was learned; an error of it is in ``trouble``, and stops nothing.

    Safe to call from any thread. A prediction takes microseconds once the kind is loaded; learning takes a millisecond
    or less now and then, and the store's time every second.
    """

    #: A prediction is cheap, and may be repeated while a task waits: by then more may be known.
    quick = True

    def __init__(
        self,
        *,
        budget: int | None = None,
        slots: int | None = None,
        costs: Costs | None = None,
        store: FootprintStore | None = None,
    ) -> None:
        self.budget = budget if budget is not None else _machine_memory()
        self.slots = slots if slots is not None else os.cpu_count() or 1
        if self.budget < 1 or self.slots < 1:
            raise SettingsError(f"budget {budget!r}, slots {slots!r}: both must be more than zero")
        self._costs = costs or Costs()
        self._store = store
        self._kinds: dict[TaskKey, Footprint] = {}
        self._pid, self._lock = os.getpid(), threading.RLock()

    def predict(
        self, kind: TaskKey | str, size: float | None = None, *, at_least: int = 0, hint: int = 0
    ) -> Prediction:
        """Return what a task of this kind and input size should reserve.

        ``at_least``: bytes that an earlier attempt of this task used. If that is as much as it would reserve now, it
        reserves half as much again, or what suffices for nearly all; if it is less, the attempt was not killed for its
        own memory, and shows nothing. ``hint``: bytes that the caller expects; used until three have finished.
        """
        key = _as_key(kind)
        known = self._kinds.get(key) or self._footprint(key)
        if size is not None:
            size = _valid_size(size)
        found = known.fit
        if found is None:
            return self._guess(known, size, at_least, hint)
        curve, ratio, top, quantile, n, seconds, confidence, why, _, _ = found
        middle = curve.at(size)
        reserve, most = middle * ratio, middle * top
        if known.open and (bound := known.open.get(size, 0.0)) >= reserve:
            reserve, why = max(most, bound * RETRY_FACTOR), f"one of this size was killed at {size_text(bound)}; {why}"
        if at_least > reserve * _OUTGROWN:
            reserve, why = max(most, at_least * RETRY_FACTOR), f"a retry that used {size_text(at_least)}; {why}"
        if n < 3 and hint > reserve:
            reserve, why = hint, f"as hinted; only {n} finished"
        if size is not None and size > 2 * curve.largest and curve.sized:
            confidence, why = "low", f"the largest seen was of size {curve.largest:g}; {why}"
        reserve = _whole_pages(reserve)
        return Prediction(reserve, int(middle), max(reserve, _whole_pages(most)), quantile, n, seconds, confidence, why)

    def observe(
        self,
        kind: TaskKey | str,
        size: float | None,
        peak: int,
        seconds: float,
        outcome: TaskOutcome = "finished",
    ) -> None:
        """Learn from a task that has ended: its peak in bytes, and its run time.

        With ``killed_at`` the peak is its memory when it was killed: it needs at least that.
        """
        if outcome not in ("finished", "killed_at"):
            raise SettingsError(f"outcome {outcome!r}: 'finished' or 'killed_at'")
        if not 0 <= peak <= _MAX_BYTES or not 0 <= seconds < math.inf:
            raise SettingsError(f"peak {peak!r}, seconds {seconds!r}: must be finite and not negative")
        key = _as_key(kind)
        with self._locked():
            known = self._footprint(key)
            valid = _valid_size(size)
            number = math.nan if valid is None else valid
            killed, drifts = outcome == "killed_at", known.drifts
            known.add(number, max(1.0, float(peak)), seconds, killed=killed)
            known.learn(self._free(known), self._costs)
            if self._store is not None:
                self._store.add(key, PastTask(number, int(peak), seconds, killed))
                if known.drifts > drifts:  # a change was noticed, and older tasks forgotten
                    self._store.forget(key, len(known.peaks))

    def _free(self, known: Footprint) -> float:
        """Return the bytes that such a task may reserve at no cost, because the slots run out before the memory."""
        means = [(len(each.peaks), each.fit.mean) for each in self._kinds.values() if each.fit is not None]
        if known.fit is None:
            return 0.0
        mean = sum(count * each for count, each in means) / max(1, sum(count for count, _ in means))
        return max(0.0, self.budget / self.slots - mean + known.fit.typical)

    def _guess(self, known: Footprint, size: float | None, at_least: int, hint: int) -> Prediction:
        """Return a prediction where no task of this kind has finished."""
        siblings = [each.fit.typical * each.fit.ratio for each in list(self._kinds.values()) if each.fit is not None]
        share = self.budget / self.slots
        if hint:
            reserve, why = float(hint), "as hinted; none has finished"
        elif siblings:
            reserve, why = max(siblings), "none has finished; as the largest of the other kinds"
        else:
            reserve, why = share, f"nothing has finished; one of {self.slots} shares of the budget"
        middle = int(reserve)
        bound = max(at_least, known.open.get(size, 0.0))
        if bound:
            reserve, why = max(reserve, bound * RETRY_FACTOR), f"killed at {size_text(bound)}; none has finished"
        whole = _whole_pages(reserve)
        return Prediction(whole, middle, _whole_pages(reserve * RETRY_FACTOR), None, 0, 0.0, "none", why)

    def describe(self, kind: TaskKey | str) -> dict[str, Any]:
        """Return all that is known of a kind, as plain data: points, curve, quantile, kills, drift."""
        with self._locked():
            key = _as_key(kind)
            known = self._footprint(key)
            known.learn_now(self._free(known), self._costs)
            return {"schema": 1, "kind": key.name, "version": key.version, **known.describe()}

    def kinds(self) -> list[TaskKey]:
        """Return the kinds that are loaded."""
        return list(self._kinds)

    @property
    def trouble(self) -> str:
        """Return why the store cannot be used at the moment; empty if it can."""
        return "" if self._store is None else self._store.trouble

    def save(self) -> None:
        """Write new tasks to the store. Raises :class:`RecordError`."""
        if self._store is not None:
            with self._locked():
                self._store.save()

    def close(self) -> None:
        """Save, and close the store's descriptors. Raises :class:`RecordError`."""
        if self._store is not None:
            with self._locked():
                self._store.close()

    def _footprint(self, key: TaskKey) -> Footprint:
        with self._locked():
            known = self._kinds.pop(key, None)
            if known is None:
                known = Footprint()
                if self._store is not None:
                    tasks, former = self._store.load(key)
                    if former:
                        before = Footprint()
                        before.add_all(former)
                        before.learn_now(0.0, self._costs)
                        known.former = before.fit
                    known.add_all(tasks)
                    known.learn_now(0.0, self._costs)  # the other kinds of this batch are not known yet
                if len(self._kinds) >= KEPT_KINDS:
                    del self._kinds[next(iter(self._kinds))]
            self._kinds[key] = known
            return known

    def _locked(self) -> threading.RLock:
        if self._pid != os.getpid():  # a thread of the parent may hold the inherited lock
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._lock


class FunctionPredictor:
    """Predicts by a function: ``FunctionPredictor(lambda kind, size: 64 * MIB + 3 * size)``.

    It learns nothing; a retry reserves at least half as much again as the task used. For a task of which the function
    returns ``None`` or 0, ``otherwise`` predicts, which observes all tasks.
    """

    def __init__(
        self, function: Callable[[TaskKey, float | None], float | None], *, otherwise: Footprints | None = None
    ) -> None:
        self._function, self._otherwise = function, otherwise or Footprints()

    def predict(
        self, kind: TaskKey | str, size: float | None = None, *, at_least: int = 0, hint: int = 0
    ) -> Prediction:
        """Return what the function returns. Raises :class:`SettingsError` if that is not a number of bytes."""
        needed = self._function(_as_key(kind), size)
        if not needed:
            return self._otherwise.predict(kind, size, at_least=at_least, hint=hint)
        if not 0 < needed < _MAX_BYTES:
            raise SettingsError(f"prediction {needed!r} for {_as_key(kind).name}: must be a number of bytes above zero")
        reserve = _whole_pages(max(needed, at_least * RETRY_FACTOR))
        return Prediction(
            reserve, int(needed), _whole_pages(reserve * RETRY_FACTOR), None, 0, 0.0, "fair", "by the caller's function"
        )

    def observe(
        self, kind: TaskKey | str, size: float | None, peak: int, seconds: float, outcome: TaskOutcome = "finished"
    ) -> None:
        """Pass it on to ``otherwise``."""
        self._otherwise.observe(kind, size, peak, seconds, outcome)


def _as_key(kind: TaskKey | str) -> TaskKey:
    return kind if type(kind) is TaskKey else TaskKey(kind) if isinstance(kind, str) else TaskKey(*kind)


def _valid_size(size: float | None) -> float | None:
    """Return a size that can be calculated with; None for an unknown, negative or NaN one."""
    if size is None:
        return None
    try:
        number = float(size)
    except OverflowError:
        return _MAX_SIZE
    return min(number, _MAX_SIZE) if number >= 0 else None


def _whole_pages(count: float) -> int:
    """Round up to whole pages."""
    return int(min(-(-count // _PAGE) * _PAGE, _MAX_BYTES - _PAGE))


def _machine_memory() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return max(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), MIB)
    return 1024 * MIB
