from __future__ import annotations
from math import exp, log, sqrt
from memwarden.assess.rises import Rise

TRUST = 10.0
MEMORY = 0.05
A, B, C, D = 0.15, 0.8, 0.5, 0.3
FOR = 0.35
WIDE = 1.05

class Forecaster:
    __slots__ = ("weight", "mid", "spread", "at", "span", "steps","power")
    def __init__(self):
        self.weight = 0.0
        self.mid = self.spread = self.at = self.span = self.steps = self.power = 0.0

    def add(self, rise, room, now):
        span = max(1e-9, rise.end - rise.begin)
        if room <= 0:
            mid = 0.0
        else:
            w = rise.steps / (rise.steps + TRUST)
            p = min(2.5, max(0.5, 1 + (rise.power - 1) * w))
            mid = span * ((1 + room / rise.size) ** (1 / p) - 1) - (now - rise.end)
        least = 0.02 * span
        if mid < least: mid = least
        x = log(mid)
        w = rise.steps ** 2 * rise.size
        if self.weight:
            gone = now - self.at
            old = max(self.mid - gone, least)
            y = log(old)
            keep = self.weight * exp(-gone / (MEMORY * (self.span + old)))
            share = w / (keep + w)
            d = x - y
            y += share * d
            self.spread = (1 - share) * (self.spread + share * d * d)
            self.weight = keep + w
            self.span += share * (span - self.span)
            self.steps += share * (rise.steps - self.steps)
            self.power += share * (rise.power - self.power)
            self.mid = exp(y)
        else:
            self.mid, self.weight, self.span, self.steps, self.power = mid, w, span, rise.steps, rise.power
        self.at = now

    def eta(self, now):
        if not self.weight: return None
        gone = now - self.at
        if gone > FOR * self.span:
            self.weight = 0.0; self.spread = 0.0
            return None
        mid = self.mid - gone
        least = 0.02 * self.span
        if mid < least: mid = least
        bend = abs(self.power - 1)
        lo = WIDE * (0.02 + 0.9 / self.steps + 2.1 * bend)
        hi = WIDE * (0.02 + 0.8 / self.steps + 0.85 * sqrt(self.spread) + 1.4 * bend + 3.0 * max(0.0, 0.5 - mid / self.span))
        return mid * exp(-min(lo, 2)), mid, mid * exp(min(hi, 2))
