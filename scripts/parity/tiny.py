"""Two small random Llama models as GGUF files, laid out as llama.cpp's converter lays them out.

The weights have the scale of trained ones (attention that prefers some tokens, logits some nats
apart), so that a mistake anywhere shows in the outputs. Seeded: the same bytes on every run.
"""
from dataclasses import dataclass, field

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, TokenType, quants

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
                 " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
                 "{{ '<|im_start|>assistant\n' }}{% endif %}")


@dataclass
class Shape:
    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    merges: int
    rope_base: float
    tied: bool
    seed: int
    context: int = 512
    epsilon: float = 1e-5
    types: dict = field(default_factory=dict)  # tensor name -> type of each layer in turn

    def type_of(self, tensor, layer=0):
        cycle = self.types.get(tensor, [Type.F16])
        return cycle[layer % len(cycle)]


# Every type the reader knows occurs, and every projection sees three of them.
MIXED = Shape("tiny", width=64, layers=3, heads=4, kv_heads=2, head=16, ffn=96, merges=61,
              rope_base=10000.0, tied=True, seed=5, types={
                  "token_embd": [Type.Q8_0],
                  "attn_q": [Type.Q4_1, Type.F16, Type.Q8_0],
                  "attn_k": [Type.Q8_0, Type.BF16, Type.Q4_0],
                  "attn_v": [Type.F16, Type.Q4_0, Type.F32],
                  "attn_output": [Type.Q4_0, Type.Q8_0, Type.BF16],
                  "ffn_gate": [Type.Q4_1, Type.F32, Type.Q4_0],
                  "ffn_up": [Type.BF16, Type.Q4_1, Type.Q8_0],
                  "ffn_down": [Type.Q8_0, Type.Q4_0, Type.F16],
              })
# Sizes that no vector length divides, one key head for all, a head of its own.
UNTIED = Shape("tiny_untied", width=42, layers=2, heads=3, kv_heads=1, head=14, ffn=53, merges=10,
               rope_base=50000.0, tied=False, seed=5)


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def merges_of(path, count):
    """The first merges of a real vocabulary: closed under their own parts by construction."""
    merges = GGUFReader(path).fields["tokenizer.ggml.merges"]
    return [merges.contents(i) for i in range(count)]


def vocabulary(merges):
    alphabet = byte_alphabet()
    return SPECIALS + [alphabet[b] for b in range(256)] + ["".join(m.split(" ")) for m in merges]


def interleave(weight, heads):
    """Hugging Face's half-split rotary rows to the interleaved ones of GGUF."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def matrices(shape):
    """Yields (name, rows of each tensor in Hugging Face order, layer)."""
    rng = np.random.default_rng(shape.seed)

    def draw(rows, columns, gain):
        return (rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    d, q, kv = shape.width, shape.heads * shape.head, shape.kv_heads * shape.head
    vocabulary_size = len(SPECIALS) + 256 + shape.merges
    yield "token_embd", draw(vocabulary_size, d, 0.3 * np.sqrt(d)), 0
    if not shape.tied:
        yield "output", draw(vocabulary_size, d, 2.5), 0
    for layer in range(shape.layers):
        yield "attn_q", draw(q, d, 1.3), layer
        yield "attn_k", draw(kv, d, 1.3), layer
        yield "attn_v", draw(kv, d, 1.0), layer
        yield "attn_output", draw(d, q, 1.0), layer
        yield "ffn_gate", draw(shape.ffn, d, 1.3), layer
        yield "ffn_up", draw(shape.ffn, d, 1.3), layer
        yield "ffn_down", draw(d, shape.ffn, 1.2), layer
    for name in ["attn_norm", "ffn_norm"]:
        for layer in range(shape.layers):
            yield name, (1.0 + 0.2 * rng.standard_normal(d)).astype(np.float32), layer
    yield "output_norm", (1.0 + 0.2 * rng.standard_normal(d)).astype(np.float32), 0


def add_keys(writer, shape, merges):
    tokens = vocabulary(merges)
    writer.add_name(shape.name.replace("_", " "))
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(shape.head)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(False)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIALS)
                           + [TokenType.NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_quantization_version(2)


def add_tensor(writer, shape, name, values, layer):
    per_layer = name.startswith(("attn_", "ffn_"))
    full = (f"blk.{layer}." if per_layer else "") + name + ".weight"
    if values.ndim == 1:
        writer.add_tensor(full, values)
        return
    if name in ("attn_q", "attn_k"):
        values = interleave(values, shape.heads if name == "attn_q" else shape.kv_heads)
    kind = shape.type_of(name, layer)
    if kind in (Type.F32, Type.F16):
        writer.add_tensor(full, values.astype(np.float16 if kind == Type.F16 else np.float32))
    else:
        writer.add_tensor(full, quants.quantize(values, kind), raw_dtype=kind)


def write(path, shape, merges_from):
    writer = GGUFWriter(path, "llama")
    add_keys(writer, shape, merges_of(merges_from, shape.merges))
    for name, values, layer in matrices(shape):
        add_tensor(writer, shape, name, values, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
