"""Numbers that numpy and Lua compute alike: the mirror of spec/support/hashed_normal.lua.

Every value is a function of (name, index) alone, so a matrix of any size can be named in a fixture
instead of being stored in it. splitmix64's finaliser over FNV-1a of the name; normals by Box-Muller
in double, rounded to float32 at the end.
"""
import math

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SKETCH_SIZE = 64


def name_key(name):
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(key)


def bits(name, count):
    """64 random bits for each index 0..count-1."""
    with np.errstate(over="ignore"):
        z = name_key(name) + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniforms(name, count):
    """Doubles in [0, 1) with 53 random bits."""
    return (bits(name, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform(name, count, bound):
    return ((2.0 * uniforms(name, count) - 1.0) * bound).astype(np.float32)


def normal(name, count, sigma):
    # math and not numpy: numpy's vector log and cos differ from the C library's in the last bit.
    u = uniforms(name, 2 * count).tolist()
    return np.array(
        [sigma * (math.sqrt(-2.0 * math.log(1.0 - u[2 * i])) * math.cos(2.0 * math.pi * u[2 * i + 1]))
         for i in range(count)], dtype=np.float64).astype(np.float32)


def lora_values(name, rows, columns, sigma=0.02):
    """A uniform in +-1/sqrt(in), B normal: by the engine's name of the matrix."""
    if name.endswith("lora_A"):
        values = uniform(name, rows * columns, 1.0 / math.sqrt(columns))
    else:
        values = normal(name, rows * columns, sigma)
    return values.reshape(rows, columns)


def magnitudes(name, norms, bound=0.2):
    """DoRA's magnitudes: the norms they start as, each changed by up to a fifth."""
    return norms * (np.float32(1) + uniform(name, norms.size, bound))


def sketch(name, values):
    """A count sketch: each element is added, with a random sign, to one of 64 sums.

    The squared norm of a sketch is an unbiased estimate of the squared norm of what was sketched,
    with relative standard deviation sqrt(2/64) = 18%; sketches subtract as their vectors do.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    h = bits(name + "/sketch", flat.size)
    signs = np.where(h >> np.uint64(63), -1.0, 1.0)
    return np.bincount((h % np.uint64(SKETCH_SIZE)).astype(np.int64), weights=signs * flat,
                       minlength=SKETCH_SIZE)
