#!/usr/bin/env python3
"""Writes spec/fixtures/gradstat.json: crafted values and what NumPy, in float64, says of them.

    python scripts/make_gradstat_fixtures.py

Needs NumPy 2 or later. Values are f32 in hexadecimal, little-endian; figures that JSON has no word for are
the strings "nan", "inf" and "-inf". The case "many" has 10^7 values, which both sides make by one rule.
"""
import json
import math
from pathlib import Path

import numpy as np

QUANTILES = [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1]
MANY = 10_000_000


def many():
    """Value i: the high 24 bits of i · 2654435761 mod 2^32, centred, to the third power of a half's scale."""
    hashed = (np.arange(MANY, dtype=np.uint64) * 2654435761) & 0xFFFFFFFF
    return ((hashed >> 8).astype(np.float64) - 2.0**23) * 2.0**-40


def crafted():
    rng = np.random.default_rng(8)
    normal = (rng.standard_normal(1500) * 1e-3).astype(np.float32)
    heavy = (rng.standard_t(2, 1500) * 1e-5).astype(np.float32)
    half = np.where(rng.random(800) < 0.5, 0, rng.standard_normal(800)).astype(np.float32)
    huge = (rng.standard_normal(1100) * 1e-3).astype(np.float32)
    huge[700] = -3e38
    spoilt = normal[:40].copy()
    spoilt[[3, 17]] = np.nan
    infinite = normal[:41].copy()
    infinite[5] = np.inf
    both = normal[:40].copy()
    both[[1, 2, 3]] = np.inf, -np.inf, np.nan
    opposed = normal[:41].copy()
    opposed[[0, 40]] = np.inf, -np.inf
    tiny = rng.integers(-(2**23) + 1, 2**23, 300).astype(np.int64)
    denormal = np.where(tiny < 0, 0x80000000 | np.abs(tiny), tiny).astype(np.uint32).view(np.float32)
    near = (np.float32(1) + np.arange(2100) % 7 * np.float32(2.0**-23)).astype(np.float32)
    return {
        "one element": np.array([-0.375], np.float32),
        "all zeros": np.zeros(65, np.float32),
        "zeros of both signs": np.array([0.0, -0.0, 0.0, -0.0, -0.0], np.float32),
        "all the same": np.full(1300, 0.1, np.float32),
        "denormals": denormal,
        "denormals and zeros": np.concatenate([denormal[:30], np.zeros(30, np.float32)]),
        "the smallest and the largest": np.array([2.0**-149, -(2.0**-149), 3.4028235e38, -3.4028235e38], np.float32),
        "normal": normal,
        "heavy tails": heavy,
        "half of them zero": half,
        "one huge value": huge,
        "neighbours of one": near,
        "NaN": spoilt,
        "only NaN": np.full(3, np.nan, np.float32),
        "an infinity": infinite,
        "infinities of both signs": opposed,
        "NaN and infinities": both,
        "powers of two": (2.0 ** np.arange(-149, 128)).astype(np.float32),
    }


def plain(value):
    value = float(value)
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def magnitudes(x):
    kept = np.abs(x[np.isfinite(x) & (x != 0)])
    if kept.size == 0:
        return {"counts": []}
    exponents = np.frexp(kept)[1] - 1
    return {"least": int(exponents.min()), "counts": np.bincount(exponents - exponents.min()).tolist()}


def figures(x):
    with np.errstate(all="ignore"):
        found = {"norm": np.linalg.norm(x), "rms": np.sqrt(np.mean(x * x)), "mean": x.mean(), "std": x.std(),
                 "min": x.min(), "max": x.max()}
        quantiles = np.quantile(x, QUANTILES)
    found = {name: plain(value) for name, value in found.items()}
    found.update(count=int(x.size), zeros=int((x == 0).sum()), nonfinite=int((~np.isfinite(x)).sum()),
                 quantiles=[plain(q) for q in quantiles], magnitudes=magnitudes(x))
    return found


def main():
    cases = [{"title": title, "values": values.astype("<f4").tobytes().hex(), "expected": figures(values.astype(np.float64))}
             for title, values in crafted().items()]
    fixture = {"quantiles": QUANTILES, "cases": cases, "many": {"count": MANY, "expected": figures(many())}}
    path = Path(__file__).resolve().parent.parent / "spec" / "fixtures" / "gradstat.json"
    path.write_text(json.dumps(fixture, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
