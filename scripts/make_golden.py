#!/usr/bin/env python3
"""Writes the parity fixtures: spec/fixtures/tiny/*.gguf and spec/golden/{tiny,tiny_untied,smollm2}*.

    python scripts/make_golden.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf

needs torch, transformers, peft, gguf and safetensors; nothing of it is needed to run the specs.
What is in the fixtures: spec/golden/README.md. The same inputs give the same files.
"""
import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts" / "parity"))

import numpy as np
import torch
from safetensors.numpy import save_file

import hashed
import reference
import tiny

FIXTURES = ROOT / "spec" / "fixtures" / "tiny"
GOLDEN = ROOT / "spec" / "golden"
STEPS = 10
STEP_ROWS = [2, 3]  # enough supervised tokens that ten steps do not drive the loss to nothing
ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
GREEDY_PROMPTS = [0, 2, 3]
SMALLEST_LEAD = 0.01  # a greedy token less certain than this could change with rounding


def write_json(path, value):
    """One key or list element a line at the top two levels: small files, readable diffs."""
    compact = lambda v: json.dumps(v, separators=(", ", ": "), ensure_ascii=False)
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            inner = ",\n".join(f"    {json.dumps(k)}: {compact(v)}" for k, v in item.items())
            lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        elif isinstance(item, list) and item and isinstance(item[0], (dict, list)):
            inner = ",\n".join("    " + compact(v) for v in item)
            lines.append(f"  {json.dumps(key)}: [\n{inner}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {compact(item)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def rounded(values, digits=9):
    """float64 to 9 significant digits: far below every tolerance."""
    return [float(f"{v:.{digits}g}") for v in np.asarray(values, dtype=np.float64).ravel()]


def logprobs(model, batch):
    with torch.no_grad():
        return [rounded(reference.logprobs(model, datum).numpy()) for datum in batch]


def greedy(model, prompt, count):
    tokens, lead = reference.greedy(model, prompt, count)
    if lead < SMALLEST_LEAD:
        raise SystemExit(f"a greedy token leads by {lead:.2g} only: choose another prompt or seed")
    return {"prompt": prompt, "tokens": tokens, "smallest_lead": round(lead, 4)}


def save_peft(model, path):
    """PEFT's own writer, so that reading a file of PEFT's is part of what the specs check."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        shutil.copyfile(Path(folder) / "adapter_model.safetensors", path)


def clip_below(model, batch, share):
    """A clipping norm that the first gradient exceeds."""
    model.zero_grad()
    reference.backward(model, batch)
    norm = torch.cat([p.grad.ravel() for p in reference.parameters(model).values()]).norm().item()
    model.zero_grad()
    return float(f"{share * norm:.3g}")


# ---- tiny models: everything in full ----------------------------------------

def tiny_rows(size):
    """All supervised; a prompt without weight; fractional and negative weights on targets of one's
    own; the shortest row there is."""
    draw = lambda name, count: (hashed.bits(name, count) % np.uint64(size)).astype(int).tolist()
    return [
        {"tokens": draw("row 1", 40)},
        {"tokens": draw("row 2", 24), "weights": [0.0] * 9 + [1.0] * 14},
        {"tokens": draw("row 3", 17), "targets": draw("row 3 targets", 17),
         "weights": [0.0, 1.0, 0.5, 1.0, -0.25] + [1.0] * 6 + [0.0] * 6},
        {"tokens": draw("row 4", 2), "weights": [0.5]},
    ]


def tiny_set(path, name, stem, rows, rank, alpha):
    targets = reference.TARGET_SETS[name]
    model = reference.attach(reference.load(path), targets, rank, alpha)
    save_peft(model, GOLDEN / f"{stem}_{name}.adapter.safetensors")
    unweighted = [{k: v for k, v in row.items() if k != "weights"} for row in rows]
    adam = {**ADAM, "max_grad_norm": clip_below(model, rows, 0.5)}
    out = {"targets": targets, "rank": rank, "alpha": alpha, "logprobs": logprobs(model, unweighted)}
    out["loss"] = reference.backward(model, rows)
    save_file(reference.peft_tensors(reference.gradients(model)),
              GOLDEN / f"{stem}_{name}.gradient.safetensors")
    out["adam"] = adam
    out["losses"], out["grad_norms"] = reference.train(model, rows, STEPS, adam)
    save_peft(model, GOLDEN / f"{stem}_{name}.final.safetensors")
    return out


def make_tiny(shape, merges_from, sets, rank, alpha):
    path = FIXTURES / f"{shape.name}.gguf"
    tiny.write(path, shape, merges_from)
    base, tokenizer = reference.load(path), reference.load_tokenizer(path)
    rows = tiny_rows(base.config.vocab_size)
    text = "First Citizen:\n"
    unweighted = [{k: v for k, v in row.items() if k != "weights"} for row in rows]
    golden = {
        "rows": rows,
        "supervised": reference.supervised(rows),
        "base_logprobs": logprobs(base, unweighted),
        "greedy": {"text": text, **greedy(base, tokenizer.encode(text), 64)},
    }
    for name in sets:
        golden[name] = tiny_set(path, name, shape.name, rows, rank, alpha)
    write_json(GOLDEN / f"{shape.name}.json", golden)


# ---- SmolLM2: sketches --------------------------------------------------------

def real_rows(tokenizer):
    """The prompts' ids, and training rows of prompt and answer."""
    prompts, rows = [], []
    for entry in json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8")):
        prompt, answer = tokenizer.encode(entry["prompt"]), tokenizer.encode(entry["answer"])
        weights = [float(entry["prompt_weight"])] * (len(prompt) - 1) + [1.0] * len(answer)
        rows.append({"tokens": prompt + answer, "weights": weights})
        prompts.append(prompt)
    return prompts, rows


def probe_targets(model, row, number):
    """Targets that look at the logits of every position: the likeliest id, the next, and random ones."""
    tokens = row["tokens"][:-1]
    with torch.no_grad():
        best = reference.logits(model, torch.tensor(tokens)).topk(2).indices.T.tolist()
    size = np.uint64(model.config.vocab_size)
    random = [(hashed.bits(f"row {number} probe {i}", len(tokens)) % size).astype(int).tolist()
              for i in range(2)]
    return [row["tokens"][1:]] + best + random


def last_position(model, row, number):
    """Log-probabilities of 64 ids after the whole row: the 32 likeliest and 32 random ones."""
    with torch.no_grad():
        table = torch.log_softmax(reference.logits(model, torch.tensor(row["tokens"]))[-1].double(), -1)
    ids = table.topk(32).indices.tolist()
    ids += (hashed.bits(f"row {number} last", 32) % np.uint64(len(table))).astype(int).tolist()
    return {"ids": ids, "logprobs": rounded(table[ids].numpy())}


def probes(model, rows):
    out = []
    for number, row in enumerate(rows, 1):
        tokens = row["tokens"][:-1]
        batch = [{"tokens": tokens, "targets": t} for t in probe_targets(model, row, number)]
        out.append({"targets": [d["targets"] for d in batch], "logprobs": logprobs(model, batch),
                    "last": last_position(model, row, number)})
    return out


def sketched(arrays):
    names = list(arrays)
    return (np.stack([hashed.sketch(n, arrays[n]) for n in names]).astype(np.float32),
            np.array([np.linalg.norm(arrays[n].astype(np.float64)) for n in names], dtype=np.float32))


def real_set(gguf, name, rows, tensors):
    rank, alpha = 4, 8
    targets = reference.TARGET_SETS[name]
    model = reference.attach(reference.load(gguf), targets, rank, alpha)
    out = {"targets": targets, "rank": rank, "alpha": alpha, "names": list(reference.parameters(model))}
    _, tensors[f"{name}.start.norm"] = sketched(reference.values(model))
    out["logprobs"] = logprobs(model, [{"tokens": row["tokens"]} for row in rows])
    out["loss"] = reference.backward(model, rows)
    tensors[f"{name}.gradient.sketch"], tensors[f"{name}.gradient.norm"] = sketched(
        reference.gradients(model))
    model.zero_grad()
    return model, out


def make_real(gguf):
    tokenizer, base = reference.load_tokenizer(gguf), reference.load(gguf)
    prompts, rows = real_rows(tokenizer)
    golden = {
        "gguf_sha256": hashlib.sha256(Path(gguf).read_bytes()).hexdigest(),
        "rows": rows,
        "supervised": reference.supervised(rows),
        "probes": probes(base, rows),
        "greedy": [greedy(base, prompts[i], 32) for i in GREEDY_PROMPTS],
    }
    tensors = {}
    del base
    for name in reference.TARGET_SETS:
        model, golden[name] = real_set(gguf, name, rows, tensors)
    batch = [rows[i] for i in STEP_ROWS]
    adam = {**ADAM, "max_grad_norm": clip_below(model, batch, 0.15)}
    losses, norms = reference.train(model, batch, STEPS, adam)
    golden["steps"] = {"set": name, "rows": [i + 1 for i in STEP_ROWS], "adam": adam,
                       "losses": losses, "grad_norms": norms}
    tensors["steps.final.sketch"], tensors["steps.final.norm"] = sketched(reference.values(model))
    save_file(tensors, GOLDEN / "smollm2.safetensors")
    write_json(GOLDEN / "smollm2.json", golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True, help="SmolLM2-135M-Instruct, Q4_1")
    parser.add_argument("--only", choices=["tiny", "smollm2"], help="one half of the fixtures")
    options = parser.parse_args()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if options.only != "smollm2":
        make_tiny(tiny.MIXED, options.gguf, ["attention", "all"], rank=4, alpha=8)
        make_tiny(tiny.UNTIED, options.gguf, ["all"], rank=3, alpha=6)
    if options.only != "tiny":
        make_real(options.gguf)


if __name__ == "__main__":
    main()
