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
from peft.optimizers import create_loraplus_optimizer
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


def initial_values(name, parameter):
    """By the formulas of hashed.py; of magnitudes, which PEFT starts as norms, from these."""
    if name.endswith("lora_magnitude_vector"):
        return hashed.magnitudes(name, parameter.numpy())
    return hashed.lora_values(name, *parameter.shape)


def attach(base, targets, rank, alpha, **options):
    """A PEFT model with A, B and magnitudes set by formula; options: LoraConfig's."""
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets,
                                            task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, p in parameters(model).items():
            p.copy_(torch.from_numpy(initial_values(name, p.detach())))
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


def optimizer_of(model, adam, ratio):
    """AdamW; with a ratio, of PEFT's groups for LoRA+."""
    options = {"lr": adam["lr"], "betas": (adam["beta1"], adam["beta2"]), "eps": adam["eps"]}
    if ratio is None:
        return torch.optim.AdamW(list(parameters(model).values()), weight_decay=adam["weight_decay"], **options)
    return create_loraplus_optimizer(model, torch.optim.AdamW, loraplus_lr_ratio=ratio,
                                     loraplus_weight_decay=adam["weight_decay"], **options)


def train(model, batch, steps, adam, ratio=None):
    """AdamW with clipping; returns each step's loss and gradient norm before clipping."""
    trained = list(parameters(model).values())
    optimizer = optimizer_of(model, adam, ratio)
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
    suffix = lambda n: "" if n.endswith("lora_magnitude_vector") else ".weight"
    return {f"base_model.model.model.{n}{suffix(n)}": np.ascontiguousarray(a) for n, a in arrays.items()}
