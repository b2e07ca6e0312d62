#!/usr/bin/env python3
"""Writes spec/fixtures/tokenizer/*.json, or compares the built library with Hugging Face tokenizers.

    python scripts/make_tokenizer_fixtures.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf
    python scripts/make_tokenizer_fixtures.py --gguf FILE --check DATA_FOLDER [--build build/debug]

needs tokenizers and gguf; nothing of it is needed to run the specs. The check needs lua5.4 and a
build of the library; its part on pieces needs a debug build. What is in the fixtures: README.md
beside them. The same tokenizers version gives the same files.

The reference is built from the vocabulary and merges inside the GGUF file, with the pre-tokenizer of
SmolLM2's tokenizer.json: each digit alone, then GPT-2's pattern. (transformers, loading the GGUF
file, leaves the digits out and gives other ids for a space before a digit.)
"""
import argparse
import array
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "spec" / "fixtures" / "tokenizer"

# The patterns as in the tokenizer.json of each model.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def by_pattern(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def pre_tokenizer(name):
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt2":
        return gpt2
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    return by_pattern(LLAMA3 if name == "llama-bpe" else QWEN2)


NAMES = ["gpt2", "smollm", "llama-bpe", "qwen2"]
IGNORE_MERGES = {"llama-bpe"}


# ---- the reference -------------------------------------------------------------------------------


class Reference:
    """Hugging Face tokenizers over the vocabulary of a GGUF file."""

    def __init__(self, path, name):
        reader = GGUFReader(path)
        field = lambda key: reader.fields["tokenizer.ggml." + key].contents()
        tokens, types = field("tokens"), field("token_type")
        self.tokenizer = Tokenizer(
            models.BPE(
                vocab={token: i for i, token in enumerate(tokens)},
                merges=[split_merge(merge) for merge in field("merges")],
                ignore_merges=name in IGNORE_MERGES,
            )
        )
        self.tokenizer.pre_tokenizer = pre_tokenizer(name)
        self.tokenizer.decoder = decoders.ByteLevel()
        self.specials = [token for token, kind in zip(tokens, types) if kind in (3, 4)]
        self.tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in self.specials]
        )
        known = set(tokens)
        self.lacking = {byte for byte, letter in byte_letters().items() if letter not in known}

    def ids(self, text, parse_special=True):
        self.tokenizer.encode_special_tokens = not parse_special
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def can_say(self, data):
        """The reference drops bytes without a token and refuses what is no text."""
        if self.lacking & set(data):
            return False
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True


def split_merge(merge):
    left, right = merge[:1] + merge[1:].split(" ", 1)[0], merge[1:].split(" ", 1)[1]
    return left, right


