#!/usr/bin/env python3
"""Writes spec/fixtures/quantize.json: digests of what the gguf package makes of rows that are functions of a name.

    python scripts/make_quantize_fixture.py

needs gguf and numpy. The mirror of the cases is spec/math/quantize_spec.lua.
"""
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts" / "parity"))

import gguf
import numpy as np

import hashed

COUNT = 2048
TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def spikes():
    values = hashed.uniform("quantize spikes", COUNT, 2.0**-10)
    values[::37] *= np.float32(4096)
    return values


CASES = {
    "normal": hashed.normal("quantize normal", COUNT, 0.02),
    "uniform": hashed.uniform("quantize uniform", COUNT, 1.0),
    "tiny": hashed.uniform("quantize tiny", COUNT, 2.0**-24),
    "large": hashed.uniform("quantize large", COUNT, 2.0**15),
    "spikes": spikes(),
    "steps": ((np.arange(COUNT) * 7 % 64 - 32) / np.float32(4)).astype(np.float32),
    "one sign": np.abs(hashed.uniform("quantize one sign", COUNT, 3.0)),
    "constant": np.full(COUNT, 0.75, np.float32),
    "zeros": np.zeros(COUNT, np.float32),
}


def digest(values, name):
    kind = gguf.GGMLQuantizationType[name]
    stored = gguf.quants.quantize(values.reshape(-1, 256), kind)
    return hashlib.sha256(np.ascontiguousarray(stored).tobytes()).hexdigest()


def main():
    table = {case: {name: digest(values, name) for name in TYPES} for case, values in CASES.items()}
    path = ROOT / "spec" / "fixtures" / "quantize.json"
    path.write_text(json.dumps({"count": COUNT, "digests": table}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
