#!/usr/bin/env python3
"""Learning rates of transformers' schedules, as factors of the peak rate, for spec/lora/schedule_spec.lua.

    python3 scripts/make_schedules.py > spec/fixtures/schedules.json      needs torch and transformers

factors[n] is the factor that an optimiser step makes after n steps are done; their first step under warm-up has
factor 0, which ours does not (spec/lora/schedule_spec.lua says how the two are laid side by side).
"""
import json
import sys

import torch
import transformers
from transformers import optimization as o

PEAK = 2e-4

MAKERS = {
    "constant": lambda opt, w, n, s: o.get_constant_schedule_with_warmup(opt, w),
    "linear": lambda opt, w, n, s: o.get_linear_schedule_with_warmup(opt, w, n),
    "cosine": lambda opt, w, n, s: o.get_cosine_with_min_lr_schedule_with_warmup(
        opt, w, n, min_lr_rate=s["min_lr_ratio"]) if "min_lr_ratio" in s
        else o.get_cosine_schedule_with_warmup(opt, w, n),
    "cosine_with_restarts": lambda opt, w, n, s: o.get_cosine_with_hard_restarts_schedule_with_warmup(
        opt, w, n, num_cycles=s["schedule_cycles"]),
    "polynomial": lambda opt, w, n, s: o.get_polynomial_decay_schedule_with_warmup(
        opt, w, n, lr_end=0.0, power=s["schedule_power"]),
    "inverse_sqrt": lambda opt, w, n, s: o.get_inverse_sqrt_schedule(opt, w),
}

CASES = [("constant", {}), ("linear", {}), ("cosine", {}), ("cosine", {"min_lr_ratio": 0.1}),
         ("cosine_with_restarts", {"schedule_cycles": 3}), ("polynomial", {"schedule_power": 2.0}), ("inverse_sqrt", {})]
SIZES = [(0, 7), (1, 10), (4, 40), (10, 10), (12, 9)]


def factors(name, settings, warmup, total):
    if name == "polynomial" and warmup >= total:
        return None  # divides by the steps after warm-up
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=PEAK)
    scheduler = MAKERS[name](optimizer, warmup, total, settings)
    values = []
    for _ in range(total + 1):
        values.append(scheduler.get_last_lr()[0] / PEAK)
        optimizer.step()
        scheduler.step()
    return values


def main():
    cases = []
    for name, settings in CASES:
        for warmup, total in SIZES:
            values = factors(name, settings, warmup, total)
            if values is not None:
                cases.append({"schedule": name, "settings": settings, "warmup_steps": warmup, "total_steps": total,
                              "factors": values})
    print("transformers", transformers.__version__, file=sys.stderr)
    out = ",\n".join(json.dumps(case) for case in cases)
    print("[\n" + out + "\n]")


main()
