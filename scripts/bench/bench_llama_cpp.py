#!/usr/bin/env python3
"""Prompt and generation speed of llama.cpp: the work of bench_generate, its options and its line.

    python scripts/bench/bench_llama_cpp.py --gguf FILE [--rows 16] [--prompt 256] [--new 64] [--threads 2] [--repeat 3]

Rows are decoded together through the C API, as a batch server would. Needs llama-cpp-python.
"""
import argparse
import ctypes
import time

import llama_cpp as llama

parser = argparse.ArgumentParser()
parser.add_argument("--gguf", required=True)
parser.add_argument("--rows", type=int, default=16)
parser.add_argument("--prompt", type=int, default=256)
parser.add_argument("--new", type=int, default=64)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--repeat", type=int, default=3)
given = parser.parse_args()

llama.llama_backend_init()
model = llama.llama_model_load_from_file(given.gguf.encode(), llama.llama_model_default_params())
settings = llama.llama_context_default_params()
settings.n_ctx = given.rows * (given.prompt + given.new) + 64
settings.n_batch, settings.n_ubatch, settings.n_seq_max = 2048, 512, given.rows
settings.n_threads = settings.n_threads_batch = given.threads
context = llama.llama_init_from_model(model, settings)


def decode(tokens):
    """tokens: (id, position, row, whether its logits are wanted)."""
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, (token, position, row, wanted) in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit("bench_llama_cpp: llama_decode failed")
    llama.llama_batch_free(batch)


def clock(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prompts():
    for row in range(given.rows):
        decode([(100 + (i * 7 + row) % 1000, i, row, i == given.prompt - 1) for i in range(given.prompt)])


def generation():
    for n in range(given.new):
        decode([(100 + n, given.prompt + n, row, True) for row in range(given.rows)])
        ctypes.cast(llama.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))[0]


prompt = new = float("inf")
for _ in range(given.repeat):
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    prompt = min(prompt, clock(prompts))
    new = min(new, clock(generation))
print(f"llama.cpp rows={given.rows} prompt={given.prompt} new={given.new}: "
      f"prompt {given.rows * given.prompt / prompt:.0f} tok/s, generation {given.rows * given.new / new:.1f} tok/s")
