#!/usr/bin/env python3
"""LoRA training steps with PyTorch and PEFT: the work of bench_train, its options and its line.

    python scripts/bench/bench_peft.py --gguf FILE [--precision f32|bf16|autocast] [--b 4] [--t 256] [--steps 6]
                                       [--threads 2] [--targets q_proj,…] [--rank 16] [--dropout 0.05] [--checkpointing]

The model's weights are expanded from the GGUF file. Needs torch, transformers, peft and gguf.
"""
import argparse
import contextlib
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts" / "parity")]

parser = argparse.ArgumentParser()
parser.add_argument("--gguf", required=True)
parser.add_argument("--precision", default="f32", choices=["f32", "bf16", "autocast"])
parser.add_argument("--b", type=int, default=4)
parser.add_argument("--t", type=int, default=256)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--targets", default="q_proj,k_proj,v_proj,o_proj")
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--dropout", type=float, default=0.05)
parser.add_argument("--checkpointing", action="store_true")
given = parser.parse_args()

import peft
import torch

import reference

torch.set_num_threads(given.threads)
torch.manual_seed(0)
started = time.perf_counter()
base = reference.load(given.gguf)
base.set_attn_implementation("sdpa")
base.config.use_cache = False
if given.precision == "bf16":
    base = base.to(torch.bfloat16)
model = peft.get_peft_model(base, peft.LoraConfig(
    r=given.rank, lora_alpha=2 * given.rank, lora_dropout=given.dropout, target_modules=given.targets.split(","),
    task_type="CAUSAL_LM"))
if given.checkpointing:
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
load = time.perf_counter() - started


def precision():
    return torch.autocast("cpu", torch.bfloat16) if given.precision == "autocast" else contextlib.nullcontext()


def step():
    tokens = torch.randint(0, base.config.vocab_size, (given.b, given.t + 1))
    begun = time.perf_counter()
    with precision():
        logits = model(tokens[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begun


first, *times = [step() for _ in range(given.steps + 1)]
times.sort()
count = given.b * given.t
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(f"PEFT {given.precision} {given.b}x{given.t}: best {count / times[0]:.0f} median {count / times[len(times) // 2]:.0f} "
      f"tok/s, first step {first:.1f} s, load {load:.1f} s, peak {peak:.2f} GB")
