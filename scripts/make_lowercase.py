#!/usr/bin/env python3
"""Writes lua/crucible/metrics/lowercase.lua: the simple lower-case forms of Unicode, as runs.

    scripts/make_lowercase.py

The source is Python's own database (unicodedata); a run is (first, last, step, distance).
"""
import pathlib
import unicodedata

HEADER = """-- Lower-case forms of letters beyond ASCII, as runs of code points: first, last, step, distance.
-- Unicode {version}, written by scripts/make_lowercase.py.
return {{
"""


def pairs():
    for code in range(0x80, 0x110000):
        lower = chr(code).lower()
        if lower != chr(code) and len(lower) == 1:
            yield code, ord(lower) - code


def runs():
    """Neighbours at distance 1 or 2 with the same shift make one run."""
    open_runs = []
    for code, shift in pairs():
        last = open_runs[-1] if open_runs else None
        if last and last[3] == shift and code - last[1] in (1, 2) and (last[0] == last[1] or code - last[1] == last[2]):
            last[2] = code - last[1]
            last[1] = code
        else:
            open_runs.append([code, code, 1, shift])
    return open_runs


def main():
    target = pathlib.Path(__file__).parent.parent / "lua/crucible/metrics/lowercase.lua"
    cells = ["{ 0x%X, 0x%X, %d, %d }," % tuple(run) for run in runs()]
    lines, line = [], " "
    for cell in cells:
        if len(line) + 1 + len(cell) > 118:
            lines.append(line)
            line = " "
        line += " " + cell
    lines.append(line)
    target.write_text(HEADER.format(version=unicodedata.unidata_version) + "\n".join(lines) + "\n}\n")


main()
