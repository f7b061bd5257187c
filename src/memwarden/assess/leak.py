from __future__ import annotations
from math import inf
from memwarden.assess.floors import Floors, Level, WIDTH
from memwarden.assess.rises import rises, calm_before, Rise, PARTS
from memwarden.assess.forecast import Forecaster

TH_S, TH_C = 0.213, 0.485
BIRTH = 1.3
PRIOR = 1.0
C_S, C_C = 0.5, 0.75
STALL = 2.0
THIRD = 0.15
EFF_S, EFF_C = 5.5, 5.5
SEEN = 0.08
EFF_E = 4.0
EVEN = True

class Detector:
    def __init__(self):
        self._f = Floors()
        self._now = 0.0
        self._seen = None
        self._step = 0.0
        self._stage = 0
        self._limit = None
        self._fc = Forecaster()
        self._run = None
        self._before = 0

    def restarted(self, t):
        self._before = self._stage or self._grew()
        self._f = Floors(); self._stage = 0; self._run = None; self._fc = Forecaster()

    def _grew(self):
        levels = self._f.levels
        for at in range(len(levels) - 1, -1, -1):
            if len(levels[at].lows) >= PARTS + 1:
                for r in rises(self._f, at, 0.05 * abs(levels[at].lows[-1])):
                    return int(r.thirds[2] > 0.28)
                return 0
        return 0

    def update(self, t, value, limit):
        seen = self._seen
        if seen is None:
            self._seen = t
        else:
            d = t - seen
            self._seen = t
            step = self._step
            if 0.0 < d <= 20 * step:
                self._step = step + 0.05 * (d - step)
            elif step == 0.0 and d > 0:
                self._step = d
            else:
                d = step
            self._now += d
        if self._f.add(value):
            self._limit = limit
            self._close(value)
        return self._stage, self._fc.eta(self._now)

    def _close(self, value):
        limit = self._limit
        if limit is None: limit = 2 * value
        now = self._now
        least = SEEN * (limit - value)
        best = None
        floors = self._f
        closed = floors.close(now)
        had = self._stage
        for at in range(closed - 1 if EVEN else closed):
            level = floors.levels[at]
            lows = level.lows
            n = len(lows)
            if n < PARTS: break
            low = lows[-1]
            if low - lows[0] > least or low - lows[n // 3] > least:
                told, most = None, 0.0
                for r in rises(floors, at, least):
                    size = r.size
                    room = limit - r.swing - r.top
                    f = size / (size + room) if room > 0 else 1.0
                    if f < SEEN or r.largest > 0.5: continue
                    steps = r.steps
                    if steps >= EFF_E and r.thirds[2] > THIRD and steps * steps * size > most:
                        told, most, troom = r, steps * steps * size, room
                    if had == 2 or f < (TH_S if had == 0 else TH_C) or steps < EFF_S: continue
                    a, b, c = r.thirds
                    # what it would still rise by if it kept slowing down so
                    reach = inf
                    h = a + b / 2
                    if h > 0.5:
                        q = (1 - h) / h
                        reach = (1 - h) * q / (1 - q)
                        late = (inf if c >= b else c * (c / b) / (1 - c / b)) if b > 0 else 0.0
                        reach = max(reach, min(late, 2 * reach))
                    reach *= size
                    if reach < C_S * room: continue
                    prior = calm_before(floors, r, now) if not self._before and f < TH_C * 1.2 else inf
                    birth = 1 + BIRTH * max(0.0, 1 - prior / PRIOR)
                    stage = 0
                    if f >= min(0.5, TH_S * birth):
                        stage = 1
                        if f >= TH_C * (1 + 0.1 * (birth - 1)) and reach >= C_C * room and steps >= EFF_C: stage = 2
                        if best is None or stage > best[0]:
                            best = (stage, r, prior, f)
                if told is not None: self._fc.add(told, troom, now)
        if best is not None:
            stage, r, *_ = best
            if stage > self._stage:
                self._stage = stage
                self._run = [r.base, r.top, r.begin, now, r.top, best]
        if self._stage:
            self._hold(now)

    def told(self): return self._run and self._run[5]

    def _hold(self, now):
        run = self._run
        base, top, begin, moved, mark, _ = run
        age = now - begin
        floor = 0.0
        for level in self._f.levels:
            ends = level.ends
            floor = level.lows[-1]
            if len(ends) > 1 and ends[-1] - ends[-2] >= 0.04 * age:
                break
        if floor > top:
            run[1] = top = floor
        if top - mark > 0.1 * (mark - base):
            run[3], run[4] = now, top
            moved = now
        if floor < base + 0.5 * (top - base) or now - moved > STALL * (moved - begin):
            self._stage = 0
            self._run = None

def detector(): return Detector()
