#!/usr/bin/env python3
"""Writes spec/golden/variants.{json,safetensors} and spec/golden/peft_dora: what PEFT makes of DoRA, rsLoRA, LoRA+,
and patterns of ranks and alphas.

    python scripts/make_variant_fixtures.py

needs torch, transformers and peft. The models are the tiny ones of spec/fixtures/tiny and, for biases, norms of heads
and norms after projections, small ones of other families (make_family_fixtures.py). A, B and magnitudes are functions of
their names (scripts/parity/hashed.py); gradients and what ten steps make are stored as sketches. Dropout is PEFT's own
code under this library's masks.
"""
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts" / "parity")]

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file

import make_family_fixtures as families
import make_golden
import masks
import reference
from make_golden import ADAM, FIXTURES, GOLDEN, STEPS, rounded, sketched, write_json

# The first key that means a module counts: layer 0's q_proj has rank 2, the others' 5.
RANKS = {r"layers\.0\..*q_proj": 2, "q_proj": 5, r"model.layers.1.mlp.down_proj": 1, "gate_proj|up_proj": 3}
ALPHAS = {r"mlp\..*": 10, r"layers\.[01]\.self_attn\.(k|v)_proj": 3.5}

TINY = {
    "dora": {"model": "tiny", "rank": 4, "alpha": 8, "use_dora": True, "ratio": 16.0},
    "patterns": {"model": "tiny_untied", "rank": 4, "alpha": 8, "rank_pattern": RANKS, "alpha_pattern": ALPHAS,
                 "ratio": 4.0},
    "dora_patterns": {"model": "tiny_untied", "rank": 4, "alpha": 8, "use_dora": True, "use_rslora": True,
                      "rank_pattern": RANKS, "alpha_pattern": ALPHAS},
}
FAMILY_LAYERS = ("layers.0.", "layers.5.")  # of Gemma's, one with a window and one without
OPTIONS = ["use_dora", "use_rslora", "rank_pattern", "alpha_pattern"]


def attach(base, rank, alpha, **options):
    return reference.attach(base, reference.SEVEN, rank, alpha, **options)


def store(tensors, stem, arrays):
    tensors[f"{stem}.sketch"], tensors[f"{stem}.norm"] = sketched(arrays)


def dropped_set(model, rows, rate, seed):
    """Loss under masks of this library; gradients stay on the model."""
    masks.install(model, rate, seed)
    loss = 0.0
    count = reference.supervised(rows)
    for number, row in enumerate(rows):
        masks.begin_row(model, number)
        part = -(reference.weights(row) * reference.logprobs(model, row)).sum() / count
        part.backward()
        loss += part.item()
    masks.remove(model)
    return loss


def tiny_case(name, case, rows, tensors):
    path = FIXTURES / f"{case['model']}.gguf"
    options = {key: case[key] for key in OPTIONS if key in case}
    model = attach(reference.load(path), case["rank"], case["alpha"], **options)
    unweighted = [{k: v for k, v in row.items() if k != "weights"} for row in rows]
    out = {**case, "names": list(reference.parameters(model))}
    for key in ("rank_pattern", "alpha_pattern"):  # lists: what reads them may keep no order of an object's keys
        if key in case:
            out[key] = [list(pair) for pair in case[key].items()]
    out["logprobs"] = make_golden.logprobs(model, unweighted)
    out["loss"] = reference.backward(model, rows)
    store(tensors, f"{name}.gradient", reference.gradients(model))
    model.zero_grad()
    if name.startswith("dora"):
        out["dropout"], out["seed"] = 0.3, 7
        out["dropped_loss"] = dropped_set(model, rows, out["dropout"], out["seed"])
        store(tensors, f"{name}.dropped", reference.gradients(model))
        model.zero_grad()
    out["adam"] = {**ADAM, "max_grad_norm": make_golden.clip_below(model, rows, 0.5)}
    out["losses"], out["grad_norms"] = reference.train(model, rows, STEPS, out["adam"], case.get("ratio"))
    store(tensors, f"{name}.final", reference.values(model))
    return out


def family_case(name, tensors):
    base, _ = families.build(families.CONFIGS[name])
    model = attach(base, families.RANK, families.ALPHA, use_dora=True)
    batch = families.rows()
    out = {"rank": families.RANK, "alpha": families.ALPHA, "use_dora": True, "logprobs": families.logprobs(model, batch)}
    out["loss"] = reference.backward(model, batch)
    kept = {n: g for n, g in reference.gradients(model).items() if n.startswith(FAMILY_LAYERS)}
    out["names"] = list(kept)
    store(tensors, f"{name}.gradient", kept)
    return out


def peft_folder(rows):
    """A folder as PEFT saves it, and what the model says with it."""
    torch.manual_seed(5)
    base = reference.load(FIXTURES / "tiny_untied.gguf")
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], use_dora=True,
                        use_rslora=True, rank_pattern={r"layers\.1\..*": 1, "q_proj": 3}, alpha_pattern={"v_proj": 5},
                        task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for parameter in reference.parameters(model).values():
            parameter += 0.05 * torch.randn_like(parameter)
    folder = GOLDEN / "peft_dora"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place, save_embedding_layers=False)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copyfile(Path(place) / file, folder / file)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(FIXTURES.resolve()) + "/", ""), encoding="utf-8")
    return {"logprobs": make_golden.logprobs(model, [{"tokens": row["tokens"]} for row in rows])}


def main():
    rows = make_golden.tiny_rows(256)
    golden, tensors = {"rows": rows}, {}
    for name, case in TINY.items():
        golden[name] = tiny_case(name, case, rows, tensors)
    for name in ("qwen2", "gemma3"):
        golden[name] = family_case(name, tensors)
    golden["peft_folder"] = peft_folder(rows)
    write_json(GOLDEN / "variants.json", golden)
    path = GOLDEN / "variants.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    path.chmod(0o644)


if __name__ == "__main__":
    main()
