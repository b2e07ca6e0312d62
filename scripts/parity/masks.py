"""Dropout of PEFT's layers under this library's masks: a function of seed, step, row, position and projection
(csrc/base/rng.h, csrc/train/batch.c, csrc/model/linear.c)."""
import torch
from peft.tuners.lora import LoraLayer

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL = 0xFFFFFFFFFFFFFFFF


def hash64(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ALL
    return x ^ (x >> 31)


def combine(key, value):
    return hash64((key + 0x9E3779B97F4A7C15 * (value + 1)) & ALL)


def column_hash(key, columns):
    """cr_mask_hash of every column: [columns] int64."""
    c = torch.arange(columns, dtype=torch.int64)
    low = 0xFFFFFFFF
    x = ((key & low) + c * 0x9E3779B1) & low
    x ^= x >> 16
    x = (x * 0x7FEB352D) & low
    x ^= x >> 15
    x = (x * 0x846CA68B) & low
    x ^= x >> 16
    return x ^ (key >> 32)


class Masked(torch.nn.Module):
    """Stands where PEFT has its nn.Dropout."""

    def __init__(self, rate, seed, site):
        super().__init__()
        self.rate, self.site = rate, site
        self.step_key = combine(combine(seed, 0xD0), 0)  # of the first step

    def forward(self, x):
        keys = [combine(combine(self.row_key, i), self.site) for i in range(x.shape[1])]
        threshold = int(self.rate * 4294967296.0)
        kept = torch.stack([column_hash(key, x.shape[2]) >= threshold for key in keys])
        return x * kept[None].to(x.dtype) * (1.0 / (1.0 - self.rate))


def layers(model):
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def install(model, rate, seed):
    for name, module in layers(model):
        layer = int(name.split("layers.")[1].split(".")[0])
        site = layer * len(PROJECTIONS) + PROJECTIONS.index(name.split(".")[-1])
        module.lora_dropout["default"] = Masked(rate, seed, site)
        module.training = True  # PEFT asks the layer whether x is dropped


def begin_row(model, number):
    for _, module in layers(model):
        mask = module.lora_dropout["default"]
        mask.row_key = combine(mask.step_key, number)


def remove(model):
    for _, module in layers(model):
        module.lora_dropout["default"] = torch.nn.Identity()
        module.training = False
