"""Condition of a rule: ``MEASURE [over DURATION] (> | >= | < | <=) THRESHOLD``.

``level >= HIGH``, ``used > 80%``, ``available < 500MiB``, ``growth over 10min > 100MiB``,
``psi.some > 10%``, ``directory.oldest > 1d``, ``leak >= CONFIRMED``, ``time_left < 10min``.
"""

from __future__ import annotations

import re
from math import inf
from typing import NamedTuple

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size, size_text
from memwarden.policy.metrics import GROWTH, MEASURES, WORDS, Figure

_FORM = re.compile(r"\s*([A-Za-z_.]+)(?:\s+over\s+([0-9.]+\s*\w*))?\s*(>=|<=|>|<)\s*(\S.*?)\s*")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}

#: How far a figure must come back before a rule has cleared, where the rule does not say: three points of a
#: percentage, three percent of anything else (the band of the levels).
BAND = 0.03

#: A size below this needs its unit: ``used > 80`` is meant as 80 % or 80 MiB, and 80 bytes would always be exceeded.
LEAST_BARE = 4096


class Threshold(NamedTuple):
    """A number, and whether it is a share of the measure's whole."""

    value: float
    share: bool
    text: str


class Condition(NamedTuple):
    """A parsed condition. ``over`` is the time that growth is measured over, in seconds; None: since the beginning."""

    measure: str
    over: float | None
    operator: str
    threshold: Threshold

    @property
    def upward(self) -> bool:
        """Return True where larger is worse."""
        return self.operator[0] == ">"

    def of(self, figure: Figure) -> float | None:
        """The number to compare: the value itself, or its share of the whole; None where there is no whole."""
        value, whole = figure
        if not self.threshold.share:
            return value
        return value / whole if whole else None

    def holds(self, number: float) -> bool:
        """Return True where the threshold is passed."""
        edge = self.threshold.value
        if self.upward:
            return number >= edge if self.operator == ">=" else number > edge
        return number <= edge if self.operator == "<=" else number < edge

    def is_back(self, number: float, band: float) -> bool:
        """Return True where the figure has left the threshold by at least ``band``."""
        edge = self.threshold.value
        if band == 0:
            return not self.holds(number)
        return number <= edge - band if self.upward else number >= edge + band

    def band(self, text: str | None) -> float:
        """A band as it was written, or the usual one. Raises :class:`SettingsError`."""
        if MEASURES[self.measure].unit in WORDS:
            if text is not None:
                raise SettingsError(f"band {text!r}: levels and verdicts have their own; leave it out")
            return 0.0
        if text is not None:
            return _threshold(self.measure, text, self.threshold.share).value
        return BAND if self.threshold.share else BAND * self.threshold.value

    def describe(self, figure: Figure) -> str:
        """The figure in words: ``process.rss 1.20 GiB (85.3% of 1.41 GiB), above 80%``."""
        value, whole = figure
        unit = MEASURES[self.measure].unit
        edge = f"{_WORDS[self.operator]} {self.threshold.text}"
        if unit in WORDS:
            return f"{self.measure} {WORDS[unit][int(value)]}"
        if value == inf:
            return f"{self.measure} without end"
        if unit == "share":
            return f"{self.measure} {value:.1%}, {edge}"
        seconds = f"{value:.1f}".removesuffix(".0") + " s" if value >= 1 else f"{value:.4g} s"
        text = size_text(value) if unit == "bytes" else seconds if unit == "seconds" else f"{value:g}"
        part = f" ({value / whole:.1%} of {size_text(whole)})" if whole else ""
        return f"{self.measure} {text}{part}, {edge}"

    def __str__(self) -> str:
        over = "" if self.over is None else f" over {self.over:g} s"
        name = "the level" if self.measure == "level" else self.measure
        return f"{name}{over} is {_WORDS[self.operator]} {self.threshold.text}"


def parse_condition(text: object) -> Condition:
    """Raises :class:`SettingsError` that names what is not understood."""
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(
            f"condition {text!r}: not understood; write MEASURE > THRESHOLD, such as 'level >= HIGH' or 'used > 80%'"
        )
    name, over, operator, threshold = match.groups()
    if name not in MEASURES:
        import difflib  # a millisecond, and only for this

        near = difflib.get_close_matches(name, MEASURES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(MEASURES)}"
        raise SettingsError(f"condition {text!r}: no measure is called {name!r}; {hint}")
    if over is not None and name != GROWTH:
        raise SettingsError(f"condition {text!r}: only growth is measured over a time")
    try:
        parsed = _threshold(name, threshold, None)
        seconds = None if over is None else parse_duration(over)
    except SettingsError as error:
        raise SettingsError(f"condition {text!r}: {error}") from None
    return Condition(name, seconds, operator, parsed)


def _threshold(measure: str, text: str, share: bool | None) -> Threshold:
    unit = MEASURES[measure].unit
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
