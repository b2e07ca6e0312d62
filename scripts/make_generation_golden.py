#!/usr/bin/env python3
"""Writes spec/golden/{sampling,generation}.json: what transformers draws from and writes.

    python scripts/make_generation_golden.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --prompts FILE.jsonl

needs torch, transformers, peft and gguf; nothing of it is needed to run the specs. sampling.json has the
distribution that transformers' logits processors leave of the tiny model's logits, for each filter.
generation.json has greedy continuations by SmolLM2 in float32, with and without a lora, of the first 20
rows' `input` or `claim`; `lead` is the least by which a chosen token led the runner-up.
"""
import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts" / "parity"))

import torch
from transformers import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                          TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

import reference

GOLDEN = ROOT / "spec" / "golden"
PROMPTS, TOKENS = 20, 64
PROMPT = [17, 42, 5, 17, 300, 131]
SETTINGS = [
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.1},
    {"temperature": 2.0, "min_p": 0.2},
    {"repetition_penalty": 3.0, "temperature": 0.7},
    {"repetition_penalty": 0.5, "top_k": 40},
    {"temperature": 1.5, "top_k": 8, "top_p": 0.7},
    {"repetition_penalty": 1.3, "temperature": 0.8, "top_k": 60, "top_p": 0.9, "min_p": 0.05},
]
PARTS = {  # in the order of generate()
    "repetition_penalty": RepetitionPenaltyLogitsProcessor, "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper,
}


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


# ---- filters on the tiny model ----------------------------------------------------------------

def distribution(scores, setting):
    processors = LogitsProcessorList([PARTS[name](setting[name]) for name in PARTS if name in setting])
    left = torch.softmax(processors(torch.tensor([PROMPT]), scores[None].clone())[0], dim=-1)
    return [[i, round(p, 8)] for i, p in enumerate(left.tolist()) if p > 0]


def make_sampling():
    model = reference.load(ROOT / "spec" / "fixtures" / "tiny" / "tiny.gguf")
    with torch.no_grad():
        scores = reference.logits(model, torch.tensor(PROMPT))[-1].double()
    write_json(GOLDEN / "sampling.json", {
        "prompt": PROMPT, "cases": [{"setting": s, "shares": distribution(scores, s)} for s in SETTINGS]})


# ---- greedy text of SmolLM2 --------------------------------------------------------------------

def greedy(model, prompt):
    tokens, lead, past = list(prompt), float("inf"), None
    inputs = torch.tensor([tokens])
    with torch.no_grad():
        for _ in range(TOKENS):
            out = model(input_ids=inputs, past_key_values=past, use_cache=True)
            past, best = out.past_key_values, out.logits[0, -1].topk(2)
            lead = min(lead, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
            inputs = torch.tensor([[tokens[-1]]])
    return {"tokens": tokens[len(prompt):], "lead": round(lead, 5)}


def prompts_of(path, tokenizer):
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()[:PROMPTS]]
    texts = [row.get("input") or row.get("prompt") or f"Claim: {row['claim']}\nVerdict:" for row in rows]
    return [tokenizer.encode(text, add_special_tokens=False)[-96:] for text in texts]


def make_generation(gguf, path):
    tokenizer, base = reference.load_tokenizer(gguf), reference.load(gguf)
    prompts = prompts_of(path, tokenizer)
    result = {"prompts": prompts, "rank": 4, "alpha": 8, "targets": reference.ATTENTION}
    result["base"] = [greedy(base, p) for p in prompts]
    tuned = reference.attach(base, reference.ATTENTION, 4, 8)
    result["lora"] = [greedy(tuned, p) for p in prompts]
    write_json(GOLDEN / "generation.json", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--prompts", help="JSON lines; without it sampling.json alone is written")
    options = parser.parse_args()
    torch.set_num_threads(2)
    make_sampling()
    if options.prompts:
        make_generation(options.gguf, options.prompts)


if __name__ == "__main__":
    main()
