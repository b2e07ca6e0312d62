#!/usr/bin/env python3
"""Writes spec/fixtures/domain_losses.json: the topological and chirality losses by PyTorch, SciPy and gudhi.

    python scripts/make_domain_loss_fixtures.py

Needs PyTorch 2, SciPy and gudhi. A case is a number of claims, relation lines (source, label, target, claims from
1) and, line by line, log-probabilities of every destination and of every label; the answer is the loss, summed over
nothing but this row, and its slopes. Losses are written from their definitions: spanning forests by Kruskal, loops
of a graph from its edges outside of a forest, diagrams matched by SciPy's assignment, whose cost must be what
gudhi's hera finds.
"""
import json
from pathlib import Path

import numpy as np
import torch
from gudhi.hera import wasserstein_distance
from scipy.optimize import linear_sum_assignment

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["supports", "refutes", "contrasts"]
torch.set_default_dtype(torch.float64)


def draw(rng):
    n = int(rng.integers(2, 7))
    lines = []
    for source in range(1, n + 1):
        if rng.random() < 0.8:
            lines.append([source, str(rng.choice(LABELS)), int(rng.integers(1, n + 1))])
    lines = lines or [[n, "supports", 1]]

    def logs(width, total):
        weights = rng.dirichlet(np.full(width, 0.7)) * total + 1e-4
        return [round(float(x), 9) for x in np.log(weights / max(1, weights.sum()))]
    return {"claims": n, "lines": lines, "destinations": [logs(n, 0.95) for _ in lines],
            "labels": [logs(3, 0.9) for _ in lines]}


def edges_of(n):
    return [(a, b) for a in range(1, n + 1) for b in range(a + 1, n + 1)]


def forest(n, edges, key):
    part, chosen = list(range(n + 1)), []
    for e in sorted(range(len(edges)), key=key):
        a, b = part[edges[e][0]], part[edges[e][1]]
        if a != b:
            part = [a if p == b else p for p in part]
            chosen.append(e)
    return chosen


def squared_wasserstein(points, constants):
    """points: rows of tensors (birth, death); constants: rows of numbers."""
    numbers = [[float(x) for x in p] for p in points]
    n, m = len(numbers), len(constants)
    if n + m == 0:
        return torch.tensor(0.0)
    cost = np.zeros((n + m, n + m))
    for i in range(n):
        cost[i, m:] = (numbers[i][1] - numbers[i][0]) ** 2 / 2
        for j in range(m):
            cost[i, j] = sum((a - b) ** 2 for a, b in zip(numbers[i], constants[j]))
    for j in range(m):
        cost[n:, j] = (constants[j][1] - constants[j][0]) ** 2 / 2
    total = torch.tensor(0.0)
    for i, j in zip(*linear_sum_assignment(cost)):
        if i < n and j < m:
            total = total + sum((a - b) ** 2 for a, b in zip(points[i], constants[j]))
        elif i < n:
            total = total + (points[i][1] - points[i][0]) ** 2 / 2
        elif j < m:
            total = total + cost[i, j]
    found = wasserstein_distance(np.array(numbers).reshape(-1, 2), np.array(constants).reshape(-1, 2), order=2,
                                 internal_p=2, delta=1e-10)
    assert abs(found**2 - float(total.detach())) < 1e-8, (found**2, total)
    return total


def topological(case, logs, matching):
    n, edges = case["claims"], edges_of(case["claims"])
    place = {edge: e for e, edge in enumerate(edges)}
    weights, target = [torch.tensor(0.0)] * len(edges), [1.0] * len(edges)
    for line, (source, _, goal) in enumerate(case["lines"]):
        for j in range(1, n + 1):
            if j != source:
                e, w = place[(min(source, j), max(source, j))], logs[line][j - 1].exp()
                if w.item() > weights[e].item():
                    weights[e] = w
        if goal != source:
            target[place[(min(source, goal), max(source, goal))]] = 0.0
    f = [1 - w for w in weights]
    own = forest(n, edges, lambda e: (float(f[e]), e))
    wanted = forest(n, edges, lambda e: (target[e], float(f[e]), e))
    if matching == "diagram":
        components = squared_wasserstein([(torch.tensor(0.0), f[e]) for e in own if float(f[e]) > 0],
                                         [(0.0, target[e]) for e in wanted if target[e] > 0])
    else:
        components = sum((f[e] - target[e]) ** 2 for e in wanted) / 2 + sum((f[e] - target[e]) ** 2 for e in own) / 2
    loops = squared_wasserstein([(f[e], torch.tensor(1.0)) for e in range(len(edges)) if e not in own and f[e] < 1],
                                [(target[e], 1.0) for e in range(len(edges)) if e not in wanted and target[e] < 1])
    return (components + loops) / n


def chirality(case, logs):
    pi = torch.stack([torch.log_softmax(row, 0).exp() for row in logs]).mean(0)
    tau = torch.tensor([sum(line[1] == label for line in case["lines"]) / len(case["lines"]) for label in LABELS])
    d = 2 * torch.acos((pi * tau).clamp(1e-300).sqrt().sum())
    return 0.6 * d**2 / (1 + d**2)


def solve(case, name, loss_of):
    logs = [torch.tensor(row, requires_grad=True) for row in case["destinations" if name != "chirality" else "labels"]]
    loss = loss_of(case, logs)
    if loss.requires_grad:
        loss.backward()
    return {"loss": float(loss), "slopes": [x.grad.tolist() if x.grad is not None else [0.0] * len(x) for x in logs]}


def rounded(value):
    if isinstance(value, float):
        return round(value, 11)
    if isinstance(value, list):
        return [rounded(x) for x in value]
    return {k: rounded(x) for k, x in value.items()} if isinstance(value, dict) else value


def main():
    rng = np.random.default_rng(5)
    cases = []
    for _ in range(30):
        case = draw(rng)
        case["topological"] = solve(case, "topological", lambda c, x: topological(c, x, "labels"))
        case["diagram"] = solve(case, "topological", lambda c, x: topological(c, x, "diagram"))
        case["chirality"] = solve(case, "chirality", chirality)
        cases.append(case)
    (ROOT / "spec/fixtures/domain_losses.json").write_text(json.dumps(rounded(cases), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
