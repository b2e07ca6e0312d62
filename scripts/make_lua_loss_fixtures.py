#!/usr/bin/env python3
"""Writes spec/fixtures/lua_losses.json: values and slopes of the losses in lua/crucible/losses by PyTorch.

    python scripts/make_lua_loss_fixtures.py

Needs PyTorch 2. Each case has the log-probabilities that a loss sees, its options and the fields of its rows; what
is computed here follows the papers that the losses name, in float64, with autograd. Losses are sums over units,
as crucible's are before they are divided by the count.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
torch.manual_seed(11)
torch.set_default_dtype(torch.float64)


def logprobs(length):
    return [round(float(x), 6) for x in -torch.rand(length) * 3 - 0.01]


def row(weights, **fields):
    return {"weights": weights, "logprobs": logprobs(len(weights)), "base_logprobs": logprobs(len(weights)),
            "entropy": [round(float(x), 6) for x in torch.rand(len(weights)) * 2], "fields": fields}


MASKS = ([0, 0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1], [0, 1])


def rows(fields_of):
    return [row(list(mask), **fields_of(i, mask)) for i, mask in enumerate(MASKS)]


def numbers(mask, low, high):
    return [round(low + (high - low) * float(x), 6) for x in torch.rand(len(mask))]


def leaf(values):
    return torch.tensor(values, requires_grad=True)


def case(name, options, given, loss_of):
    """loss_of(x, base, entropy, masks, rows) → loss, from lists of tensors."""
    x, entropy = [leaf(r["logprobs"]) for r in given], [leaf(r["entropy"]) for r in given]
    base = [torch.tensor(r["base_logprobs"]) for r in given]
    masks = [torch.tensor([float(w != 0) for w in r["weights"]]) for r in given]
    loss = loss_of(x, base, entropy, masks, given)
    loss.backward()

    def slopes(leaves):
        return [t.grad.tolist() if t.grad is not None else None for t in leaves]
    return {"name": name, "options": options, "rows": given, "loss": loss.item(),
            "slopes": {"logprobs": slopes(x), "entropy": slopes(entropy)}}


def weights(r):
    return torch.tensor([float(w) for w in r["weights"]])


def focal(gamma):
    def loss(x, base, entropy, masks, given):
        return sum((-(1 - v.exp()) ** gamma * v * weights(r)).sum() for v, r in zip(x, given))
    return loss


def unlikelihood(alpha):
    def loss(x, base, entropy, masks, given):
        return sum((-(alpha * torch.log1p(-v.exp()) if r["fields"].get("unlikely") else v) * weights(r)).sum()
                   for v, r in zip(x, given))
    return loss


def bonus(x, base, entropy, masks, given):
    return -sum((h * m).sum() for h, m in zip(entropy, masks))


def pair_fields(i, mask):
    return {"group": 1 + i // 2, "choice": "chosen" if i % 2 == 0 else "rejected"}


def dpo(beta, smoothing=0.0, kind="sigmoid", reference="base"):
    def loss(x, base, entropy, masks, given):
        total = 0
        for c, r in ((0, 1), (2, 3)):
            def gain(i):
                ref = base[i] if reference == "base" else torch.tensor(given[i]["fields"]["reference_logprobs"])
                value = ((x[i] - ref) * masks[i]).sum()
                return value / masks[i].sum() if kind == "ipo" else value
            margin = gain(c) - gain(r)
            if kind == "ipo":
                total = total + (margin - 1 / (2 * beta)) ** 2
            else:
                total = total - (1 - smoothing) * F.logsigmoid(beta * margin) - smoothing * F.logsigmoid(-beta * margin)
        return total
    return loss


def orpo(weight):
    def loss(x, base, entropy, masks, given):
        total = 0
        for c, r in ((0, 1), (2, 3)):
            better, worse = ((x[i] * masks[i]).sum() / masks[i].sum() for i in (c, r))
            odds = (better - worse) - (torch.log1p(-better.exp()) - torch.log1p(-worse.exp()))
            total = total - better - weight * F.logsigmoid(odds)
        return total
    return loss


def normalise(kind, value, mask, constant):
    return {"tokens": value, "sequences": value / mask.sum(), "constant": value / constant}[kind]


def policy_fields(i, mask):
    advantages = [1.5, -0.7, 0.4, -2.0][i] if i % 2 else numbers(mask, -2, 2)
    return {"sampling_logprobs": numbers(mask, -3, -0.01), "advantages": advantages}


def spread(value, mask):
    return torch.tensor(value if isinstance(value, list) else [value] * len(mask), dtype=torch.float64)


def importance(kind, constant=512):
    def loss(x, base, entropy, masks, given):
        total = 0
        for v, m, r in zip(x, masks, given):
            ratio = (v - torch.tensor(r["fields"]["sampling_logprobs"])).exp()
            total = total + normalise(kind, -(ratio * spread(r["fields"]["advantages"], m) * m).sum(), m, constant)
        return total
    return loss


def clipped(v, old, advantages, low, high):
    ratio = (v - old).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def ppo(kind, low, high, constant=512):
    def loss(x, base, entropy, masks, given):
        total = 0
        for v, m, r in zip(x, masks, given):
            old = torch.tensor(r["fields"]["sampling_logprobs"])
            terms = clipped(v, old, spread(r["fields"]["advantages"], m), low, high)
            total = total + normalise(kind, (terms * m).sum(), m, constant)
        return total
    return loss


def group_fields(sampled):
    def fields(i, mask):
        found = {"group": 1 + (i > 2), "reward": [1.0, 0.0, 0.25, 0.5][i]}
        if sampled:
            found["sampling_logprobs"] = numbers(mask, -3, -0.01)
        return found
    return fields


def grpo(kind, low, high, scale, kl):
    def loss(x, base, entropy, masks, given):
        total = 0
        for i, (v, m, r) in enumerate(zip(x, masks, given)):
            rewards = torch.tensor([q["fields"]["reward"] for q in given
                                    if q["fields"]["group"] == r["fields"]["group"]])
            deviation = rewards.std() if len(rewards) > 1 else torch.tensor(0.0)
            advantage = r["fields"]["reward"] - rewards.mean()
            if scale == "group":
                advantage = advantage / (deviation + 1e-4)
            old = torch.tensor(r["fields"]["sampling_logprobs"]) if "sampling_logprobs" in r["fields"] else v.detach()
            terms = clipped(v, old, advantage, low, high)
            gap = base[i] - v
            terms = terms + kl * (gap.exp() - gap - 1)
            total = total + normalise(kind, (terms * m).sum(), m, 512)
        return total
    return loss


def stored(i, mask):
    return {**pair_fields(i, mask), "reference_logprobs": numbers(mask, -3, -0.01)}


def at_the_start():
    """The policy is the reference: ln 2 a pair."""
    given = rows(pair_fields)
    for r in given:
        r["base_logprobs"] = r["logprobs"]
    return case("dpo", {}, given, dpo(0.1))


def main():
    def none(i, mask):
        return {}

    def marked(i, mask):
        return {"unlikely": True} if i % 2 else {}
    weighted = rows(none)
    weighted[0]["weights"] = [0, 0, 0.5, -1, 2]
    cases = [
        case("focal", {}, weighted, focal(2)), case("focal", {"gamma": 0.5}, rows(none), focal(0.5)),
        case("unlikelihood", {}, rows(marked), unlikelihood(1)),
        case("unlikelihood", {"alpha": 0.25}, rows(marked), unlikelihood(0.25)),
        case("entropy_bonus", {}, rows(none), bonus),
        at_the_start(), case("dpo", {"beta": 0.3}, rows(pair_fields), dpo(0.3)),
        case("dpo", {"label_smoothing": 0.1}, rows(pair_fields), dpo(0.1, 0.1)),
        case("dpo", {"loss": "ipo"}, rows(pair_fields), dpo(0.1, kind="ipo")),
        case("dpo", {"reference": "stored"}, rows(stored), dpo(0.1, reference="stored")),
        case("orpo", {}, rows(pair_fields), orpo(0.1)), case("orpo", {"lambda": 1}, rows(pair_fields), orpo(1)),
        case("importance_sampling", {}, rows(policy_fields), importance("tokens")),
        case("importance_sampling", {"normalisation": "sequences"}, rows(policy_fields), importance("sequences")),
        case("importance_sampling", {"normalisation": "constant", "constant": 10}, rows(policy_fields),
             importance("constant", 10)),
        case("ppo", {}, rows(policy_fields), ppo("tokens", 0.2, 0.2)),
        case("ppo", {"normalisation": "sequences", "clip_high": 0.28}, rows(policy_fields), ppo("sequences", 0.2, 0.28)),
        case("grpo", {}, rows(group_fields(False)), grpo("tokens", 0.2, 0.2, "group", 0)),
        case("grpo", {"kl": 0.04, "normalisation": "sequences"}, rows(group_fields(True)),
             grpo("sequences", 0.2, 0.2, "group", 0.04)),
        case("grpo", {"scale": "none", "normalisation": "constant"}, rows(group_fields(True)),
             grpo("constant", 0.2, 0.2, "none", 0)),
    ]
    assert math.isclose(cases[5]["loss"], 2 * math.log(2))
    text = json.dumps(cases, separators=(",", ":"))
    (ROOT / "spec/fixtures/lua_losses.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
