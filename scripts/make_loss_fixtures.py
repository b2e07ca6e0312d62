#!/usr/bin/env python3
"""Values and gradients of the losses that the engine computes over the whole vocabulary, by PyTorch in f64.

    python3 scripts/make_loss_fixtures.py > spec/fixtures/builtin_losses.json

Everything is a function of final hidden states and a head, logits = hidden @ head.T; gradients are of the
sum over positions of weight * value with respect to one's own hidden states. spec/math/divergence_spec.lua
reads it.
"""
import json

import torch
import torch.nn.functional as F

POSITIONS, WIDTH, OTHER_WIDTH, VOCABULARY = 3, 5, 4, 11
SMOOTHING = 0.1


def rounded(tensor):
    return [round(float(x), 9) for x in tensor.detach().flatten()]


def divergence(kind, own, other, temperature):
    q, p = F.log_softmax(own / temperature, -1), F.log_softmax(other / temperature, -1)
    if kind == "forward_kl":
        return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    if kind == "reverse_kl":
        return F.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    if kind == "jensen_shannon":
        m = ((p.exp() + q.exp()) / 2).log()
        both = F.kl_div(m, p, reduction="none", log_target=True) + F.kl_div(m, q, reduction="none", log_target=True)
        return both.sum(-1) / 2
    return F.mse_loss(own, other, reduction="none").mean(-1)


def case(name, value, hidden, weights, **more):
    (gradient,) = torch.autograd.grad((weights * value).sum(), hidden, retain_graph=True)
    return {"name": name, "value": rounded(value), "gradient": rounded(gradient), **more}


def main():
    torch.manual_seed(7)
    # Values that f32 holds exactly, so that both sides start from the same numbers.
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float32).to(torch.float64)
    hidden, head = draw(POSITIONS, WIDTH).requires_grad_(), draw(VOCABULARY, WIDTH)
    other_hidden, other_head = draw(POSITIONS, OTHER_WIDTH), draw(VOCABULARY, OTHER_WIDTH)
    weights, targets = torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64), torch.tensor([3, 10, 0])
    own, other = hidden @ head.T, other_hidden @ other_head.T
    cases = [
        case(kind, divergence(kind, own, other, temperature), hidden, weights, temperature=temperature)
        for kind in ("forward_kl", "reverse_kl", "jensen_shannon", "logit_square")
        for temperature in ((1.0,) if kind == "logit_square" else (1.0, 2.5))
    ]
    cases.append(case("cross_entropy", F.cross_entropy(own, targets, reduction="none"), hidden, weights))
    smoothed = F.cross_entropy(own, targets, reduction="none", label_smoothing=SMOOTHING)
    cases.append(case("label_smoothing", smoothed, hidden, weights, smoothing=SMOOTHING))
    cases.append(case("entropy", torch.distributions.Categorical(logits=own).entropy(), hidden, weights))
    json.dump({
        "torch": torch.__version__, "n": POSITIONS, "d": WIDTH, "e": OTHER_WIDTH, "vocabulary": VOCABULARY,
        "hidden": [float(x) for x in hidden.detach().flatten()], "head": [float(x) for x in head.flatten()],
        "other_hidden": [float(x) for x in other_hidden.flatten()],
        "other_head": [float(x) for x in other_head.flatten()],
        "weights": weights.tolist(), "targets": targets.tolist(), "cases": cases,
    }, __import__("sys").stdout, indent=1)


main()