def byte_letters():
    """GPT-2's alphabet: byte to letter."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in prints]
    return {b: chr(b) for b in prints} | {b: chr(256 + i) for i, b in enumerate(others)}


def piece_lengths(name, text):
    """Bytes of each piece. Every letter of the byte alphabet is one byte."""
    return [len(piece) for piece, _ in pre_tokenizer(name).pre_tokenize_str(text)] if text else []


# ---- the stress texts ----------------------------------------------------------------------------

FAMILY = "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466"

# name, parts; a part is text or [text, times].
TEXTS = [
    ("nothing", []),
    ("one space", [" "]),
    ("a sentence", ["Hello, world! The quick brown fox jumps over the lazy dog."]),
    ("contractions", ["I'm sure they'll say it's what we've known; he'd, she'd, you're, can't, 'tis, y'all'd've"]),
    ("contractions in capitals", ["I'M SURE THEY'LL SAY IT'S WHAT WE'VE KNOWN; HE'D, YOU'RE, CAN'T"]),
    ("contractions in odd case", ["it'S we'Ve you'rE they'lL I'm'M don'T 'sS 'lll 'LLL 'veil 'Retro"]),
    ("contractions with a long s", ["it'\u017F that'\u017Fo '\u212A 'K"]),
    ("apostrophes", ["'' ''' 's' ' s '' t ''''s \u2019s \u02BCs"]),
    ("digits", ["0 1 12 123 1234 12345 123456789012345 3.14159 1,000,000 1e-5 0xFF x1y22z333"]),
    ("spaces before digits", ["a 1  2   3    4\t5\n6 \n7\n 8\r\n9  10 x  11"]),
    ("other numbers", ["\u0663\u0661\u0664 \u0967\u0968\u0969 \u2167 \u00BD\u00BE \u2460\u2461 \u4E8C \uFF11\uFF12 x\u00B2 \U0001D7D8\U0001D7D9"]),
    ("tabs", ["\ta\t\tb\t \tc \t d\t"]),
    ("line ends", ["a\nb\n\nc\r\nd\r\n\r\ne\rf\r\r \n \r\n  \n\n  g \n"]),
    ("line ends after marks", ["end.\n\nNext!\r\n...\n\n\n} \n{\n"]),
    ("runs of spaces", ["a b  c   d    e     f      g       h        i  "]),
    ("unusual spaces", ["a\u00A0b\u00A0\u00A0c\u2003d\u3000\u3000e\u202Ff\u205Fg\u1680h\u0085i\u2028j\u2029k\x0Bl\x0Cm"]),
    ("spaces that are none", ["a\u180Eb \u180E c\u200Bd \u200B e\uFEFFf\u2060g\x1Ch\x1Fi"]),
    ("leading and trailing space", ["  leading", " and trailing  "]),
    ("10,000 spaces", [["  ", 5000]]),
    ("10,000 spaces inside", ["a", [" ", 10000], "b"]),
    ("line ends by thousands", [["\n", 3000], "x", ["\r\n", 1000], [" \n", 1000]]),
    ("one letter", [["a", 20000]]),
    ("one mark", [["=", 5000], ["-", 5000], ["=-", 1000]]),
    ("a long word", [["abcdefghij", 1000]]),
    ("tabs by thousands", [["\t", 3000], "x"]),
    ("NUL", ["a\x00b", ["\x00", 3], " \x00 \x00"]),
    ("control characters", ["\x01\x02\x03\x05\x07\x08\x0E\x0F\x10\x11\x12\x15\x17\x18\x19\x1A\x1B[0m\x1E\x7F"]),
    ("marks", ["!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \u00A1\u00BF \u2026 \u2013\u2014 \u201Cq\u201D \u00ABq\u00BB \u3002\u3001 !!! ??? ?! --- ***"]),
    ("code", ["def f(x):\n    return {k: v**2 for k, v in x.items() if v >= 0}  # ok\n\n\tif (a && b) { c->d(); }\n"]),
    ("a link", ["https://example.org/a/b-c_d?e=f&g=%20h#i mailto:a.b+c@example.org"]),
    ("accents", ["Caf\u00E9 na\u00EFve r\u00E9sum\u00E9 \u00C5ngstr\u00F6m \u0141\u00F3d\u017A Stra\u00DFe \u0130stanbul \u01C5"]),
    ("combining marks", ["Cafe\u0301 nai\u0308ve A\u030Angstro\u0308m e\u0301\u0302\u0303 a \u0301b \u0345 Z\u0351\u036B\u0343A\u0306\u0310L\u0304G\u033FO\u0311"]),
    ("Greek and Cyrillic", ["\u039A\u03B1\u03BB\u03B7\u03BC\u03AD\u03C1\u03B1 \u03BA\u03CC\u03C3\u03BC\u03B5, \u041F\u0440\u0438\u0432\u0435\u0442, \u043C\u0438\u0440! \u0407\u0436\u0430\u043A"]),
    ("Arabic", ["\u0645\u0631\u062D\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060C \u0627\u0644\u0633\u064E\u0651\u0644\u0627\u0645\u064F \u0639\u0644\u064A\u0643\u0645 \u0640\u0640\u0640 \u06F1\u06F2\u06F3"]),
    ("Hebrew", ["\u05E9\u05C1\u05B8\u05DC\u05D5\u05B9\u05DD \u05E2\u05D5\u05DC\u05DD \u05E6\u05D4\u05F4\u05DC"]),
    ("Devanagari and Tamil", ["\u0928\u092E\u0938\u094D\u0924\u0947 \u0926\u0941\u0928\u093F\u092F\u093E \u0BB5\u0BA3\u0B95\u0BCD\u0B95\u0BAE\u0BCD"]),
    ("Thai and Tibetan", ["\u0E2A\u0E27\u0E31\u0E2A\u0E14\u0E35\u0E0A\u0E32\u0E27\u0E42\u0E25\u0E01 \u0F56\u0F7C\u0F51\u0F0B\u0F61\u0F72\u0F42"]),
    ("CJK", ["\u4F60\u597D\uFF0C\u4E16\u754C\uFF01\u8FD9\u662F2024\u5E74\u7684\u6D4B\u8BD5\u3002\u65E5\u672C\u8A9E\u306E\u30C6\u30B9\u30C8\u30FC\u3001\u30AB\u30BF\u30AB\u30CA \uFF8A\uFF9D\uFF76\uFF78 \uD55C\uAD6D\uC5B4 \u1112\u1161\u11AB"]),
    ("rare CJK", ["\U00020000\U0002A6D6\U0002B740\U0002EBF0\U00030000\U00031350 \u3400\uF900"]),
    ("emoji", ["\U0001F600 \U0001F44D\U0001F3FD \U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7 \u2764\uFE0F 1\uFE0F\u20E3 \u263A"]),
    ("emoji with joiners", [FAMILY, " a", FAMILY, "b \U0001F3F3\uFE0F\u200D\U0001F308 \U0001F469\U0001F3FE\u200D\U0001F4BB"]),
    ("emoji with tags", ["\U0001F3F4\U000E0067\U000E0062\U000E0073\U000E0063\U000E0074\U000E007F"]),
    ("mathematics", ["\u2200x\u2208\u211D: \u2211\u1D62 x\u1D62\u00B2 \u2264 \u222B f(x)\u2009dx \u2248 \U0001D4D0\U0001D5D5 \u2115"]),
    ("the ends of the planes", ["\uFFFD\uFFFE\uFFFF\U00010000\U0001FFFF\U000E0001\U0010FFFF \uE000\uF8FF"]),
    ("letters of Unicode 15 and 16", ["a\U00010D4Ab \U00011F04 \U0001E4D0\U0001E4D1 \U00013460\U00013461 \uA7DA\u1C89x"]),
    ("numbers of Unicode 15 to 17", ["a\U00010D40\U00010D41 \U0001E4F0 \U00011DE0\U00016FF4"]),
    ("special tokens", ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"]),
    ("special tokens side by side", ["<|im_end|><|im_end|> <|im_end|>\n<|endoftext|><repo_name><reponame><file_sep>"]),
    ("space around special tokens", ["a  <|im_end|>  b\n\n<|im_start|>\n\n  7 <|im_end|> 8"]),
    ("halves of special tokens", ["<|im_<|im_end|>end|> <|im_end| > <|im_start <|im_end|<|im_end|>|> <<|im_end|>> <| |>"]),
    ("special tokens in capitals", ["<|IM_END|> <|Im_Start|> < |im_end|>"]),
    ("letters of the byte alphabet", ["\u0120the \u010A\u010A \u0100\u0143 \u0122 \u00C3\u00A9"]),
]

# Not text: only the way back is checked.
BYTES = [
    ("stray continuation bytes", b"a\x80b\xBF\xBF c"),
    ("stray lead bytes", b"\xC3 \xE2 \xF0 a\xC3"),
    ("cut sequences", b"caf\xC3 \xE2\x82 \xF0\x9F\x98 end\xF0\x9F"),
    ("overlong forms", b"\xC0\x80 \xC1\xBF \xE0\x80\x80 \xE0\x9F\xBF \xF0\x80\x80\x80 \xF0\x8F\xBF\xBF"),
    ("surrogates", b"\xED\xA0\x80\xED\xB0\x80 \xED\xBF\xBF"),
    ("beyond the last plane", b"\xF4\x90\x80\x80 \xF5\x80\x80\x80 \xF8\x88\x80\x80\x80 \xFE\xFF"),
    ("planes without letters", "\U00040000\U00080000\U000BFFFF\U000F0000\U00100000".encode()),
    ("what looks like an escape", b"\xED\xB0\x84 \xED\xB3\xAD \xED\xB3\xBF\xED\xB0\x84 \xED\xB0 \x84\xED\xED\xB0\x84"),
    ("an escape beside its byte", b"\x04\xED\xB0\x84\x04 \xFF\xED\xB3\xBF\xFF \xED\x04 \xED\xB0\x04 \xED\xFF\x84"),
    ("every byte upwards", bytes(range(256))),
    ("every byte downwards", bytes(reversed(range(256)))),
    ("every byte between letters", b"".join(b"a" + bytes([b]) for b in range(256))),
    ("stray bytes beside special tokens", b"\xED<|im_end|>\xB0\x84<|im_start|>\xFF<|im_end|>\x80"),
    ("text after stray bytes", b"\xFF\xFE the end  \xFF  of it's\xFF's"),
    ("10,000 stray bytes", b"\x80" * 10000),
]


def join_parts(parts):
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


# ---- fixtures --------------------------------------------------------------------------------------


def runs(values):
    """[7, 7, 7, 2] as [[7, 3], 2]: the long texts give long runs."""
    out = []
    for value in values:
        if out and isinstance(out[-1], list) and out[-1][0] == value:
            out[-1][1] += 1
        elif out and out[-1] == value:
            out[-1] = [value, 2]
        else:
            out.append(value)
    return out


def write_rows(path, rows):
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    path.write_text("[\n" + lines + "\n]\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(rows)} rows, {path.stat().st_size:,} bytes")


def write_fixtures(reference):
    FIXTURES.mkdir(parents=True, exist_ok=True)
    stress, pieces = [], []
    for name, parts in TEXTS:
        text = join_parts(parts)
        if not reference.can_say(text.encode()):
            raise SystemExit(f"{name}: holds a byte that has no token")
        row = {"name": name, "parts": parts, "ids": runs(reference.ids(text))}
        plain = runs(reference.ids(text, parse_special=False))
        if plain != row["ids"]:
            row["plain_ids"] = plain
        stress.append(row)
        row = {"name": name, "parts": parts}
        pieces.append(row | {name: runs(piece_lengths(name, text)) for name in NAMES})
    stress += [{"name": name, "hex": data.hex()} for name, data in BYTES]
    write_rows(FIXTURES / "smollm2_stress.json", stress)
    write_rows(FIXTURES / "pieces.json", pieces)


# ---- the library -----------------------------------------------------------------------------------

# Reads records (u32 length, bytes) and writes for each u32 count, then i32 values; -1 = the way back fails.
ENCODE = """
local core = require "crucible.core"
local tokenizer = assert(core.open_model(arg[1])):tokenizer()
local input, output = assert(io.open(arg[2], "rb")), assert(io.open(arg[3], "wb"))
local seconds, bytes = 0, 0
while true do
  local head = input:read(4)
  if not head then break end
  local text = input:read((string.unpack("<I4", head))) or ""
  local start = os.clock()
  local ids = assert(tokenizer:encode(text, true))
  seconds, bytes = seconds + os.clock() - start, bytes + #text
  if tokenizer:decode(ids) ~= text or tokenizer:decode(tokenizer:encode(text)) ~= text then ids = { -1 } end
  output:write(string.pack("<I4", #ids))
  for i = 1, #ids, 100 do
    local last = math.min(i + 99, #ids)
    output:write(string.pack("<" .. ("i4"):rep(last - i + 1), table.unpack(ids, i, last)))
  end
end
print(seconds, bytes)
"""

SPLIT = """
require "crucible.core" -- which brings the next along
local debug = require "crucible.core.debug"
local input, output = assert(io.open(arg[2], "rb")), assert(io.open(arg[3], "wb"))
while true do
  local head = input:read(4)
  if not head then break end
  local text = input:read((string.unpack("<I4", head))) or ""
  local lengths = assert(debug.pretokenize(arg[1], text))
  output:write(string.pack("<I4", #lengths))
  for _, length in ipairs(lengths) do output:write(string.pack("<i4", length)) end
end
"""


class Library:
    def __init__(self, build, gguf):
        self.environment = dict(os.environ, LUA_CPATH=f"{build}/lua5.4/?.so;;")
        self.gguf = str(gguf)

    def run(self, program, argument, records):
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in", Path(folder) / "out"
            with source.open("wb") as out:
                for record in records:
                    out.write(len(record).to_bytes(4, "little") + record)
            command = ["lua5.4", "-", argument, str(source), str(target)]
            done = subprocess.run(command, input=program, env=self.environment, text=True, capture_output=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            return read_lists(target.read_bytes()), done.stdout

    def encode(self, records):
        return self.run(ENCODE, self.gguf, records)

    def split(self, name, records):
        return self.run(SPLIT, name, records)[0]


def read_lists(data):
    values = array.array("i")
    values.frombytes(data)
    at, out = 0, []
    while at < len(values):
        count = values[at]
        out.append(values[at + 1 : at + 1 + count].tolist())
        at += count + 1
    return out


# ---- the check -------------------------------------------------------------------------------------


def strings_of(value):
    """All strings inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_of(item)


def data_records(path):
    """Title and records: the lines, the whole file, and the texts inside of JSON lines."""
    data = path.read_bytes()
    yield "lines", data.split(b"\n")
    yield "whole", [data]
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        yield "texts", [text.encode() for line in lines for text in strings_of(line)]


def random_records(count, specials):
    """Mixtures in which unlikely neighbours meet."""
    source = random.Random(20240601)
    parts = [" ", "  ", "\n", "\r\n", "\t", "'", "'s", "'LL", "1", "23", "4567", "a", "The", "ing", ".", "...", "-", "_"]
    parts += ["\u00A0", "\u3000", "\u0085", "\u180E", "\u0301", "\u4E2D", "\u0661", "\u00BD", "\u017F", "\U0001F600", "\u200D"]
    parts += ["\U0002EBF0", "\U00010D40", "\x00", "<|im", *specials[:4]]
    for _ in range(count):
        yield "".join(source.choice(parts) for _ in range(source.randint(1, 24))).encode()


def in_company(point):
    """A code point as a word's part, behind a space, before a digit and after an apostrophe."""
    c = chr(point)
    return f"a{c} {c}{c}b  {c}1 {c} '{c} '{c}s\n{c}\n" if not 0xD800 <= point < 0xE000 else ""


def every_code_point():
    """One record a code point of Latin-1, where bytes without a token lie; then one for 64 points."""
    yield from (in_company(point).encode() for point in range(256))
    for first in range(256, 0x110000, 64):
        yield "".join(map(in_company, range(first, first + 64))).encode()


class Tally:
    def __init__(self):
        self.records = self.tokens = self.apart = self.bad = self.lost = 0

    def add(self, title, records, expected, got):
        """expected[i] is None where only the way back is checked."""
        bad = sum(e is not None and e != g for e, g in zip(expected, got))
        lost = sum(g == [-1] for g in got)
        apart = sum(e is None for e in expected)
        tokens = sum(map(len, got))
        print(f"{title}: {len(records):,} records, {tokens:,} values, {bad} differ, {lost} not given back"
              + (f" ({apart:,} without reference)" if apart else ""), flush=True)
        for record, e, g in zip(records, expected, got):
            if e is not None and e != g:
                print("  first:", record[:200], e[:20], g[:20])
                break
        self.records += len(records)
        self.tokens += tokens
        self.bad += bad
        self.lost += lost
        self.apart += apart


def check_ids(tally, title, records, reference, library):
    start = time.perf_counter()
    expected = [reference.ids(r.decode()) if reference.can_say(r) else None for r in records]
    theirs = time.perf_counter() - start
    got, speed = library.encode(records)
    tally.add(title, records, expected, got)
    seconds, size = map(float, speed.split())
    if size > 1e6:
        print(f"  {size / 1e6:.1f} MB: Hugging Face {size / theirs / 1e6:.2f} MB/s, crucible from Lua "
              f"{size / seconds / 1e6:.2f} MB/s")


def check_pieces(tally, records, library):
    for name in NAMES:
        expected = [piece_lengths(name, record.decode()) for record in records]
        tally.add(f"pieces of {name}", records, expected, library.split(name, records))


def check(folder, gguf, build):
    reference, library, tally = Reference(gguf, "smollm"), Library(build, gguf), Tally()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".jsonl", ".txt"):
            for kind, records in data_records(path):
                check_ids(tally, f"{path.relative_to(folder)} {kind}", records, reference, library)
    stress = [join_parts(parts).encode() for _, parts in TEXTS] + [data for _, data in BYTES]
    check_ids(tally, "stress texts", stress, reference, library)
    mixtures = list(random_records(100000, reference.specials))
    check_ids(tally, "random mixtures", mixtures, reference, library)
    points = list(every_code_point())
    check_ids(tally, "every code point", points, reference, library)
    check_pieces(tally, points + mixtures, library)
    print(f"all: {tally.records:,} records, {tally.tokens:,} values, {tally.bad} differ, {tally.lost} not given back")
    return tally.bad == 0 and tally.lost == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gguf", required=True, type=Path)
    parser.add_argument("--check", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "debug")
    options = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}")
    if options.check:
        sys.exit(0 if check(options.check, options.gguf, options.build) else 1)
    write_fixtures(Reference(options.gguf, "smollm"))


if __name__ == "__main__":
    main()
