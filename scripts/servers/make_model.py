"""A tiny random Llama for the servers of scripts/tinker_server, as a folder of the Hugging Face hub's form.

    python make_model.py FOLDER

Two layers, 64 wide, 512 tokens, float32, 0.6 MB; the tokenizer is one symbol a byte.
"""
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 512


def make_model(folder):
    torch.manual_seed(7)
    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0)
    LlamaForCausalLM(shape).to(torch.float32).save_pretrained(folder)


def make_tokenizer(folder):
    names = ["<pad>", "<s>", "</s>"] + sorted(pre_tokenizers.ByteLevel.alphabet())
    names += [f"<unused{number}>" for number in range(VOCABULARY - len(names))]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                            pad_token="<pad>").save_pretrained(folder)


if __name__ == "__main__":
    make_model(sys.argv[1])
    make_tokenizer(sys.argv[1])
