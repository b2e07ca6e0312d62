#!/usr/bin/env python3
"""Writes spec/fixtures/encoder/, or compares the built library with transformers on a real model.

    python scripts/make_encoder_fixtures.py
    python scripts/make_encoder_fixtures.py --check FOLDER [--build build/release]

needs torch and transformers; nothing of it is needed to run the specs. The fixtures are two small models
with random weights (a BERT and a RoBERTa, both with a classifier of three labels) in the folders that
transformers writes, and golden.json: ids, vectors and logits of theirs, and of all-MiniLM-L6-v2 when it
lies in the cache. The check prints the largest difference of the vectors of FOLDER's model, and how many
texts have other ids (characters of Unicode versions that Hugging Face's tables lack).
"""
import argparse
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertConfig,
                          BertForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig,
                          RobertaForSequenceClassification)

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "spec" / "fixtures" / "encoder"
LABELS = ["contradiction", "entailment", "neutral"]

TEXTS = [
    "The drug lowers blood pressure in adults.",
    "Blood pressure falls when adults take the drug.",
    "It doesn't work: 12.5% of the cells died!",
    "Ünïcödé — naïve café, 你好 wörld",
    "",
    " two  spaces\tand\na newline ",
    "a " * 60,
    "Straße ΣΊΣΥΦΟΣ İstanbul \u200b \u00a0 $x^2$",
]
PAIRS = [
    ["The drug lowers blood pressure in adults.", "Blood pressure falls."],
    ["The cells died.", "The cells live."],
    ["adults " * 40, "cells " * 3],
    ["cells " * 3, "adults " * 40],
    ["adults " * 40, "cells " * 40],
    ["", "nothing before"],
]
CORPUS = TEXTS[:3] * 4 + ["cells adults drug blood pressure lowers falls take work died live nothing before"] * 4


def fast(tokenizer, **roles):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=40, **roles)


def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", t.token_to_id("[CLS]")), ("[SEP]", t.token_to_id("[SEP]"))])
    return fast(t, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]")


def byte_bpe():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return fast(t, unk_token="<unk>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", mask_token="<mask>",
                bos_token="<s>", eos_token="</s>")


SHAPE = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
             id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)})


def save(folder, tokenizer, model):
    """Larger weights than training starts with, so that every part shows in the result; stored as F16."""
    torch.manual_seed(len(tokenizer))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p + 0.2 * torch.randn_like(p)).half().float())
    model.eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            path.unlink()
    return model.float()


def ids_of(tokenizer, text, most):
    texts = text if isinstance(text, list) else [text]
    return tokenizer(*texts, truncation="longest_first", max_length=most)["input_ids"]


def vectors(tokenizer, model, texts, most):
    out = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(0)
        out.append((mean / mean.norm()).tolist())
    return out


def logits(tokenizer, model, pairs, most):
    out = []
    for pair in pairs:
        inputs = tokenizer(*pair, truncation="longest_first", max_length=most, return_tensors="pt",
                           return_token_type_ids=True)
        with torch.no_grad():
            out.append(model(**inputs).logits[0].tolist())
    return out


def rounded(rows):
    return [[round(x, 6) for x in row] for row in rows]


def golden(folder, body, most):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    return {
        "ids": [ids_of(tokenizer, t, most) for t in TEXTS], "pair_ids": [ids_of(tokenizer, p, most) for p in PAIRS],
        "vectors": rounded(vectors(tokenizer, getattr(model, body), TEXTS, most)),
        "logits": rounded(logits(tokenizer, model, PAIRS, most)),
    }


def minilm_golden():
    folder = Path.home() / ".cache" / "crucible" / "models" / "all-minilm-l6-v2"
    if not folder.exists():
        return json.loads((FIXTURES / "golden.json").read_text())["minilm"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    return {"ids": [ids_of(tokenizer, t, 256) for t in TEXTS],
            "vectors": rounded([v[:48] for v in vectors(tokenizer, model, TEXTS, 256)])}


def make():
    result = {"texts": TEXTS, "pairs": PAIRS, "labels": LABELS}
    bert, roberta = FIXTURES / "bert", FIXTURES / "roberta"
    tokenizer = wordpiece()
    save(bert, tokenizer, BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0, **SHAPE)))
    (bert / "vocab.txt").write_text("".join(
        token + "\n" for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])))
    result["bert"] = golden(bert, "bert", 40)
    tokenizer = byte_bpe()
    save(roberta, tokenizer, RobertaForSequenceClassification(
        RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=42, type_vocab_size=1, pad_token_id=1,
                      hidden_act="gelu_new", **SHAPE)))
    result["roberta"] = golden(roberta, "roberta", 40)
    result["minilm"] = minilm_golden()
    (FIXTURES / "golden.json").write_text(json.dumps(result, ensure_ascii=True) + "\n")


# ---- the check ---------------------------------------------------------------------------------

PROBE = """
local crucible, json = require "crucible", require "crucible.json"
local encoder = assert(crucible.encoder(arg[1]))
local texts = json.decode(io.open(arg[2]):read "a")
local ids = {}
for i, text in ipairs(texts) do ids[i] = encoder:tokens(text) end
print(json.encode { ids = ids, vectors = assert(encoder:embed(texts)) })
"""


def random_texts(count):
    ranges = [(32, 126), (32, 126), (0xA0, 0x24F), (0x250, 0x2FFF), (0x3000, 0xD7FF), (0xF900, 0xFFEF), (0x10000, 0x1FFFF)]
    rng = random.Random(1)
    return ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def check(folder, build):
    texts = TEXTS + random_texts(400)
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "texts.json").write_text(json.dumps(texts))
        (Path(temporary) / "probe.lua").write_text(PROBE)
        env = dict(os.environ, LUA_PATH="lua/?.lua;lua/?/init.lua;;", LUA_CPATH=f"{build}/lua5.4/?.so;;")
        ours = json.loads(subprocess.run(
            ["lua5.4", f"{temporary}/probe.lua", folder, f"{temporary}/texts.json"], cwd=ROOT, env=env, check=True,
            capture_output=True, text=True).stdout)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    most = max(len(ids) for ids in ours["ids"])
    same = [i for i, t in enumerate(texts) if ids_of(tokenizer, t, most) == ours["ids"][i]]
    theirs = vectors(tokenizer, model, [texts[i] for i in same], most)
    worst = max(abs(a - b) for i, row in zip(same, theirs) for a, b in zip(ours["vectors"][i], row))
    print(f"{len(texts)} texts: {len(texts) - len(same)} with other ids; vectors differ by at most {worst:.2e}")
    return worst < 1e-4 and len(same) > 0.97 * len(texts)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--check", metavar="FOLDER")
    arguments.add_argument("--build", default="build/release")
    given = arguments.parse_args()
    if given.check:
        raise SystemExit(0 if check(given.check, given.build) else 1)
    FIXTURES.mkdir(parents=True, exist_ok=True)
    make()


if __name__ == "__main__":
    main()
