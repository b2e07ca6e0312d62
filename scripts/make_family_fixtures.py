#!/usr/bin/env python3
"""Writes spec/golden/families.json: small random models of every family, as transformers and PEFT compute them.

    python scripts/make_family_fixtures.py [--gemma gemma-3-270m-q4_k_m.gguf]

needs torch, transformers and peft. With --gemma it writes spec/golden/gemma3.json instead: the real Gemma 3 270M
(Q4_K, Q5_0, Q6_K and Q8_0 together) on real texts, its weights expanded to f32. A fixture holds no weights: every value is a function of its tensor's name
(scripts/parity/hashed.py, spec/support/hashed_normal.lua), so that the specs write the same models as GGUF files
and as Hugging Face folders. What it holds a family: config.json, the tensors' names and shapes, rows of tokens,
log-probabilities, and for branches on all seven projections the loss and a sketch of every gradient.
"""
import argparse
import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts" / "parity"))

import numpy as np
import torch
from transformers import (AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config,
                          Qwen3Config)

import hashed
import reference
from make_golden import rounded, sketched, write_json

RANK, ALPHA = 3, 6
VOCABULARY = 269  # of the tiny untied model, whose tokenizer they share
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 42, "intermediate_size": 53, "max_position_embeddings": 512,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
BANDS = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
GEMMA_ROPE = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}

# Odd sizes all: a head size that is not width / heads, one key head, sizes that no vector length divides.
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
                         rope_parameters=BANDS, tie_word_embeddings=False),
    "mistral": MistralConfig(**SIZES, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
                             sliding_window=7, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
                         tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
                         tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(**SIZES, num_hidden_layers=7, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
                               query_pre_attn_scalar=10, sliding_window=5, rope_parameters=GEMMA_ROPE),
}


def tensor_values(name, shape, centred):
    """The mirror of spec/support/family_model.lua. `centred`: norms are stored without their 1."""
    count = int(np.prod(shape))
    if name.endswith("bias"):
        return hashed.uniform(name, count, 0.5).reshape(shape)
    if len(shape) == 1:
        return hashed.uniform(name, count, 0.3) + np.float32(0.0 if centred else 1.0)
    bound = 0.5 if "embed" in name else 2.0 / np.sqrt(shape[1])
    return hashed.uniform(name, count, float(bound)).reshape(shape)


def build(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    centred = config.model_type.startswith("gemma")
    names = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            names[name] = list(p.shape)
            p.copy_(torch.from_numpy(tensor_values(name, tuple(p.shape), centred)))
    model.config.use_cache = False
    return model.eval(), names


def rows():
    draw = lambda name, count: (hashed.bits(name, count) % np.uint64(VOCABULARY)).astype(int).tolist()
    return [{"tokens": draw("family row 1", 40)},
            {"tokens": draw("family row 2", 21), "weights": [0.0] * 9 + [1.0] * 11}]


def logprobs(model, batch):
    with torch.no_grad():
        return [rounded(reference.logprobs(model, {"tokens": d["tokens"]}).numpy(), 7) for d in batch]


def json_config(config):
    kept = config.to_dict()
    kept["architectures"] = [type(AutoModelForCausalLM.from_config(config)).__name__]
    return {k: v for k, v in kept.items() if v is not None}


def family(config):
    model, names = build(config)
    batch = rows()
    out = {"config": json_config(config), "tensors": names, "rank": RANK, "alpha": ALPHA,
           "base_logprobs": logprobs(model, batch)}
    tuned = reference.attach(model, reference.SEVEN, RANK, ALPHA)
    out["logprobs"] = logprobs(tuned, batch)
    out["loss"] = reference.backward(tuned, batch)
    gradients = reference.gradients(tuned)
    sketches, norms = sketched(gradients)
    out["gradients"] = {name: {"sketch": rounded(s, 6), "norm": rounded([n])[0]}
                        for name, s, n in zip(gradients, sketches, norms)}
    return out


GEMMA_TEXTS = [
    "The capital of France is Paris, and the capital of Japan is",
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) +",
    "Na\u00efve caf\u00e9, \u4f60\u597d \U0001F642\u200d\U0001F642\t  two spaces\r\n\n\nOnce upon a time, in a small village",
]


def gemma(path):
    tokenizer, model = reference.load_tokenizer(path), reference.load(path)
    golden = {"gguf_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(), "texts": []}
    for text in GEMMA_TEXTS:
        ids = tokenizer.encode(text)
        with torch.no_grad():
            table = torch.log_softmax(reference.logits(model, torch.tensor(ids)).double(), -1)
        likeliest = table[-1].topk(32).indices.tolist()
        golden["texts"].append({
            "text": text, "ids": ids, "logprobs": rounded([table[i, ids[i + 1]] for i in range(len(ids) - 1)], 7),
            "last": {"ids": likeliest, "logprobs": rounded(table[-1][likeliest].numpy(), 7)},
        })
    write_json(ROOT / "spec" / "golden" / "gemma3.json", golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gemma", help="Gemma 3 270M, Q4_K_M")
    options = parser.parse_args()
    if options.gemma:
        gemma(options.gemma)
        return
    golden = {"rows": rows()}
    for name, config in CONFIGS.items():
        golden[name] = family(config)
    write_json(ROOT / "spec" / "golden" / "families.json", golden)


if __name__ == "__main__":
    main()
