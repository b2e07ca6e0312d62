"""Writes the fixtures of chat templates, or compares crucible with transformers on others.

  make_template_fixtures.py                        writes spec/fixtures/chat/
  make_template_fixtures.py --check FOLDER...      the templates of Hugging Face folders on the same conversations
  make_template_fixtures.py --random N [--seed S]  N templates made at random from the grammar

What a template gives is what transformers renders (jinja2 in its immutable sandbox). The comparisons run crucible from
--build (default build/release) and end with status 1 where anything differs. Needs transformers.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from transformers.utils.chat_template_utils import _compile_jinja_template

from templates import families, grammar, language

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "spec" / "fixtures" / "chat"
DAY = "26 Jul 2024"


def compiled(source):
    template = _compile_jinja_template(source)
    template.globals["strftime_now"] = lambda form: DAY if form == "%d %b %Y" else "?"
    return template


def rendered(source, given):
    """{"text"} or {"error"}: what the template gives, or that it refuses."""
    try:
        text = compiled(source).render(**copy.deepcopy(given))  # some filters write to lists
        text.encode()
    except Exception as error:  # jinja2 lets anything through that the template's code raises
        return {"error": type(error).__name__ + ": " + str(error)}
    return {"text": text}


def conversation(messages, opens, tokens, more=None):
    return {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": opens, **tokens, **(more or {})}


def family_rows():
    for name, source in families.FAMILIES.items():
        rows = []
        for messages in families.CONVERSATIONS:
            closed = rendered(source, conversation(messages, False, families.TOKENS))
            opened = rendered(source, conversation(messages, True, families.TOKENS))
            if "error" in closed:
                rows.append(None)
                assert "error" in opened
                continue
            row = [closed["text"]]
            row.append(opened["text"][len(row[0]):] if opened["text"].startswith(row[0]) else {"whole": opened["text"]})
            rows.append(row)
        yield {"name": name, "source": source, "rows": rows}


def write_rows(path, head, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    path.write_text(head + "[\n" + lines + "\n]}\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(rows)} rows, {path.stat().st_size:,} bytes")


def write_fixtures():
    FIXTURES.mkdir(parents=True, exist_ok=True)
    head = {"tokens": families.TOKENS, "conversations": families.CONVERSATIONS}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))[:-1] + ',\n"families":'
    write_rows(FIXTURES / "families.json", text, list(family_rows()))
    rows = []
    for source in language.cases():
        result = rendered(source, language.GIVEN)
        rows.append([source, result["text"]] if "text" in result else [source])
    text = '{"given":' + json.dumps(language.GIVEN, ensure_ascii=False, separators=(",", ":")) + ',\n"cases":'
    write_rows(FIXTURES / "language.json", text, rows)


# Reads {"source", "given"} lines and writes [text] or [false, message, code] ones.
DRIVER = """
local cjson = require "cjson"
local jinja = require "crucible.jinja"
local json = require "crucible.json"
for line in io.lines(arg[1]) do
  local row = json.decode(line)
  local template, message, code = jinja.compile(row.source)
  local text
  if template then text, message, code = template:render(row.given) end
  print(cjson.encode(text and { text } or { false, message, code }))
end
"""


def run_crucible(build, rows):
    path = Path(build) / "template_rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    environment = dict(os.environ, LUA_PATH=f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;;",
                       LUA_CPATH=f"{build}/lua5.4/?.so;;")
    done = subprocess.run(["lua5.4", "-", str(path)], input=DRIVER, env=environment, text=True, capture_output=True)
    path.unlink()
    if done.returncode:
        raise SystemExit(done.stderr)
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def compare(title, build, rows):
    """Renderings that differ; where Jinja refuses, crucible must refuse, and what crucible lacks is counted apart."""
    bad = refused = lacking = 0
    for row, ours in zip(rows, run_crucible(build, rows), strict=True):
        theirs = rendered(row["source"], row["given"])
        if ours[0] is False and ours[2] == "unsupported":
            lacking += 1
        elif "error" in theirs:
            refused += 1
            if ours[0] is not False:
                bad += 1
                print("jinja refuses:", row["source"][:300], theirs, ours)
        elif ours != [theirs["text"]]:
            bad += 1
            print("differs:", row["source"][:300], "\n  jinja   ", repr(theirs["text"][:300]), "\n  crucible", repr(ours)[:300])
    print(f"{title}: {len(rows)} renderings, {refused} refused by both, {lacking} not supported, {bad} differ")
    return bad == 0


def text_of_token(value):
    return value["content"] if isinstance(value, dict) else value


def template_of(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if isinstance(source, list):
        source = next(entry["template"] for entry in source if entry["name"] == "default")
    tokens = {name: text_of_token(config[name]) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
              if config.get(name) is not None}
    return source, tokens


def check_folder(folder, build):
    source, tokens = template_of(folder)
    if source is None:
        print(f"{folder.name}: no template")
        return True
    rows = [{"source": source, "given": conversation(messages, opens, tokens, more)}
            for messages in families.CONVERSATIONS for opens in (False, True) for more in ({}, {"enable_thinking": False})]
    return compare(folder.name, build, rows)


def check_random(count, seed, build):
    maker = grammar.Maker(random.Random(seed))
    rows = [{"source": maker.template(), "given": language.GIVEN} for _ in range(count)]
    return compare(f"random templates of seed {seed}", build, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--random", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    options = parser.parse_args()
    good = True
    for folder in options.check or []:
        good = check_folder(folder, options.build) and good
    if options.random:
        good = check_random(options.random, options.seed, options.build) and good
    if not options.check and not options.random:
        write_fixtures()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
