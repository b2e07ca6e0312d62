"""The Python half of bench_tokenize: one turn of Hugging Face tokenizers over the texts of a file.

Prints lines of name, tab, elapsed seconds, tab, processor seconds of all threads: of encode_batch_fast, and of the
same with the ids taken out; the second of two passes, so that its cache of words is full. Then a digest of all ids.
"""
import hashlib
import struct
import sys
import time

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers


def open_tokenizer(path):
    fields = GGUFReader(path).fields

    def values(key):
        field = fields["tokenizer.ggml." + key]
        return [field.parts[i] for i in field.data]

    tokens = [bytes(value).decode() for value in values("tokens")]
    kinds = [int(value[0]) for value in values("token_type")]
    merges = [tuple(bytes(value).decode().split(" ")) for value in values("merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in zip(tokens, kinds) if kind == 3])
    tokenizer.encode_special_tokens = True
    return tokenizer


def read_texts(path):
    data, texts, at = open(path, "rb").read(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts


def main():
    tokenizer, texts = open_tokenizer(sys.argv[1]), read_texts(sys.argv[2])
    tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    started, busy = time.perf_counter(), time.process_time()
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    encoded, encoded_busy = time.perf_counter(), time.process_time()
    ids = [encoding.ids for encoding in encodings]
    taken, taken_busy = time.perf_counter(), time.process_time()
    print("tokenizers: encodings\t%.6f\t%.6f" % (encoded - started, encoded_busy - busy))
    print("tokenizers: ids in hand\t%.6f\t%.6f" % (taken - started, taken_busy - busy))
    digest = hashlib.sha256("".join(" ".join(map(str, row)) + "\n" for row in ids).encode())
    print("digest\t" + digest.hexdigest())


main()
