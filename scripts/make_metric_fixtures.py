#!/usr/bin/env python3
"""Writes spec/fixtures/metrics.json: random and degenerate predictions and what others measure of them.

    python scripts/make_metric_fixtures.py

Needs scikit-learn, sacrebleu, rouge-score and NumPy. SQuAD's and GSM8K's own scripts are no packages:
their rules, as published, stand below.
"""
import collections
import json
import math
import random
import re
import string
import warnings
from pathlib import Path

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer
from sklearn import metrics as sk

TARGET = Path(__file__).parent.parent / "spec/fixtures/metrics.json"
warnings.filterwarnings("ignore")


# ---- labels -------------------------------------------------------------------------------------

def scores_of(expected, predicted, labels):
    found = {"accuracy": sk.accuracy_score(expected, predicted)}
    for kind in ("macro", "micro", "weighted"):
        p, r, f, _ = sk.precision_recall_fscore_support(expected, predicted, labels=labels, average=kind,
                                                        zero_division=0)
        found.update({f"precision_{kind}": p, f"recall_{kind}": r, f"f1_{kind}": f})
    p, r, f, s = sk.precision_recall_fscore_support(expected, predicted, labels=labels, average=None,
                                                    zero_division=0)
    classes = [{"label": label, "precision": p[i], "recall": r[i], "f1": f[i], "support": int(s[i])}
               for i, label in enumerate(labels)]
    known = [label for label in labels if label in set(expected)]
    confusion = sk.confusion_matrix(expected, predicted, labels=labels).tolist() if known else None
    return {"metrics": found, "classes": classes, "confusion": confusion}


def label_case(name, expected, predicted, labels=None):
    labels = labels or sorted(set(expected))
    return {"name": name, "expected": expected, "predicted": predicted, "labels": labels,
            **scores_of(expected, predicted, labels)}


def label_cases(draw):
    for classes in (2, 3, 7):
        names = [f"label {c}" for c in range(classes)]
        for rows in (5, 60):
            expected = [draw.choice(names) for _ in range(rows)]
            predicted = [draw.choice(names) if draw.random() < 0.6 else e for e in expected]
            yield label_case(f"{rows} rows of {classes} classes", expected, predicted)
    skewed = draw.choices("ab", (9, 1), k=40)
    yield label_case("a rare class that nobody predicts", skewed, ["a"] * 40, ["a", "b"])
    yield label_case("one class", ["a"] * 6, ["a"] * 6)
    yield label_case("one class, all wrong", ["a"] * 4, ["b"] * 4)
    yield label_case("one row", ["a"], ["b"], ["a", "b"])
    yield label_case("no predictions", ["a", "b", "a"], ["", "", ""])
    yield label_case("predictions that are no label", ["a", "b", "a", "b"], ["a", "?", "b", "maybe"])
    yield label_case("labels that nobody expects", ["a", "b"], ["c", "b"], ["a", "b", "c", "d"])
    yield label_case("expected values that are no label", ["a", "x", "b", "x"], ["a", "a", "b", "x"], ["a", "b"])
    yield label_case("Unicode", ["é", "e\u0301", "ß", "日本", "é"], ["é", "é", "ss", "日本", "e\u0301"])


# ---- texts --------------------------------------------------------------------------------------

def normalize_answer(text):
    """SQuAD 1.1's evaluation."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(expected, predicted):
    right, found = normalize_answer(expected).split(), normalize_answer(predicted).split()
    common = sum((collections.Counter(right) & collections.Counter(found)).values())
    if not right or not found:
        return float(right == found)
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(right)
    return 2 * precision * recall / (precision + recall)


def extract_answer(completion):
    """GSM8K's dataset.py."""
    match = re.compile(r"#### (\-?[0-9\.\,]+)").search(completion)
    return match.group(1).strip().replace(",", "") if match else "[invalid]"


def gsm8k_strict(expected, predicted):
    right = extract_answer(expected)
    return float(right != "[invalid]" and right == extract_answer(predicted))


WORDS = ("the a an cell protein cells p53 10,000 3.5 U.S. in-vitro don't it's B-cell über naïve ÉTÉ Straße — … "
         "“quoted” (see) 50% $5 &amp; x-y 1-2 end. Ångström İstanbul \u212Aelvin 日本語 ｆｕｌｌ a\u00a0b").split(" ")


