"""Condition of a rule: ``METRIC [over DURATION] (> | >= | < | <=) THRESHOLD``.

``level >= HIGH``, ``used > 80%``, ``available < 500MiB``, ``growth over 10min > 100MiB``,
``psi.some > 10%``, ``directory.oldest > 1d``, ``leak >= CONFIRMED``, ``time_left < 10min``.
"""

from __future__ import annotations

import re
from math import inf
from typing import NamedTuple

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size, size_text
from memwarden.policy.metrics import GROWTH, METRICS, WORDS, Figure

_FORM = re.compile(r"\s*([A-Za-z_.]+)(?:\s+over\s+([0-9.]+\s*\w*))?\s*(>=|<=|>|<)\s*(\S.*?)\s*")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}

#: Default hysteresis of a rule: three points of a percentage, three percent of anything else (as for the levels).
BAND = 0.03

#: A size below this needs a unit: ``used > 80`` means 80 % or 80 MiB, and 80 bytes would always hold.
LEAST_BARE = 4096


class Threshold(NamedTuple):
    """A number; ``share`` if it is a share of the metric's whole."""

    value: float
    share: bool
    text: str


class Condition(NamedTuple):
    """A parsed condition. ``over`` is the time of a growth in seconds; None: since the start."""

    metric: str
    over: float | None
    operator: str
    threshold: Threshold

    @property
    def upward(self) -> bool:
        """True if larger is worse."""
        return self.operator[0] == ">"

    def of(self, figure: Figure) -> float | None:
        """Return the number to compare: the value, or its share of the whole; None where there is no whole."""
        value, whole = figure
        if not self.threshold.share:
            return value
        return value / whole if whole else None

    def holds(self, number: float) -> bool:
        """Return whether the threshold is crossed."""
        limit = self.threshold.value
        if self.upward:
            return number >= limit if self.operator == ">=" else number > limit
        return number <= limit if self.operator == "<=" else number < limit

    def is_back(self, number: float, band: float) -> bool:
        """Return whether the figure is at least ``band`` away from the threshold on the good side."""
        limit = self.threshold.value
        if band == 0:
            return not self.holds(number)
        return number <= limit - band if self.upward else number >= limit + band

    def band(self, text: str | None) -> float:
        """Return the band given as text, or the default. Raises :class:`SettingsError`."""
        if METRICS[self.metric].unit in WORDS:
            if text is not None:
                raise SettingsError(f"band {text!r}: levels and verdicts have a fixed band; leave it out")
            return 0.0
        if text is not None:
            return _threshold(self.metric, text, self.threshold.share).value
        return BAND if self.threshold.share else BAND * self.threshold.value

    def describe(self, figure: Figure) -> str:
        """Return the figure as text: ``process.rss 1.20 GiB (85.3% of 1.41 GiB), above 80%``."""
        value, whole = figure
        unit = METRICS[self.metric].unit
        limit = f"{_WORDS[self.operator]} {self.threshold.text}"
        if unit in WORDS:
            return f"{self.metric} {WORDS[unit][int(value)]}"
        if value == inf:
            return f"{self.metric} without end"
        if unit == "share":
            return f"{self.metric} {value:.1%}, {limit}"
        seconds = f"{value:.1f}".removesuffix(".0") + " s" if value >= 1 else f"{value:.4g} s"
        text = size_text(value) if unit == "bytes" else seconds if unit == "seconds" else f"{value:g}"
        part = f" ({value / whole:.1%} of {size_text(whole)})" if whole else ""
        return f"{self.metric} {text}{part}, {limit}"

    def __str__(self) -> str:
        over = "" if self.over is None else f" over {self.over:g} s"
        name = "the level" if self.metric == "level" else self.metric
        return f"{name}{over} is {_WORDS[self.operator]} {self.threshold.text}"


def parse_condition(text: object) -> Condition:
    """Parse a condition. Raises :class:`SettingsError` that names the part that is not understood."""
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(
            f"condition {text!r}: not understood; write METRIC > THRESHOLD, such as 'level >= HIGH' or 'used > 80%'"
        )
    name, over, operator, threshold = match.groups()
    if name not in METRICS:
        import difflib  # a millisecond, and only for this

        near = difflib.get_close_matches(name, METRICS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(METRICS)}"
        raise SettingsError(f"condition {text!r}: no metric is called {name!r}; {hint}")
    if over is not None and name != GROWTH:
        raise SettingsError(f"condition {text!r}: only growth takes a time")
    try:
        parsed = _threshold(name, threshold, None)
        seconds = None if over is None else parse_duration(over)
    except SettingsError as error:
        raise SettingsError(f"condition {text!r}: {error}") from None
    return Condition(name, seconds, operator, parsed)


def _threshold(metric: str, text: str, share: bool | None) -> Threshold:
    unit = METRICS[metric].unit
    percent = _PERCENT.fullmatch(text)
    if unit in WORDS:
        names = WORDS[unit]
        if text.upper() not in names:
            raise SettingsError(f"{unit} {text!r}: not known; choose one of {', '.join(names)}")
        return Threshold(names.index(text.upper()), False, text.upper())
    if percent is not None and unit in ("bytes", "share"):
        if share is False:
            raise SettingsError(f"band {text!r}: the threshold is no percentage, so this cannot be one")
        return Threshold(float(percent[1]) / 100, True, text)
    if share:
        raise SettingsError(f"band {text!r}: the threshold is a percentage, so this must be one, such as 5%")
    if unit == "bytes":
        size = parse_size(text)
        if 0 < size < LEAST_BARE and text[-1].isdigit():
            raise SettingsError(f"threshold {text!r}: would be {text} bytes; write {text}%, {text}MiB or {text}B")
        return Threshold(size, False, text)
    if unit == "seconds":
        return Threshold(parse_duration(text), False, text)
    try:
        number = float(text)
        if not 0 <= number < float("inf"):
            raise ValueError
    except ValueError:
        raise SettingsError(f"threshold {text!r}: must be a number that is not negative") from None
    if unit == "share" and number > 1:
        raise SettingsError(f"threshold {text!r}: a share is 1 at most; write {text}%")
    return Threshold(number, False, text)
