#!/usr/bin/env python3
"""Writes spec/fixtures/topology.json: what gudhi and ripser find in random graphs and point clouds.

    python scripts/make_topology_fixtures.py [--live SEED]

Needs NumPy, gudhi 3.10 or later and ripser. Inputs come from a generator that the spec repeats, so that the
file holds answers alone: diagrams of 100 weighted graphs and 100 point clouds, and the 2-Wasserstein distance
of each to the next. Settings: homology over Z/2, the dimension of the complex included; where distances are
taken, deaths that never come are set to 1 and the relative error is 1e-10. With --live nothing is written:
other inputs are made from the seed, this build's answers are compared with theirs, and the largest
difference is printed.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import gudhi
import numpy as np
from gudhi.hera import wasserstein_distance
from ripser import ripser

ROOT = Path(__file__).resolve().parent.parent
CASES, LIMIT = 100, 1e-9


class Numbers:
    """x ← (1103515245 x + 12345) mod 2^31; a number is the high 15 bits."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = (1103515245 * self.state + 12345) % 2**31
        return (self.state >> 16) % limit


def graph(seed):
    """Vertices, and [a, b, value] with many ties and some pairs left out."""
    draw = Numbers(seed)
    n = 3 + draw.below(6)
    edges = []
    for a in range(n):
        for b in range(a + 1, n):
            value, kept = draw.below(50) / 50, draw.below(4) > 0
            if kept:
                edges.append([a, b, value])
    return n, edges


def cloud(seed):
    draw = Numbers(seed)
    return [[draw.below(1000) / 1000 for _ in range(2)] for _ in range(4 + draw.below(9))]


def sorted_points(points):
    rows = [[float(b), float(d)] for b, d in points]
    return sorted([b, -1 if d == np.inf else round(d, 12)] for b, d in rows)  # -1: never


def diagrams_of_graph(n, edges):
    tree = gudhi.SimplexTree()
    for v in range(n):
        tree.insert([v], 0)
    for a, b, value in edges:
        tree.insert([a, b], value)
    tree.persistence(homology_coeff_field=2, persistence_dim_max=True)
    return [sorted_points(tree.persistence_intervals_in_dimension(k)) for k in (0, 1)]


def diagrams_of_cloud(points):
    found = ripser(np.array(points), maxdim=1)["dgms"]
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    tree.persistence(homology_coeff_field=2)
    for k in (0, 1):
        ours, theirs = sorted_points(tree.persistence_intervals_in_dimension(k)), sorted_points(found[k])
        theirs = [p for p in theirs if p[0] != p[1]]
        if len(ours) != len(theirs) or not np.allclose(ours, theirs, atol=1e-6):
            sys.exit(f"gudhi and ripser differ in dimension {k}: {ours} {theirs}")
    return [sorted_points(tree.persistence_intervals_in_dimension(k)) for k in (0, 1)]


def distance(a, b):
    def finite(points):
        return np.array([[x, 1.0 if y == -1 else y] for x, y in points]).reshape(-1, 2)
    return float(wasserstein_distance(finite(a), finite(b), order=2, internal_p=2, delta=1e-10))


def answers(inputs, diagrams):
    found = [diagrams(x) for x in inputs]
    rows = []
    for i, own in enumerate(found):
        other = found[(i + 1) % len(found)]
        rows.append({"h0": own[0], "h1": own[1], "w": [distance(own[k], other[k]) for k in (0, 1)]})
    return rows


def make(seed):
    seeds = [seed + 17 * i for i in range(CASES)]
    return {"graphs": answers([graph(s) for s in seeds], lambda x: diagrams_of_graph(*x)),
            "clouds": answers([cloud(s) for s in seeds], diagrams_of_cloud)}


def ours(seed):
    environment = {**os.environ, "LUA_PATH": f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;{ROOT}/?.lua;;",
                   "LUA_CPATH": f"{ROOT}/build/release/lua5.4/?.so;;"}
    program = f'print(require("crucible.json").encode(require("spec.support.topology").make({seed}, {CASES})))'
    return json.loads(subprocess.run(["lua5.4", "-e", program], check=True, env=environment, capture_output=True).stdout)


def compare(seed):
    worst = 0.0
    theirs, own = make(seed), ours(seed)
    for kind in ("graphs", "clouds"):
        for i, (a, b) in enumerate(zip(theirs[kind], own[kind])):
            for name in ("h0", "h1", "w"):
                x, y = np.array(a[name], dtype=float), np.array(b[name] or [], dtype=float)
                if x.size != y.size:
                    sys.exit(f"{kind} {i + 1}: {name} has {x.size} numbers there, {y.size} here")
                worst = max(worst, float(np.max(np.abs(x.ravel() - y.ravel()), initial=0)))
    print(f"{CASES} graphs and {CASES} clouds: largest difference {worst:.2e}")
    if worst > LIMIT:
        sys.exit(1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--live", type=int, metavar="SEED")
    given = arguments.parse_args()
    if given.live is not None:
        return compare(given.live)
    text = json.dumps(make(1), separators=(",", ":"))
    (ROOT / "spec/fixtures/topology.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