def text_pairs(draw):
    for length in (1, 3, 8, 25):
        for _ in range(3):
            expected = [draw.choice(WORDS) for _ in range(length)]
            predicted = [w if draw.random() < 0.7 else draw.choice(WORDS) for w in expected]
            if draw.random() < 0.5:
                draw.shuffle(predicted)
            yield " ".join(expected), " ".join(predicted[: draw.randint(1, length)])
    yield from [("", ""), ("a", ""), ("", "a"), ("the", "a"), ("same", "same"), (" same ", "same\n"), ("A.", "a"),
                ("x y x y", "x x x x"), ("2 < 3 &lt; 4", "2 < 3"), ("one-\ntwo", "one two"), ("\u3000wide\u2003", "wide"),
                ("the—cat", "cat the"), ("a\u0301 b", "b"), ("1,000.5", "1000.5"), ("tab\tand\x1cmark", "tab and mark"),
                ("long " * 30, "long " * 29 + "short")]


def text_case(expected, predicted, scorer):
    rouge = scorer.score(expected, predicted)
    return {"expected": expected, "predicted": predicted, "exact_match": float(expected.strip() == predicted.strip()),
            "contains": float(expected.strip() in predicted), "token_f1": token_f1(expected, predicted),
            **{f"rouge_{k[5:].lower()}": rouge[k].fmeasure for k in ("rouge1", "rouge2", "rougeL")},
            "bleu": sacrebleu.corpus_bleu([predicted], [[expected]]).score}


def corpora(draw, pairs):
    yield pairs
    yield draw.sample(pairs, 6)
    yield [("a b c d e", "f g h i j")]
    yield [("a b c d e", "a b c d e")]
    yield [("a b c d e f", "a x b y c z")]
    yield [("a", "")]
    yield [("some words of text here", "some"), ("and more of them", "")]


# ---- numbers ------------------------------------------------------------------------------------

NUMBERS = [
    ("so 48/2=24 clips\n#### 72", "#### 72", 1), ("#### 72", "the answer is 72.", 1), ("#### 1,000", "#### 1000", 1),
    ("#### 72", "72 apples and 3 pears", 0), ("#### -5", "#### -5", 1), ("#### -5", "it is -5", 1),
    ("#### 5", "8-3 = 5", 1), ("#### 3", "8-3", 1), ("#### 2.50", "$2.5", 1), ("#### 2.50", "#### $2.50", 1),
    ("#### 72", "", 0), ("#### 72", "no number", 0), ("#### 72", "#### 72 #### 73", 1), ("#### 72", "#### none, 72", 1),
    ("#### 10,000", "10,000.", 1), ("#### 7", "####7", 1), ("#### 0", "#### 0.0", 1),
]


# ---- probabilities ------------------------------------------------------------------------------

def calibration_error(confidence, correct, bins=10):
    """Guo et al. 2017, eq. 3, over (0, 0.1], (0.1, 0.2] ..."""
    edges, error = np.linspace(0, 1, bins + 1), 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


def calibration_cases(draw):
    for rows, labels in ((1, 2), (7, 2), (200, 3)):
        scores = np.array([[draw.gauss(-8, 2) for _ in range(labels)] for _ in range(rows)])
        shares = np.exp(scores - scores.max(1, keepdims=True))
        confidence = shares.max(1) / shares.sum(1)
        correct = np.array([float(draw.random() < c) for c in confidence])
        yield {"scores": scores.tolist(), "correct": [bool(c) for c in correct],
               "calibration_error": calibration_error(confidence, correct)}


# ---- the file -----------------------------------------------------------------------------------

def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.15g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return value


def main():
    draw = random.Random(0)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    pairs = list(text_pairs(draw))
    found = {
        "labels": list(label_cases(draw)),
        "texts": [text_case(e, p, scorer) for e, p in pairs],
        "corpora": [{"pairs": c, "bleu": sacrebleu.corpus_bleu([p for _, p in c], [[e for e, _ in c]]).score}
                    for c in corpora(draw, pairs)],
        "numbers": [{"expected": e, "predicted": p, "gsm8k": n, "gsm8k_strict": gsm8k_strict(e, p)}
                    for e, p, n in NUMBERS],
        "calibration": list(calibration_cases(draw)),
        "versions": {"sacrebleu": sacrebleu.__version__},
    }
    assert all(math.isfinite(c["bleu"]) for c in found["corpora"])
    TARGET.write_text(json.dumps(rounded(found), ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n")
    print(TARGET, TARGET.stat().st_size, "bytes")


main()
