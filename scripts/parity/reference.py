"""The reference: PyTorch, transformers and PEFT in float32 on the weights of a GGUF file.

Rows run one at a time without padding. A datum is {"tokens", "targets"?, "weights"?} as the engine
takes it: without targets, tokens[1:] are the targets of tokens[:-1].
"""
import contextlib
import io
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import hashed

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SEVEN = ATTENTION + ["gate_proj", "up_proj", "down_proj"]
TARGET_SETS = {"attention": ATTENTION, "all": SEVEN}


def load(gguf):
    folder, name = os.path.split(os.path.abspath(gguf))
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars; failures are raised
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32,
                                                     attn_implementation="eager")
    del model.config.quantization_config  # the weights are plain float32 by now
    model.hf_quantizer = None
    model.is_quantized = None
    model.config.use_cache = False
    return model.eval()


def load_tokenizer(gguf):
    folder, name = os.path.split(os.path.abspath(gguf))
    return AutoTokenizer.from_pretrained(folder, gguf_file=name)


def engine_name(name):
    """base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight to the engine's name."""
    return name.removeprefix("base_model.model.model.").removesuffix(".weight").removesuffix(".default")


def attach(base, targets, rank, alpha):
    """A PEFT model with A and B set by the formula of hashed.py."""
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0,
                                            target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in parameters(model).items():
            p.copy_(torch.from_numpy(hashed.lora_values(name, *p.shape)))
    return model


def parameters(model):
    return {engine_name(n): p for n, p in model.named_parameters() if p.requires_grad}


def values(model):
    return {n: p.detach().numpy().copy() for n, p in parameters(model).items()}


def gradients(model):
    return {n: p.grad.numpy().copy() for n, p in parameters(model).items()}


def inputs_and_targets(datum):
    tokens = torch.tensor(datum["tokens"])
    if "targets" in datum:
        return tokens, torch.tensor(datum["targets"])
    return tokens[:-1], tokens[1:]


def logits(model, tokens):
    return model(input_ids=tokens[None]).logits[0]


def logprobs(model, datum):
    """[T] float64; the head's logits are float32, the log-sum-exp is not rounded again."""
    tokens, targets = inputs_and_targets(datum)
    table = torch.log_softmax(logits(model, tokens).double(), dim=-1)
    return table.gather(1, targets[:, None])[:, 0]


def weights(datum):
    _, targets = inputs_and_targets(datum)
    return torch.tensor(datum.get("weights", [1.0] * len(targets)), dtype=torch.float64)


def supervised(batch):
    return sum(int((weights(d) != 0).sum()) for d in batch)


def backward(model, batch):
    """Accumulates gradients of sum(w * nll) / count(w != 0); returns that loss."""
    count, total = supervised(batch), 0.0
    for datum in batch:
        loss = -(weights(datum) * logprobs(model, datum)).sum() / count
        loss.backward()
        total += loss.item()
    return total


def train(model, batch, steps, adam):
    """AdamW with clipping; returns each step's loss and gradient norm before clipping."""
    trained = list(parameters(model).values())
    optimizer = torch.optim.AdamW(trained, lr=adam["lr"], betas=(adam["beta1"], adam["beta2"]),
                                  eps=adam["eps"], weight_decay=adam["weight_decay"])
    losses, norms = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(backward(model, batch))
        norms.append(torch.nn.utils.clip_grad_norm_(trained, adam["max_grad_norm"]).item())
        optimizer.step()
    return losses, norms


def greedy(model, prompt, count):
    """The argmax continuation and the smallest lead of a chosen token over the runner-up."""
    tokens, lead = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(count):
            best = logits(model, torch.tensor(tokens))[-1].topk(2)
            lead = min(lead, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
    return tokens[len(prompt):], lead


def peft_tensors(arrays):
    """Engine names to the names of PEFT's adapter_model.safetensors."""
    return {f"base_model.model.model.{n}.weight": np.ascontiguousarray(a) for n, a in arrays.items()}
