from __future__ import annotations
from math import log, exp, inf
from memwarden.assess.floors import Floors, Level, WIDTH

TH_S, TH_C = 0.22, 0.47
BIRTH = 1.1
PRIOR=0.7
MIN_PARTS = 12
Q_S, Q_C = 1.25, 1.25
C_S, C_C = 0.5, 0.75
STALL = 1.0
SHARE = 0.5
AMP=0.5
LONGER=1.4
EFF_S=5
EFF_C=5

DEBUG = None

class Run:
    __slots__ = ("begin","base","rise","share","level","parts","moving","top","span","f")

class Detector:
    def __init__(self):
        self._f = Floors()
        self._now = 0.0
        self._seen = None
        self._step = 0.0
        self._stage = 0
        self._limit = None
        self._eta = None
        self._run = None   # (base floor, top, begin time, last moved time)
        self._born = 0.0
        self._n = 0
        self._before = 0

    def restarted(self, t):
        self._before = self._stage or self._grew()
        self._f = Floors(); self._stage = 0; self._run = None; self._born = self._now; self._n = 0; self._eta = None

    def _grew(self):
        for lv in reversed(self._f.levels):
            n = len(lv.lows)
            if n >= 12:
                F = list(lv.lows)
                for i in range(n - 2, -1, -1):
                    if F[i + 1] < F[i]: F[i] = F[i + 1]
                R = F[-1] - F[0]
                c = F[-1] - F[-1 - n // 3]
                return int(R > 0.05 * (F[-1]) and c > 0.28 * R)
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
        if self._f.add(self._now, value):
            self._limit = limit
            self._close(value)
        return self._stage, self._eta

    def _close(self, value):
        limit = self._limit
        if limit is None: limit = 2 * value
        now = self._now
        run = self._run
        room = limit - value
        gate = 0.15 * room
        best = None
        first = True
        low = inf
        for at in range(self._f.close(now)):
            level = self._f.levels[at]
            lows = level.lows
            n = len(lows)
            low = lows[-1]
            if n < MIN_PARTS: break
            if low - lows[0] > gate or low - lows[n // 3] > gate:
                found = self._judge(level, limit, now, at)
                if found is not None and (best is None or found[0] > best[0]):
                    best = found
        if best is not None:
            stage, base, begin, top, span = best
            if stage > self._stage:
                self._stage = stage
                if run is None or True:
                    self._run = [base, top, begin, now, top, best]
        if self._stage:
            self._hold(best, now)

    def _hold(self, best, now):
        run = self._run
        base, top, begin, moved, mark, _ = run
        lev = self._f.levels
        # floor now: the floor of the last tenth of the run
        age = now - begin
        floor = None
        for level in lev:
            floor = level.lows[-1] if floor is None else floor
            ends = level.ends
            if len(ends) > 1 and ends[-1] - ends[-2] >= 0.04 * age:
                floor = level.lows[-1]
                break
        if floor > top:
            run[1] = top = floor
        if top - mark > 0.1 * (mark - base):
            run[3], run[4] = now, top
            moved = now
        if floor < base + 0.5 * (top - base) or now - moved > STALL * (moved - begin):
            self._stage = 0
            self._run = None

    def _judge(self, level, limit, now, at):
        lows, highs, ends = level.lows, level.highs, level.ends
        n = len(lows)
        F = [0.0] * n
        least = inf
        for i in range(n - 1, -1, -1):
            if lows[i] < least: least = lows[i]
            F[i] = least
        # what came back before: the floor counts over longer than that
        q = 1
        R = F[-1] - F[0] if F[-1] - F[n//2] < 0.7*(F[-1]-F[0]) else F[-1] - F[n//2]
        for up in range(len(self._f.levels) - 1, -1, -1):
            x = self._f.levels[up]
            if x.given > AMP * R:
                q = max(1, int(LONGER * (x.long+1) * 2.0 ** (up - at)) + 1)
                break
        n -= q - 1
        if n < MIN_PARTS: return None
        last = F[n - 1]
        res = None
        for k in (0, n // 6, n // 3, n // 2):
            m = n - k
            if m < MIN_PARTS: break
            R = last - F[k]
            if R <= 0: break
            over = sorted(h - f for h, f in zip(highs[k:n], F[k+1:n]))
            swing = max(0.0, over[-max(1, m // 8)])
            room = limit - swing - last
            if room <= 0: f = 1.0
            else: f = R / (R + room)
            if f < TH_S: 
                if k: break
                continue
            moving = resting = 0
            big = sq = 0.0
            small = 0.4 * R / m
            hug = 0.2 * R
            for i in range(k, n - 1):
                d = F[i + 1] - F[i]
                if d > big: big = d
                sq += d*d
                if d > small: moving += 1
                elif lows[i] - F[i] <= hug: resting += 1
            if DEBUG: DEBUG(at,k,n,q,R,f,room,swing,big/R,moving,resting)
            if big > 0.5 * R: continue
            eff = R*R/sq
            if eff < EFF_S: continue
            # bend
            h = m // 2
            # quadratic-free: slope of first and second half by means of thirds
            t = m // 3
            a = F[k + t] - F[k]; b = F[k + 2*t] - F[k + t]; c = last - F[n - 1 - t]
            r1 = F[k + h] - F[k]; r2 = last - F[k + h]
            reach = inf
            if r2 < r1:
                r = max(r2,0) / r1
                reach1 = r2 * r / (1 - r)
                if b > 0 and c < b:
                    reach2 = c * (c/b) / (1 - c/b)
                elif c >= b: reach2 = inf
                else: reach2 = 0
                reach = max(reach1, min(reach2, 2*reach1))
            # birth
            begin, prior = self._calm(F, ends, k, n, R, at, now)
            th = birth = 1.0 if self._before else 1 + BIRTH * max(0.0, 1 - prior / PRIOR)
            stage = 0
            if f >= min(0.5, TH_S * th) and reach >= C_S * room: stage = 1
            if stage and f >= TH_C * (1 + 0.1*(birth-1)) and reach >= C_C * room and eff >= EFF_C: stage = 2
            if stage and (res is None or stage > res[0]):
                res = (stage, F[k], begin, last, (R, round(eff,1), prior, big / R, reach / max(room,1e-9), birth, f))
        return res

    def _calm(self, F, ends, k, n, R, at, now):
        """How long the floor was calm before it began to rise, in lengths of the rise; and when that was."""
        b = k
        edge = F[k] + 0.1 * R
        while b + 1 < n and F[b + 1] <= edge: b += 1
        last = F[k] + R
        times = [ends[i] for i in range(b, -1, -1)]
        floors = [F[i] for i in range(b, -1, -1)]
        levels = self._f.levels
        low = floors[-1]
        for up in range(at + 1, len(levels)):
            lv = levels[up]; ls, es = lv.lows, lv.ends
            oldest = times[-1]
            for i in range(len(ls) - 1, -1, -1):
                if es[i] < oldest:
                    if ls[i] < low: low = ls[i]
                    times.append(es[i]); floors.append(low)
        best, begin = 0.0, ends[b]
        j = 0
        N = len(times)
        for i in range(N):
            t = times[i]
            edge = 1.2 * floors[i] - 0.2 * last
            if j < i: j = i
            while j + 1 < N and floors[j + 1] >= edge: j += 1
            prior = (t - times[j]) / max(1e-9, now - t)
            if prior > best:
                best, begin = prior, t
            if best >= PRIOR or j == N - 1: break
        return begin, best

def detector(): return Detector()
