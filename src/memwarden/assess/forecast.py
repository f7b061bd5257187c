from __future__ import annotations
from math import exp, log, sqrt
from memwarden.assess.rises import Rise

TRUST = 6.0
P0 = 1.0
A, B, C, D = 0.05, 0.5, 0.3, 0.0
Z = 1.0

def foretell(rise: Rise, limit: float, now: float):
    room = limit - rise.swing - rise.top
    span = max(1e-9, rise.end - rise.begin)
    if room <= 0:
        mid = 0.02 * span
    else:
        w = rise.steps / (rise.steps + TRUST)
        p = min(2.5, max(0.5, P0 + (rise.power - P0) * w))
        mid = span * ((1 + room / rise.size) ** (1 / p) - 1) - (now - rise.end)
        mid = max(mid, 0.02 * span)
    s = sigma(rise, room)
    return mid * exp(-s), mid, mid * exp(s)

def sigma(rise, room):
    return sqrt(A * A + B * B / rise.steps + (C * (rise.power - 1)) ** 2 )
